"""ROUGE of summaries: the mean over documents of each type's F-measure.

Knows the counts that `rouge` gives for a document. Must not know texts.
"""

from __future__ import annotations

from collections.abc import Iterable

from evaluation import bootstrap
from evaluation.figures import NO_INTERVAL, Figures, Metric
from evaluation.partials import UNIT, Partial, Statistics, whole
from evaluation.rouge import TYPES, f_measure


def f_measures(statistics: Statistics) -> list[float]:
    """A document's F-measure (0 to 1) of each type, from its counts `r`."""
    counts = statistics["r"]
    return [f_measure(counts[start : start + 3]) for start in range(0, len(counts), 3)]


def partial(statistics: Iterable[Statistics]) -> Partial:
    """`rouge`: how many documents have it, then each type's sum of F-measures in units."""
    rows = [[1, *map(whole, f_measures(item))] for item in statistics if "r" in item]
    return {"rouge": [sum(column) for column in zip(*rows, strict=True)]} if rows else {}


def metrics(merged: Partial, statistics: Iterable[Statistics] | None, figures: Figures) -> list[Metric]:
    """The mean F-measures, 0 to 100, with intervals where the documents' statistics are given."""
    if "rouge" not in merged:
        return []
    n, *sums = merged["rouge"]
    intervals = [NO_INTERVAL] * len(TYPES)
    if statistics is not None:
        rows = bootstrap.collected(([1, *f_measures(item)] for item in statistics if "r" in item), 1 + len(TYPES))
        if len(rows) > 1:
            resampled = bootstrap.resampled(rows)
            means = 100 * resampled[:, 1:] / resampled[:, :1]
            intervals = [bootstrap.interval(column) for column in means.T]
    values = [100 * total / (n * UNIT) for total in sums]
    return [figures.metric(*figure[:2], n, figure[2]) for figure in zip(TYPES, values, intervals, strict=True)]
