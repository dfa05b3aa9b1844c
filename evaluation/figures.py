"""What a report is made of: metrics, and for single-label classification a confusion matrix.

Knows their shape, in memory and as JSON. Must not know how a figure is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: The ends of a 95 % interval; both None where there is none.
Interval = tuple[float | None, float | None]
NO_INTERVAL: Interval = (None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One evaluation figure.

    `n` counts the documents it speaks of and `coverage` is n divided by all the job's documents, so that documents that
    failed, are not done yet, have no reference or were left out by a bound all show in it. `ci_low` and `ci_high` bound
    the 95 % bootstrap interval over documents. `signature` is sacreBLEU's. No figure is ever NaN or infinite: it is
    None.
    """

    name: str
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int
    coverage: float
    signature: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusionMatrix:
    """`counts[i][j]` documents have reference `labels[i]` and prediction `labels[j]`; labels are sorted."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A job's metrics, in a fixed order: those against references first."""

    metrics: list[Metric]
    confusion_matrix: ConfusionMatrix | None = None

    def view(self) -> dict[str, Any]:
        """The report as JSON holds it: `{"metrics": [{…}], "confusion_matrix": {"labels", "counts"} | None}`."""
        return asdict(self)


def finite(value: float | None) -> float | None:
    """`value`, or None where JSON could not hold it."""
    return value if value is not None and math.isfinite(value) else None


def divided(numerator: float, denominator: float) -> float | None:
    """The quotient, or None where there is none."""
    return finite(numerator / denominator) if denominator else None


@dataclass(frozen=True, slots=True)
class Figures:
    """Makes the metrics of one job, whose documents are `total`, failed and pending ones included."""

    total: int

    def metric(
        self, name: str, value: float | None, n: int, interval: Interval = NO_INTERVAL, signature: str | None = None
    ) -> Metric:
        """One metric over `n` documents."""
        low, high = finite(interval[0]), finite(interval[1])
        coverage = divided(n, self.total) or 0.0
        return Metric(
            name=name, value=finite(value), ci_low=low, ci_high=high, n=n, coverage=coverage, signature=signature
        )

    def metrics(self, values: Mapping[str, float], n: int, intervals: Mapping[str, Interval]) -> Iterable[Metric]:
        """A metric over `n` documents for each value, with the interval of the same name where there is one."""
        return (self.metric(name, value, n, intervals.get(name, NO_INTERVAL)) for name, value in values.items())
