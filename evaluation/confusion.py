"""The figures that follow from a confusion matrix, for one matrix or for many resamples of it at once.

Knows scikit-learn's definitions, which tests hold it to. Must not know documents or labels' names.

The matrix is sparse: three arrays with one entry for each pair of labels that occurs, its row (the reference's label),
its column (the predicted label) and its count. A document matters to these figures only by its pair, so drawing n
documents with replacement from n is drawing the counts of the pairs from a multinomial distribution with n trials and
their shares as probabilities: the document bootstrap, without the documents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation import bootstrap

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OVERALL = ("accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_micro", "f1_weighted", "mcc")
BY_LABEL = ("precision", "recall", "f1")


@dataclass(frozen=True, slots=True)
class Sparse:
    """The pairs that occur, ordered by row and then by column; labels are numbered from 0 to `size` - 1."""

    rows: Ints
    columns: Ints
    counts: Ints
    size: int

    def sums_by(self, numbers: Ints, weights: Floats) -> Floats:
        """Weights (…, pairs) added up by the number that each pair has in `numbers`: (…, size)."""
        order = np.argsort(numbers, kind="stable")
        present, starts = np.unique(numbers[order], return_index=True)
        sums = np.zeros((*weights.shape[:-1], self.size))
        if len(starts):
            sums[..., present] = np.add.reduceat(weights[..., order], starts, axis=-1)
        return sums


@dataclass(frozen=True, slots=True)
class Scores:
    """`overall`: (matrices, OVERALL); `by_label`: for each of BY_LABEL (matrices, labels)."""

    overall: Floats
    by_label: dict[str, Floats]


def scores(pairs: Sparse, weights: Floats) -> Scores:
    """The figures of matrices whose counts are `weights`: (matrices, pairs), each of the same positive total.

    Quotients without denominator are 0, and macro averages are over the labels that occur in the matrix at all, as in
    scikit-learn (`zero_division=0`, labels found in the data).
    """
    true, predicted = pairs.sums_by(pairs.rows, weights), pairs.sums_by(pairs.columns, weights)
    on_diagonal = pairs.rows == pairs.columns
    hits = np.zeros_like(true)
    hits[:, pairs.rows[on_diagonal]] = weights[:, on_diagonal]
    by_label = {
        "precision": quotient(hits, predicted),
        "recall": quotient(hits, true),
        "f1": quotient(2 * hits, true + predicted),
    }
    present = np.count_nonzero(true + predicted, axis=-1)
    total = weights.sum(axis=-1)
    accuracy = hits.sum(axis=-1) / total
    macro = [by_label[name].sum(axis=-1) / present for name in BY_LABEL]
    weighted = (by_label["f1"] * true).sum(axis=-1) / total
    overall = [accuracy, *macro, accuracy, weighted, _mcc(true, predicted, hits)]
    return Scores(np.stack(overall, axis=-1), by_label)


def resampled(pairs: Sparse, *, by_label: bool) -> Scores:
    """The figures of `bootstrap.RESAMPLES` resamples; those by label only where they are wanted."""
    generator = np.random.default_rng(bootstrap.SEED)
    total = int(pairs.counts.sum())
    shares = pairs.counts / total
    overall, labelled = [], []
    for size in bootstrap.blocks(max(len(pairs.counts), pairs.size)):
        drawn = scores(pairs, generator.multinomial(total, shares, size=size).astype(np.float64))
        overall.append(drawn.overall)
        if by_label:
            labelled.append(drawn.by_label)
    names = BY_LABEL if by_label else ()
    return Scores(
        np.concatenate(overall), {name: np.concatenate([block[name] for block in labelled]) for name in names}
    )


def quotient(numerators: Floats, denominators: Floats) -> Floats:
    """Element by element, and 0 where the denominator is 0."""
    return np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators > 0)


def _mcc(true: Floats, predicted: Floats, hits: Floats) -> Floats:
    """Matthews' correlation coefficient for several classes (Gorodkin, 2004); 0 where one side has a single label."""
    total = true.sum(axis=-1)
    covariance = hits.sum(axis=-1) * total - (true * predicted).sum(axis=-1)
    spread = (total**2 - (true**2).sum(axis=-1)) * (total**2 - (predicted**2).sum(axis=-1))
    return quotient(covariance, np.sqrt(np.maximum(spread, 0)))
