"""Shards: who holds which, until when, and the one transaction that ends each.

Knows the lease (by the database's clock) and the attempt that fences a late writer. Must not know which shard a worker has
next (`db.turns`), what becomes of those of a lost one (`db.losses`), or what a worker does with a shard.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, or_, select, update

from corpusmill.errors import LeaseLost
from corpusmill.shards import Slice, added
from corpusmill.status import Intent
from db import jobs as job_rows
from db import loads as load_rows
from db import results as result_rows
from db import reuse
from db.engine import db_now
from db.results import ResultRow
from db.reuse import Keeping
from db.tables import jobs, shards

#: Seconds that a shard lost again and again waits before it is run again.
LONGEST_PAUSE = 8.0
#: What a shard is that was given back.
FREE = {"state": "pending", "owner": None, "lease_until": None, "published_at": None, "loading": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A shard that this worker holds: `attempt` is the fence, `owner` the worker's id for this boot. `kept` documents of it
    succeeded before it was opened again, and are not to be run; their statistics are of `references_version`. The job was
    served at `claimed_at` with this claim and at `served` before it, seconds since 1970; `overtook` says that it had never
    been, and went before others that had.
    """

    key: int
    job_key: int
    slice: Slice
    attempt: int
    losses: int
    owner: str
    kept: int = 0
    references_version: int = 0
    claimed_at: float = 0.0
    served: float | None = None
    overtook: bool = False

    @property
    def held(self) -> tuple[ColumnElement[bool], ...]:
        """What is so of the shard's row as long as it is this claim's."""
        return (
            shards.c.key == self.key,
            shards.c.attempt == self.attempt,
            shards.c.owner == self.owner,
            shards.c.state == "running",
        )


def renew(connection: Connection, claims: Collection[Claim], *, lease: float) -> dict[int, Intent]:
    """Hold the shards for another lease. Returns the intent of the job of each shard still held, by shard key: a shard
    that is missing was lost."""
    held: dict[int, Intent] = {}
    for claim in claims:
        kept = connection.execute(update(shards).where(*claim.held).values(lease_until=db_now() + lease)).rowcount
        if kept:
            intent = connection.scalar(select(jobs.c.intent).where(jobs.c.key == claim.job_key))
            held[claim.key] = Intent(intent) if intent else Intent.CANCEL
    return held


def intents(connection: Connection, claims: Collection[Claim]) -> dict[int, Intent]:
    """What is wanted of the claims' jobs, by job key; a job that was deleted is missing."""
    keys = {claim.job_key for claim in claims}
    rows = connection.execute(select(jobs.c.key, jobs.c.intent).where(jobs.c.key.in_(keys)))
    return {row.key: Intent(row.intent) for row in rows}


def finish(
    connection: Connection, claim: Claim, *, rows: Sequence[ResultRow], usage: Mapping[str, Any],
    partial: Mapping[str, Any], runtime: Mapping[str, Any] | None = None, references_version: int = 0,
    keeping: Keeping | None = None,
) -> bool:  # fmt: skip
    """End a shard: its results, its metric partial and its state in the caller's one transaction.

    Documents without a row, and not kept from before, count as cancelled; `partial` is of the kept ones too. The statistics
    of the rows are of `references_version`; where kept ones are of an older one, the shard is marked as being of that, and
    brought up to date later (`db.rescoring`). `keeping` is what it leaves for other jobs to use. Returns
    whether the job ended with it. Raises LeaseLost where the shard is no longer this claim's, in which case nothing may be
    committed; a repetition after a commit whose answer was lost is recognised and does nothing.
    """
    failed = sum(1 for row in rows if row.status == "failed")
    left = len(claim.slice) - claim.kept - len(rows)
    if claim.attempt > 1:
        before = connection.scalar(select(shards.c.usage).where(shards.c.key == claim.key))
        usage = added(before or {}, usage)
    ended = connection.execute(
        update(shards)
        .where(*claim.held)
        .values(
            state="cancelled" if left else "done", succeeded=claim.kept + len(rows) - failed, failed=failed,
            cancelled=left,
            usage=dict(usage), partial=dict(partial), lease_until=None, finished_at=db_now(),
            references_version=min(references_version, claim.references_version) if claim.kept else references_version,
        )
    ).rowcount  # fmt: skip
    if not ended:
        done = select(shards.c.key).where(
            shards.c.key == claim.key, shards.c.attempt == claim.attempt, shards.c.owner == claim.owner,
            shards.c.state.in_(("done", "cancelled")),
        )  # fmt: skip
        if connection.scalar(done) is not None:
            return False
        raise LeaseLost("The shard was taken over, cancelled or deleted while it ran; nothing was written.")
    load_rows.forget(connection, claim.job_key)  # the model works, wherever else a load of it may have failed
    if keeping is not None:
        reuse.keep(connection, keeping)
    result_rows.write(connection, claim.job_key, rows)
    if runtime:
        job_rows.record_runtime(connection, claim.job_key, runtime)
    return job_rows.close_if_done(connection, claim.job_key)


def release(connection: Connection, claim: Claim) -> bool:
    """Give a shard back unharmed (a drain, a fault of the broker, the database or the device): charges no loss."""
    return bool(connection.execute(update(shards).where(*claim.held).values(**FREE)).rowcount)


def release_but(connection: Connection, owner: str, but: Collection[int]) -> int:
    """The same for whatever an owner holds but for the shards of these keys, and for those that it has surrendered: these
    are still to be charged."""
    return connection.execute(
        update(shards)
        .where(
            shards.c.state == "running", shards.c.owner == owner, shards.c.lease_until > 0.0, shards.c.key.not_in(but)
        )
        .values(**FREE)
    ).rowcount


def release_all(connection: Connection, owner_prefix: str) -> int:
    """The same for whatever is held by owners whose name starts so."""
    return connection.execute(
        update(shards)
        .where(shards.c.state == "running", shards.c.owner.startswith(owner_prefix, autoescape=True))
        .values(**FREE)
    ).rowcount


def surrender(connection: Connection, claim: Claim) -> bool:
    """Let this shard's lease run out now: its work failed in a way that nobody foresaw, and counts as a loss."""
    return bool(connection.execute(update(shards).where(*claim.held).values(lease_until=0.0)).rowcount)


def due(clock: float | db_now) -> ColumnElement[bool]:
    """Whether a pending shard's pause is over. One that would be longer than any was begun before the clock was set back."""
    return or_(shards.c.not_before <= clock, shards.c.not_before > clock + LONGEST_PAUSE)


def to_publish(connection: Connection, most: int) -> list[int]:
    """Keys of up to `most` waiting shards, those never or longest ago published first, by priority."""
    if most <= 0:
        return []
    return list(
        connection.scalars(
            select(shards.c.key)
            .join(jobs, jobs.c.key == shards.c.job_key)
            .where(shards.c.state == "pending", due(db_now()), jobs.c.intent == Intent.RUN)
            .order_by(jobs.c.priority.desc(), func.coalesce(shards.c.published_at, 0.0), shards.c.key)
            .limit(most)
        )
    )


def waiting_count(connection: Connection, most: int) -> int:
    """How many shards wait to be claimed, counted up to `most`."""
    waiting = (
        select(shards.c.key)
        .join(jobs, jobs.c.key == shards.c.job_key)
        .where(shards.c.state == "pending", due(db_now()), jobs.c.intent == Intent.RUN)
        .limit(most)
        .subquery()
    )
    return connection.execute(select(func.count()).select_from(waiting)).scalar_one()


def held(connection: Connection, owner_prefix: str) -> bool:
    """Whether any shard is in the hands of an owner whose name starts so."""
    mine = select(shards.c.key).where(
        shards.c.state == "running", shards.c.owner.startswith(owner_prefix, autoescape=True)
    )
    return connection.scalar(mine.limit(1)) is not None


def mark_published(connection: Connection, keys: Collection[int]) -> None:
    """Remember that doorbells were rung for these shards."""
    if keys:
        connection.execute(update(shards).where(shards.c.key.in_(keys)).values(published_at=db_now()))


def ended_before(connection: Connection, job_key: int) -> int | None:
    """The first position that has not ended, or None where all have: pages of results end before it."""
    first: int | None = connection.scalar(
        select(func.min(shards.c.start)).where(
            shards.c.job_key == job_key, or_(shards.c.state == "pending", shards.c.state == "running")
        )
    )
    return first


def gaps(connection: Connection, job_key: int) -> list[tuple[Slice, str]]:
    """Ended shards with documents that have no row of their own, with their state, in order."""
    rows = connection.execute(
        select(shards.c.start, shards.c.stop, shards.c.state)
        .where(shards.c.job_key == job_key, shards.c.state.in_(("cancelled", "failed")))
        .order_by(shards.c.start)
    )
    return [(Slice(row.start, row.stop), row.state) for row in rows]
