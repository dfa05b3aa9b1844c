"""From logits to scores, from the scores of segments to those of their text, and from scores to labels in order.

Knows arrays. Must not know documents, models or the device.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from worker.models.rows import Indices, Rows

Scores = npt.NDArray[np.float32]
Activation = Literal["softmax", "sigmoid", "none"]

#: Most labels whose order is found by sorting all of them, which breaks ties by the labels' own order.
_SORTED_LABELS = 512


def activated(logits: torch.Tensor, activation: Activation) -> Scores:
    """Scores (rows, labels) of logits of the same shape."""
    if activation == "softmax":
        logits = torch.softmax(logits, dim=-1)
    elif activation == "sigmoid":
        logits = torch.sigmoid(logits)
    scores: Scores = logits.numpy()
    return scores


def best_labels(scores: Scores, count: int) -> Indices:
    """The labels of the best scores, best first: (rows, `count`, or as many as there are)."""
    count = min(count, scores.shape[1])
    if scores.shape[1] <= _SORTED_LABELS:
        order: Indices = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return order
    best: Indices = torch.topk(torch.from_numpy(scores), count, dim=1).indices.numpy()
    return best


class SegmentScores:
    """Puts the segments of texts back together as they come, batch by batch.

    A text's scores are the mean of its segments' scores weighted by the segments' own tokens, or their `maximum`. Only
    texts of several segments are kept waiting; sums are in double precision, so that they depend on no order.
    """

    def __init__(self, rows: Rows, labels: int, *, maximum: bool) -> None:
        self._owner = rows.owner
        self._weights = np.maximum(rows.stops[0] - rows.starts[0], 1).astype(np.float64)
        self._total = np.bincount(rows.owner, self._weights, minlength=len(rows.n_segments))
        self._left = rows.n_segments.copy()
        several = np.flatnonzero(rows.n_segments > 1)
        self._slot = np.full(len(rows.n_segments), -1)
        self._slot[several] = np.arange(len(several))
        self._maximum = maximum
        self._held = np.full((len(several), labels), -np.inf if maximum else 0.0)

    def add(self, batch: Indices, scores: Scores) -> tuple[Indices, Scores]:
        """The texts that are complete with these rows, and their scores (texts, labels)."""
        owner = self._owner[batch]
        waits = self._slot[owner] >= 0
        if not waits.any():
            return owner, scores
        waiting, parts = owner[waits], scores[waits].astype(np.float64)
        if self._maximum:
            np.maximum.at(self._held, self._slot[waiting], parts)
        else:
            np.add.at(self._held, self._slot[waiting], parts * self._weights[batch[waits], None])
        np.subtract.at(self._left, waiting, 1)
        complete = np.unique(waiting[self._left[waiting] == 0])
        merged = self._held[self._slot[complete]]
        if not self._maximum:
            merged = merged / self._total[complete, None]
        return np.concatenate([owner[~waits], complete]), np.concatenate([scores[~waits], merged.astype(np.float32)])
