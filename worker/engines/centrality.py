"""Which sentences stand for a document: those nearest to what all of it says, early ones first, without repetition.

Knows vectors and arithmetic. Must not know models, tokens or texts.

Centrality is the degree of LexRank without a threshold (Erkan and Radev 2004, doi:10.1613/jair.1523): a sentence's mean
similarity to the others. It needs no matrix of sentences by sentences, so that memory grows with their number and not
with its square. Repetition is kept out by maximal marginal relevance (Carbonell and Goldstein 1998,
doi:10.1145/290941.291025).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]

#: Share of a sentence's place in its score; the rest is centrality. This and the next were chosen on the training part
#: of SciTLDR (one sentence of an abstract) and on papers of ACLSum that are not in the demo corpus (three sentences, with
#: and without the abstract in front).
_PLACE = 0.3
#: Share of a sentence's own score against its likeness to the sentences chosen before it.
_RELEVANCE = 0.7
#: Sentences that differ by less, as one minus their cosine, are never chosen together; nor by less than this part of the
#: document's mean difference, since some encoders find all sentences alike.
_SAME, _SAME_PART = 0.15, 0.25


def choose(vectors: Vectors, candidates: npt.NDArray[np.bool_], count: int) -> list[int]:
    """At most `count` of the candidate sentences, in the order of the document.

    `vectors` (sentences, width) have length one and stand in the order of the document; `candidates` (sentences,) says
    which may be chosen.
    """
    scores = salience(vectors)
    likeness = np.zeros(len(vectors))
    repeated = 1 - min(_SAME, _SAME_PART * _mean_difference(vectors)) - 1e-6
    free = candidates.copy()
    chosen: list[int] = []
    while len(chosen) < count and free.any():
        worth = np.where(free, _RELEVANCE * scores - (1 - _RELEVANCE) * likeness, -np.inf)
        best = int(worth.argmax())
        chosen.append(best)
        likeness = np.maximum(likeness, vectors @ vectors[best])
        free &= likeness < repeated
        free[best] = False
    return sorted(chosen)


def salience(vectors: Vectors) -> Scores:
    """Place and centrality of each sentence together, (sentences,), from 0 to 1. Places fall evenly from 1 to 0."""
    count = len(vectors)
    place = 1 - np.arange(count) / max(1, count - 1)
    centrality = vectors @ vectors.sum(axis=0, dtype=np.float64)  # the 1 of each with itself shifts all alike
    spread = float(np.ptp(centrality))
    scaled = (centrality - centrality.min()) / spread if spread > 1e-9 else np.zeros(count)
    weighted: Scores = _PLACE * place + (1 - _PLACE) * scaled
    return weighted


def _mean_difference(vectors: Vectors) -> float:
    """One minus the mean cosine of two different sentences."""
    count = len(vectors)
    whole = float(np.square(vectors.sum(axis=0, dtype=np.float64)).sum())
    return 1 - (whole - count) / max(1, count * (count - 1))
