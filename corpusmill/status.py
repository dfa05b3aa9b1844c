"""What a job's status and progress are, given what was asked of it and how its shards stand.

Knows intents, counts and the one rule that turns them into a status. Must not know where they are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Intent(StrEnum):
    """What was last asked of a job."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Status(StrEnum):
    """What a job says of itself."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({Status.COMPLETED, Status.COMPLETED_WITH_ERRORS, Status.FAILED, Status.CANCELLED})


#: From which statuses a job may be asked for what. A request that is repeated while it stands changes nothing.
MOVES: dict[str, frozenset[Status]] = {
    "pause": frozenset({Status.QUEUED, Status.RUNNING, Status.PAUSED}),
    "resume": frozenset({Status.QUEUED, Status.RUNNING, Status.PAUSED}),
    "cancel": frozenset({Status.QUEUED, Status.RUNNING, Status.PAUSED, Status.CANCELLING, Status.CANCELLED}),
    "retry": frozenset({Status.COMPLETED_WITH_ERRORS, Status.FAILED}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How a job's documents stand; `pending` is what is left of `total`. `running` counts shards held by workers."""

    total: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    running: int = 0

    @property
    def pending(self) -> int:
        return self.total - self.succeeded - self.failed - self.cancelled


def status_of(intent: Intent, error: str | None, counts: Counts | None) -> Status:
    """The status of a job whose shards stand at `counts`, or None where they are not planned yet (corpus validating)."""
    if error is not None:
        return Status.FAILED
    if counts is None:
        return {Intent.RUN: Status.QUEUED, Intent.PAUSE: Status.PAUSED, Intent.CANCEL: Status.CANCELLED}[intent]
    if counts.pending == 0:
        return _outcome(counts)
    if intent is Intent.CANCEL:
        return Status.CANCELLING
    if intent is Intent.PAUSE and counts.running == 0:
        return Status.PAUSED
    started = counts.running > 0 or counts.pending < counts.total
    return Status.RUNNING if started else Status.QUEUED


def _outcome(counts: Counts) -> Status:
    if counts.cancelled:
        return Status.CANCELLED
    if counts.failed == 0:
        return Status.COMPLETED
    return Status.COMPLETED_WITH_ERRORS if counts.succeeded else Status.FAILED


def progress_of(counts: Counts | None) -> float:
    """The share of documents that have ended, from 0 to 1."""
    if counts is None or counts.total == 0:
        return 0.0
    return (counts.total - counts.pending) / counts.total
