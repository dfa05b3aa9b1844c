"""95 % percentile intervals by the bootstrap over documents (Efron, 1979).

Knows rows of sums, one for each document or group of documents, and how to draw from them. Must not know metrics.

A resample draws as many documents as there are, with replacement, so each document enters with a multinomial weight,
and the sums of the resample are weights × rows: one matrix product for many resamples. Above MOST_ROWS documents, each
is added to one of half as many groups, chosen at random, and groups are drawn instead. That estimates the same
variance: the figures are functions of quotients of sums, a quotient's variance is that of the documents' deviations
from it added up, and these fall into groups independently, whatever the order of the corpus. (Groups of neighbours
would not do: they make the interval too narrow where unlike documents take turns.) With thousands of groups the width
is known to about one percent, as it is with thousands of documents. The seed is fixed: equal statistics in equal order
give equal intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from evaluation.figures import NO_INTERVAL, Interval

Floats = NDArray[np.float64]

RESAMPLES = 1_000
SEED = 20_260_101
#: Documents that are kept apart, at most; the bound on numbers keeps wide rows to 16 MiB. Groups are half as many.
MOST_ROWS = 16_384
MOST_NUMBERS = 1 << 21
#: Numbers of a block of weights; about four arrays of its size (8 bytes a number) live at a time.
BLOCK = 1 << 19


def collected(rows: Iterable[Sequence[float]], columns: int) -> Floats:
    """The rows (documents in order of position, `columns` sums each) as one array of at most MOST_ROWS rows.

    One pass in bounded memory: once the array is full, its rows and all later ones are added to groups.
    """
    most = min(MOST_ROWS, MOST_NUMBERS // columns)
    kept = np.zeros((most, columns))
    remaining = iter(rows)
    filled = -1
    for filled, row in enumerate(islice(remaining, most)):
        kept[filled] = row
    following = next(remaining, None)
    if following is None:
        return kept[: filled + 1]
    return _grouped(kept, chain([following], remaining))


def _grouped(kept: Floats, remaining: Iterable[Sequence[float]]) -> Floats:
    generator = np.random.default_rng(SEED)
    groups = np.zeros((max(2, len(kept) // 2), kept.shape[1]))
    np.add.at(groups, generator.integers(0, len(groups), size=len(kept)), kept)
    chosen: Iterator[int] = iter(())
    for row in remaining:
        group = next(chosen, None)
        if group is None:
            chosen = iter(generator.integers(0, len(groups), size=4_096).tolist())
            group = next(chosen)
        groups[group] += row
    return groups


def resampled(rows: Floats) -> Floats:
    """The sums of RESAMPLES resamples of the rows: an array (RESAMPLES, columns)."""
    count = len(rows)
    sums = [weights @ rows for weights in _weights(count)]
    return np.concatenate(sums)


def _weights(count: int) -> Iterator[Floats]:
    generator = np.random.default_rng(SEED)
    for size in blocks(count):
        drawn = generator.integers(0, count, size=(size, count))
        drawn += np.arange(size)[:, None] * count
        counted = np.bincount(drawn.ravel(), minlength=size * count)
        yield counted.reshape(size, count).astype(np.float64)


def blocks(width: int) -> Iterator[int]:
    """Sizes that add up to RESAMPLES, such that a block of that many rows of `width` numbers stays within BLOCK."""
    most = max(1, BLOCK // max(width, 1))
    for start in range(0, RESAMPLES, most):
        yield min(most, RESAMPLES - start)


def interval(values: Floats) -> Interval:
    """The 2.5th and 97.5th percentile of a figure over the resamples; those in which it has no value do not count."""
    known = values[np.isfinite(values)]
    if len(known) < len(values) / 2:
        return NO_INTERVAL
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)
