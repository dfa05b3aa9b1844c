"""Which job's shard a free worker takes next, and what becomes of a shard whose worker was lost.

Knows priorities, turns and losses. Must not know where jobs and shards are kept.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

#: A job may keep a worker that has its model loaded for this long while others of its priority wait: reloading a model
#: for every shard would cost more than it serves.
AFFINITY_SECONDS = 20.0

#: Whole shards are halved after this many losses; a single document is blamed after as many alone.
LOSSES_ALLOWED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A job with a shard to be claimed. `waited` is the seconds since a shard of it was last claimed (or it was made);
    `fresh` says that none ever was."""

    job_key: int
    model: tuple[str, str]
    priority: int
    waited: float
    fresh: bool = False


def choose(waiting: Sequence[Waiting], loaded: Collection[tuple[str, str]]) -> Waiting | None:
    """The job to serve: highest priority; within it one that was never served, so that a small job waits for no more than
    the shard in progress; then a loaded model's, unless another has waited too long; else the one that has waited
    longest, so that jobs take turns."""
    if not waiting:
        return None
    highest = max(job.priority for job in waiting)
    first, *others = sorted(
        (job for job in waiting if job.priority == highest), key=lambda job: (not job.fresh, -job.waited)
    )
    if first.fresh or first.model in loaded or first.waited > AFFINITY_SECONDS:
        return first
    return next((job for job in others if job.model in loaded), first)


def after_loss(losses: int, documents: int) -> Literal["again", "halve", "blame"]:
    """What to do with a shard of `documents` whose worker was lost, `losses` times by now, this time included."""
    if losses < LOSSES_ALLOWED:
        return "again"
    return "halve" if documents > 1 else "blame"


def losses_of_half(documents: int) -> int:
    """The losses that a half starts with: one loss more halves it again, but a single document is heard twice."""
    return LOSSES_ALLOWED - 1 if documents > 1 else 0
