"""Which job's shard a free worker takes next, and what becomes of a shard whose worker was lost.

Knows priorities, turns and losses. Must not know where jobs and shards are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

#: A worker may go on with a model that it has loaded for this long while others of that priority wait for theirs: reloading
#: a model for every shard would cost more than it serves.
AFFINITY_SECONDS = 20.0

#: A worker may put jobs that were never served before begun ones for this long, and then one of these has a shard: enough
#: for a burst of small jobs, and a stream of them that never ends leaves the others a share.
OVERTAKING_SECONDS = 20.0

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


def choose(
    waiting: Sequence[Waiting], loaded: Mapping[tuple[str, str], float], *, overtaking: float = 0.0
) -> Waiting | None:
    """The job to serve, of those of the highest priority.

    Jobs that were never served go before begun ones, so that a small job waits for no more than the shard in progress; but
    not once a begun one has waited for OVERTAKING_SECONDS and this worker has served overtaking jobs for as long. Within
    these the one that has waited longest is first, so that jobs take turns, unless its model is to be loaded: then one whose
    model is there goes before it, for AFFINITY_SECONDS of its waiting or, where all have waited long, of the model's being
    there. `loaded` has the seconds since each model was loaded, `overtaking` those for which this worker has ended no shard
    but of jobs that overtook others.
    """
    if not waiting:
        return None
    highest = max(job.priority for job in waiting)
    rank = sorted((job for job in waiting if job.priority == highest), key=lambda job: -job.waited)
    fresh, begun = [job for job in rank if job.fresh], [job for job in rank if not job.fresh]
    late = overtaking > OVERTAKING_SECONDS and any(job.waited > OVERTAKING_SECONDS for job in begun)
    first, *others = begun if late or not fresh else fresh
    if first.model in loaded:
        return first
    at_hand = (
        job
        for job in others
        if job.model in loaded and (first.waited <= AFFINITY_SECONDS or loaded[job.model] <= AFFINITY_SECONDS)
    )
    return next(at_hand, first)


def overtakes(job: Waiting, waiting: Sequence[Waiting]) -> bool:
    """Whether serving `job`, one of those that wait, puts it before a begun one of its priority that was there first."""
    return job.fresh and any(not other.fresh and other.priority == job.priority for other in waiting)


def after_loss(losses: int, documents: int) -> Literal["again", "halve", "blame"]:
    """What to do with a shard of `documents` whose worker was lost, `losses` times by now, this time included."""
    if losses < LOSSES_ALLOWED:
        return "again"
    return "halve" if documents > 1 else "blame"


def losses_of_half(documents: int) -> int:
    """The losses that a half starts with: one loss more halves it again, but a single document is heard twice."""
    return LOSSES_ALLOWED - 1 if documents > 1 else 0
