"""Metrics of multi-label classification, as scikit-learn has them on indicator matrices.

Knows sets of labels. Must not know documents. The columns of the indicator matrix are the labels that occur in any
reference or prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation import bootstrap
from evaluation.classification import MOST_LABELS
from evaluation.confusion import quotient
from evaluation.figures import Figures, Interval, Metric
from evaluation.partials import UNIT, Partial, Statistics, bounded, whole

Floats = NDArray[np.float64]

#: True positives, false positives, false negatives of a label that is in both sets, only predicted, only in the
#: reference.
_IN_BOTH, _PREDICTED, _MISSED = [1, 0, 0], [0, 1, 0], [0, 0, 1]


def partial(statistics: Iterable[Statistics]) -> Partial:
    """`by_label`: {label: [true positives, false positives, false negatives]}, and `micro` the same for all labels;
    `scored`: documents with a reference; `hits`: those whose labels are all and only the reference's; `samples`: the
    sum of the documents' F1 in units."""
    by_label: dict[str, list[int]] = {}
    micro, scored, hits, samples = [0, 0, 0], 0, 0, 0
    for item in statistics:
        if "t" in item:
            for label, counts in _counts(item):
                for sums in (by_label.setdefault(label, [0, 0, 0]), micro):
                    sums[:] = [a + b for a, b in zip(sums, counts, strict=True)]
            scored += 1
            hits += item["t"] == item["p"]
            samples += whole(_f1(item))
    found = {"by_label": by_label, "micro": micro, "scored": scored, "hits": hits, "samples": samples}
    return bounded(found) if scored else {}


def _counts(item: Statistics) -> Iterator[tuple[str, list[int]]]:
    true, predicted = set(item["t"]), set(item["p"])
    yield from ((label, _IN_BOTH) for label in true & predicted)
    yield from ((label, _PREDICTED) for label in predicted - true)
    yield from ((label, _MISSED) for label in true - predicted)


def _f1(item: Statistics) -> float:
    """F1 of one document's two sets; 0 where both are empty, as scikit-learn's `zero_division=0` has it."""
    size = len(item["t"]) + len(item["p"])
    return 2 * len(set(item["t"]) & set(item["p"])) / size if size else 0.0


def metrics(merged: Partial, statistics: Iterable[Statistics] | None, figures: Figures) -> list[Metric]:
    """The metrics, with intervals where the documents' statistics are given and the labels are not too many."""
    n, by_label = merged["scored"], merged["by_label"]
    # One row of sums: documents, exact hits, F1 of samples, then three for each label (or three for all of them).
    labels = sorted(by_label) if by_label is not None else []
    counts = [by_label[label] for label in labels] if by_label is not None else [merged["micro"]]
    row = np.array([[n, merged["hits"], merged["samples"] / UNIT, *(value for three in counts for value in three)]])
    names = labels if len(labels) <= MOST_LABELS else []
    values = {name: float(column[0]) for name, column in _figures(row, names, kept=by_label is not None).items()}
    for label in names:
        values[f"support/{label}"] = by_label[label][0] + by_label[label][2]
    intervals = _intervals(statistics, names) if statistics is not None and names else {}
    return list(figures.metrics(values, n, intervals))


def _figures(sums: Floats, labels: Sequence[str], *, kept: bool) -> dict[str, Floats]:
    """Figures of rows of sums: (rows, 3 + 3 × labels). Where labels are not `kept` apart, only those that need them
    not.

    Label by label, so that a thousand resamples of a thousand labels need no further arrays of that size.
    """
    n, width = sums[:, 0], (sums.shape[1] - 3) // 3
    found: dict[str, Floats] = {}
    macro = dict.fromkeys(("precision", "recall", "f1"), np.zeros(len(sums)))
    hits, sizes, weighted, supports = np.zeros((4, len(sums)))
    for index in range(width):
        tp, fp, fn = sums[:, 3 + 3 * index : 6 + 3 * index].T
        scores = {"precision": quotient(tp, tp + fp), "recall": quotient(tp, tp + fn)}
        scores["f1"] = quotient(2 * tp, 2 * tp + fp + fn)
        macro = {name: macro[name] + scores[name] for name in macro}
        hits, sizes = hits + 2 * tp, sizes + 2 * tp + fp + fn
        weighted, supports = weighted + scores["f1"] * (tp + fn), supports + tp + fn
        if labels:
            found |= {f"{name}/{labels[index]}": values for name, values in scores.items()}
    out = {"accuracy": sums[:, 1] / n}
    if kept:
        out |= {f"{name}_macro": values / max(width, 1) for name, values in macro.items()}
    out["f1_micro"] = quotient(hits, sizes)
    if kept:
        out["f1_weighted"] = quotient(weighted, supports)
    return out | {"f1_samples": sums[:, 2] / n} | found


def _intervals(statistics: Iterable[Statistics], labels: Sequence[str]) -> dict[str, Interval]:
    places = {label: 3 + 3 * index for index, label in enumerate(labels)}
    width = 3 + 3 * len(labels)
    rows = bootstrap.collected((_row(item, places, width) for item in statistics if "t" in item), width)
    if len(rows) < 2:
        return {}
    drawn = _figures(bootstrap.resampled(rows), labels, kept=True)
    return {name: bootstrap.interval(values) for name, values in drawn.items()}


def _row(item: Statistics, places: Mapping[str, int], width: int) -> Any:
    row = np.zeros(width)
    row[:3] = 1, item["t"] == item["p"], _f1(item)
    for label, counts in _counts(item):
        place = places[label]
        row[place : place + 3] = counts
    return row
