"""Turns: which shard a worker has next, of all jobs that wait, and a shard read ahead that gives its turn back.

Knows what waits, for how long, and how a shard is claimed. Must not know the queue's order: `corpusmill.queueing` does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select, update

from corpusmill.queueing import Waiting, choose, overtakes
from corpusmill.shards import Slice
from corpusmill.status import Intent
from db.engine import clock_of, db_now
from db.shards import Claim, due, release
from db.tables import jobs, shards

_CANDIDATES = 100
_NONE: Mapping[tuple[str, str], float] = MappingProxyType({})


def claim_next(
    connection: Connection, *, owner: str, lease: float, loaded: Mapping[tuple[str, str], float] = _NONE,
    overtaking: float = 0.0, beyond: Collection[int] = (), ahead: bool = False,
) -> Claim | None:  # fmt: skip
    """Take the shard that the queue's order puts first, for `lease` seconds, or None where nothing is to be had.

    `loaded` are the (model id, revision) pairs in the worker's memory and `overtaking` what it has served, as `choose` has
    them; `beyond` the keys of jobs that it cannot run. Of a job, shards that were lost before go first. A worker that looks
    `ahead` while it runs another shard takes none of another model, which it could not start, and none of a job with one
    that was lost: that one is to run alone, for it would be charged for what its neighbour does, and it is next.
    """
    clock = clock_of(connection)
    waiting = _waiting(connection, clock, beyond)
    while job := choose(waiting, loaded, overtaking=overtaking):
        if ahead and (job.model not in loaded or _has_lost(connection, job.job_key, clock)):
            return None
        claim = _claim(
            connection, job, owner, clock, lease, never_lost=ahead, overtook=overtakes(job, waiting)
        )  # fmt: skip
        if claim is not None:
            return claim
        waiting.remove(job)  # others took its last shards between the two statements
    return None


def gives_way(
    connection: Connection, claim: Claim, *, loaded: Mapping[tuple[str, str], float] = _NONE, overtaking: float = 0.0,
    beyond: Collection[int] = (),
) -> bool:  # fmt: skip
    """Whether a shard that was claimed ahead should wait: a job that was not there then, or that has waited too long by now,
    goes before its own. The arguments are those of `claim_next`."""
    row = connection.execute(
        select(jobs.c.model_id, jobs.c.model_revision, jobs.c.priority, jobs.c.created_at).where(
            jobs.c.key == claim.job_key
        )
    ).one_or_none()
    if row is None:
        return False
    clock = clock_of(connection)
    mine = Waiting(
        job_key=claim.job_key,
        model=(row.model_id, row.model_revision),
        priority=row.priority,
        waited=_since(clock, row.created_at if claim.served is None else claim.served),
        fresh=claim.served is None,
    )
    others = [job for job in _waiting(connection, clock, beyond) if job.job_key != claim.job_key]
    return choose([mine, *others], loaded, overtaking=overtaking) is not mine


def give_way(connection: Connection, claim: Claim) -> bool:
    """Give a shard back that was claimed ahead and never begun, and its job the turn that the claim took from it."""
    released = release(connection, claim)
    if released:
        connection.execute(
            update(jobs)
            .where(jobs.c.key == claim.job_key, jobs.c.claimed_at == claim.claimed_at)
            .values(claimed_at=claim.served)
        )
    return released


def _waiting(connection: Connection, clock: float, beyond: Collection[int]) -> list[Waiting]:
    """The jobs with a shard to be claimed, but for those in `beyond`."""
    pending = select(shards.c.key).where(shards.c.job_key == jobs.c.key, shards.c.state == "pending", due(clock))
    open_jobs = (
        select(
            jobs.c.key, jobs.c.model_id, jobs.c.model_revision, jobs.c.priority,
            func.coalesce(jobs.c.claimed_at, jobs.c.created_at).label("served"),
            jobs.c.claimed_at.is_(None).label("fresh"),
        )
        .where(jobs.c.outcome.is_(None), jobs.c.intent == Intent.RUN, jobs.c.error.is_(None), pending.exists())
        .where(*((jobs.c.key.not_in(beyond),) if beyond else ()))
        .order_by(jobs.c.priority.desc(), func.coalesce(jobs.c.claimed_at, jobs.c.created_at), jobs.c.key)
        .limit(_CANDIDATES)
    )  # fmt: skip
    # of either so many: neither a crowd of new jobs nor one of begun ones may hide the other
    rows = [
        row
        for kind in (jobs.c.claimed_at.is_(None), jobs.c.claimed_at.is_not(None))
        for row in connection.execute(open_jobs.where(kind))
    ]
    return [
        Waiting(
            job_key=row.key,
            model=(row.model_id, row.model_revision),
            priority=row.priority,
            waited=_since(clock, row.served),
            fresh=bool(row.fresh),
        )
        for row in rows
    ]


def _since(clock: float, then: float) -> float:
    """Seconds since then. What lies ahead was written before the clock was set back: as long ago as it is ahead, so that
    such a job is served soon, and by that has a time that can be compared."""
    return abs(clock - then)


def _has_lost(connection: Connection, job_key: int, clock: float) -> bool:
    lost = select(shards.c.key).where(
        shards.c.job_key == job_key, shards.c.state == "pending", shards.c.losses > 0, due(clock)
    )
    return connection.scalar(lost.limit(1)) is not None


def _claim(
    connection: Connection, job: Waiting, owner: str, clock: float, lease: float, *, never_lost: bool, overtook: bool
) -> Claim | None:  # fmt: skip
    take = partial(_take, connection, job.job_key, clock, owner=owner, lease=lease)
    row = (None if never_lost else take(shards.c.losses > 0)) or take(shards.c.losses == 0)
    if row is None:
        return None
    # Locked: two that claim at one moment must not both have been the first to serve it.
    served = connection.scalar(
        select(jobs.c.claimed_at).where(jobs.c.key == job.job_key).with_for_update(key_share=True)
    )
    connection.execute(
        update(jobs)
        .where(jobs.c.key == job.job_key)
        .values(claimed_at=clock, started_at=func.coalesce(jobs.c.started_at, clock))
    )
    return Claim(
        key=row.key,
        job_key=job.job_key,
        slice=Slice(row.start, row.stop),
        attempt=row.attempt,
        losses=row.losses,
        owner=owner,
        kept=row.succeeded,
        references_version=row.references_version,
        claimed_at=clock,
        served=served,
        overtook=overtook,
    )


def _take(
    connection: Connection, job_key: int, clock: float, losses: ColumnElement[bool], *, owner: str, lease: float
) -> Row[Any] | None:
    """Hold the first shard of a job whose losses are such, or None where there is none. Those that were lost and those that
    were not are asked for apart: either way an index leads to the first one, however many wait."""
    first = (
        select(shards.c.key)
        .where(shards.c.job_key == job_key, shards.c.state == "pending", losses, due(clock))
        .order_by(shards.c.losses, shards.c.start)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return connection.execute(
        update(shards)
        .where(shards.c.key == first.scalar_subquery(), shards.c.state == "pending")
        .values(
            state="running", attempt=shards.c.attempt + 1, owner=owner, lease_until=db_now() + lease,
            started_at=db_now(),
        )
        .returning(
            shards.c.key, shards.c.start, shards.c.stop, shards.c.attempt, shards.c.losses, shards.c.succeeded,
            shards.c.references_version,
        )
    ).one_or_none()  # fmt: skip
