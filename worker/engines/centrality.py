"""Which sentences stand for a document: those nearest to what all of it says, early ones first, without repetition.

Knows vectors and arithmetic. Must not know models, tokens or texts.

Centrality is the degree of LexRank without a threshold (Erkan and Radev 2004, doi:10.1613/jair.1523): a sentence's
similarity to all others, here weighted by the others' positions. It needs no matrix of sentences by sentences, so that
memory grows with their number and not with its square. Repetition is kept out by maximal marginal relevance (Carbonell
and Goldstein 1998, doi:10.1145/290941.291025).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]

#: Share of a sentence's position in its score; the rest is centrality. Like `_RELEVANCE` and the twelve sentences it was
#: chosen on the training parts of SciTLDR (one sentence of an abstract) and ACLSum (three sentences of a paper).
_POSITION = 0.7
#: After so many sentences, or in a long document after this part of it, a position counts half.
_HALF_SENTENCES, _HALF_PART = 12.0, 1 / 4
#: Share of a sentence's own score against its likeness to the sentences chosen before it.
_RELEVANCE = 0.8
#: Sentences that differ by less, as one minus their cosine, are never chosen together; nor by less than this part of the
#: document's mean difference, since some encoders find all sentences alike.
_SAME, _SAME_PART = 0.05, 0.25


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
    """Position and centrality of each sentence together, (sentences,), from 0 to 1."""
    position = 1 / (1 + np.arange(len(vectors)) / max(_HALF_SENTENCES, _HALF_PART * len(vectors)))
    # The similarity of a sentence to itself says nothing.
    centrality = (vectors @ (position @ vectors) - position) / np.maximum(position.sum() - position, 1e-9)
    spread = float(np.ptp(centrality))
    scaled = (centrality - centrality.min()) / spread if spread > 1e-9 else np.zeros(len(vectors))
    weighted: Scores = _POSITION * position + (1 - _POSITION) * scaled
    return weighted


def _mean_difference(vectors: Vectors) -> float:
    """One minus the mean cosine of two different sentences."""
    count = len(vectors)
    whole = float(np.square(vectors.sum(axis=0, dtype=np.float64)).sum())
    return 1 - (whole - count) / max(1, count * (count - 1))
