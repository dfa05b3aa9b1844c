"""Metrics of single-label classification, from the merged confusion matrix.

Knows the matrix as a partial keeps it. Must not know documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from evaluation import bootstrap, confusion
from evaluation.figures import ConfusionMatrix, Figures, Interval, Metric
from evaluation.partials import Partial, Statistics, bounded

#: With more labels there are no figures by label and no matrix: they would be a document of their own.
MOST_LABELS = 1_000
#: With more pairs of labels there are no intervals: drawing 20,000 pairs a thousand times takes about a second.
MOST_RESAMPLED_PAIRS = 20_000


def partial(statistics: Iterable[Statistics]) -> Partial:
    """`cells`: {reference: {predicted: documents}}; `scored` documents with a reference, `hits` the correct ones."""
    cells: dict[str, dict[str, int]] = {}
    scored = hits = 0
    for item in statistics:
        if "t" in item:
            row = cells.setdefault(item["t"], {})
            row[item["p"]] = row.get(item["p"], 0) + 1
            scored += 1
            hits += item["t"] == item["p"]
    return bounded({"cells": cells, "scored": scored, "hits": hits}) if scored else {}


def metrics(merged: Partial, figures: Figures) -> tuple[list[Metric], ConfusionMatrix | None]:
    """The metrics, with intervals, and the matrix. Where the table of pairs has outgrown its bound: accuracy alone."""
    n = merged["scored"]
    if merged["cells"] is None:
        accuracy = merged["hits"] / n
        return [figures.metric(name, accuracy, n) for name in ("accuracy", "f1_micro")], None
    labels, pairs = _pairs(merged["cells"])
    few = len(labels) <= MOST_LABELS
    values = _overall(pairs) | (_by_label(labels, pairs) if few else {})
    found = list(figures.metrics(values, n, _intervals(labels, pairs)))
    return found, _matrix(labels, pairs) if few else None


def _pairs(cells: Mapping[str, Mapping[str, int]]) -> tuple[list[str], confusion.Sparse]:
    labels = sorted({label for true, row in cells.items() for label in (true, *row)})
    number = {label: index for index, label in enumerate(labels)}
    entries = sorted(
        (number[true], number[label], count) for true, row in cells.items() for label, count in row.items()
    )
    rows, columns, counts = np.array(entries, np.int64).T
    return labels, confusion.Sparse(rows, columns, counts, len(labels))


def _overall(pairs: confusion.Sparse) -> dict[str, float]:
    """scikit-learn's figures, each pair of labels entering once with its count as weight."""
    from sklearn.metrics import accuracy_score, matthews_corrcoef, precision_recall_fscore_support

    given = {"y_true": pairs.rows, "y_pred": pairs.columns, "sample_weight": pairs.counts}
    macro, micro, weighted = (
        precision_recall_fscore_support(**given, average=average, zero_division=0)[:3]
        for average in ("macro", "micro", "weighted")
    )
    if 1 < pairs.size <= MOST_LABELS:
        mcc = matthews_corrcoef(**given)
    else:  # scikit-learn warns of a single label, and its matrix of thousands of labels would be gigabytes
        mcc = confusion.scores(pairs, pairs.counts[None].astype(np.float64)).overall[0, -1]
    values = (accuracy_score(**given), *macro, micro[2], weighted[2], mcc)
    return {name: float(value) for name, value in zip(confusion.OVERALL, values, strict=True)}


def _by_label(labels: list[str], pairs: confusion.Sparse) -> dict[str, float]:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        pairs.rows, pairs.columns, sample_weight=pairs.counts, labels=range(pairs.size), average=None, zero_division=0
    )
    out: dict[str, float] = {}
    for index, label in enumerate(labels):
        *scores, support = (column[index] for column in columns)
        out |= {f"{name}/{label}": float(score) for name, score in zip(confusion.BY_LABEL, scores, strict=True)}
        out[f"support/{label}"] = int(support)
    return out


def _intervals(labels: list[str], pairs: confusion.Sparse) -> dict[str, Interval]:
    if len(pairs.counts) > MOST_RESAMPLED_PAIRS or pairs.counts.sum() < 2:
        return {}
    few = len(labels) <= MOST_LABELS
    drawn = confusion.resampled(pairs, by_label=few)
    columns: list[tuple[str, Any]] = list(zip(confusion.OVERALL, drawn.overall.T, strict=True))
    for name, scores in drawn.by_label.items():
        columns += [(f"{name}/{label}", column) for label, column in zip(labels, scores.T, strict=True)]
    return {name: bootstrap.interval(column) for name, column in columns}


def _matrix(labels: list[str], pairs: confusion.Sparse) -> ConfusionMatrix:
    counts = np.zeros((pairs.size, pairs.size), np.int64)
    counts[pairs.rows, pairs.columns] = pairs.counts
    return ConfusionMatrix(labels=tuple(labels), counts=tuple(map(tuple, counts.tolist())))
