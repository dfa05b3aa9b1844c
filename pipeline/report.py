"""The facts of a night, as its report is made of them.

Knows shapes and names of figures. Must not know where they are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from corpusmill.schedules import ReportDefinition, Rule

#: Bins of equal width over scores from 0 to 1; a score of 1 falls into the last.
SCORE_BINS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """What a night's model said: documents by label, and by score in SCORE_BINS bins."""

    labels: Mapping[str, int] = field(default_factory=dict)
    scores: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """How many of the audited documents people have answered, and on how many they agree with the model."""

    answered: int
    agreed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A run as its report begins with it. Times are in seconds since 1970.

    `counts`: read, new, changed, unchanged, repeated, unusable, gone, ran, reused, succeeded, failed, reviewed.
    `failures` counts failed documents by error code. `seconds` is by stage. `audit` is of this run's model revision.
    """

    schedule: str
    run: str
    fire_time: float
    started_at: float
    finished_at: float
    model_id: str | None
    model_revision: str | None
    counts: Mapping[str, int]
    failures: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    distribution: Distribution = Distribution()
    audit: Audit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report: `figures` are what `fail_if` may name, `body` is all of it as JSON."""

    figures: Mapping[str, float]
    body: Mapping[str, Any]


class ReportOf(Protocol):
    """How the facts of a night and of those before it, newest first, become its report: `report_of` is one, and pure."""

    def __call__(self, facts: Facts, earlier: Sequence[Facts], definition: ReportDefinition) -> Report: ...


class Broken(Protocol):
    """A sentence for each rule that a report breaks: `broken` is one. A rule about a figure that a night does not have is
    not broken by it."""

    def __call__(self, report: Report, rules: Sequence[Rule]) -> list[str]: ...
