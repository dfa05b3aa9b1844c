"""Shards: who holds which, until when, and the one transaction that ends each.

Knows the lease (by the database's clock), the attempt that fences a late writer, and the losses that find a poison
document. Must not know what a worker does with a shard.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, func, insert, or_, select, update

from corpusmill.errors import LeaseLost
from corpusmill.queueing import Waiting, after_loss, choose, losses_of_half, overtakes
from corpusmill.shards import Slice, added, halves
from corpusmill.status import Intent
from db import jobs as job_rows
from db import loads as load_rows
from db import results as result_rows
from db import reuse
from db.engine import clock_of, db_now
from db.results import ResultRow
from db.reuse import Keeping
from db.tables import jobs, shards, workers

_CANDIDATES = 100
#: Seconds that a shard lost again and again waits before it is run again.
_LONGEST_PAUSE = 8.0
_NONE: Mapping[tuple[str, str], float] = MappingProxyType({})
#: What a shard is that was given back.
_FREE = {"state": "pending", "owner": None, "lease_until": None, "published_at": None, "loading": None}


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
    pending = select(shards.c.key).where(shards.c.job_key == jobs.c.key, shards.c.state == "pending", _due(clock))
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


def _due(clock: float | db_now) -> ColumnElement[bool]:
    """Whether a pending shard's pause is over. One that would be longer than any was begun before the clock was set back."""
    return or_(shards.c.not_before <= clock, shards.c.not_before > clock + _LONGEST_PAUSE)


def _has_lost(connection: Connection, job_key: int, clock: float) -> bool:
    lost = select(shards.c.key).where(
        shards.c.job_key == job_key, shards.c.state == "pending", shards.c.losses > 0, _due(clock)
    )
    return connection.scalar(lost.limit(1)) is not None


def _claim(
    connection: Connection, job: Waiting, owner: str, clock: float, lease: float, *, never_lost: bool, overtook: bool
) -> Claim | None:  # fmt: skip
    first = (
        select(shards.c.key)
        .where(shards.c.job_key == job.job_key, shards.c.state == "pending", _due(clock))
        .where(*((shards.c.losses == 0,) if never_lost else ()))
        .order_by(shards.c.losses == 0, shards.c.start)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = connection.execute(
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
    if row is None:
        return None
    served = connection.scalar(select(jobs.c.claimed_at).where(jobs.c.key == job.job_key))
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


def renew(connection: Connection, claims: Collection[Claim], *, lease: float) -> dict[int, Intent]:
    """Hold the shards for another lease. Returns the intent of the job of each shard still held, by shard key: a shard
    that is missing was lost."""
    held: dict[int, Intent] = {}
    for claim in claims:
        kept = connection.execute(update(shards).where(*_held(claim)).values(lease_until=db_now() + lease)).rowcount
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
        .where(*_held(claim))
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
    if keeping is not None:
        reuse.keep(connection, keeping)
    result_rows.write(connection, claim.job_key, rows)
    if runtime:
        job_rows.record_runtime(connection, claim.job_key, runtime)
    return job_rows.close_if_done(connection, claim.job_key)


def release(connection: Connection, claim: Claim) -> bool:
    """Give a shard back unharmed (a drain, a fault of the broker, the database or the device): charges no loss."""
    return bool(connection.execute(update(shards).where(*_held(claim)).values(**_FREE)).rowcount)


def release_all(connection: Connection, owner_prefix: str) -> int:
    """The same for whatever is held by owners whose name starts so."""
    return connection.execute(
        update(shards)
        .where(shards.c.state == "running", shards.c.owner.startswith(owner_prefix, autoescape=True))
        .values(**_FREE)
    ).rowcount


def surrender(connection: Connection, claim: Claim) -> bool:
    """Let this shard's lease run out now: its work failed in a way that nobody foresaw, and counts as a loss."""
    return bool(connection.execute(update(shards).where(*_held(claim)).values(lease_until=0.0)).rowcount)


def lapse(connection: Connection, owner_prefix: str, *, but: str) -> int:
    """Let the leases of a dead process run out at once: those whose owner starts with `owner_prefix`, `but` for one. Where
    it was loading a model, that is charged at once, and its shards are free."""
    dead = (
        shards.c.state == "running",
        shards.c.owner.startswith(owner_prefix, autoescape=True),
        shards.c.owner != but,
    )
    loads = connection.execute(
        select(shards.c.owner, shards.c.job_key).where(*dead, shards.c.loading == shards.c.attempt)
    ).all()
    loaders = {row.owner for row in loads}
    freed = connection.execute(update(shards).where(*dead, shards.c.owner.in_(loaders)).values(**_FREE)).rowcount
    lost = connection.execute(update(shards).where(*dead).values(lease_until=0.0)).rowcount
    for job_key in {row.job_key for row in loads}:
        load_rows.lost(connection, job_key, seen=sum(row.job_key == job_key for row in loads))
    return freed + lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """What became of the shards whose leases had run out. `blamed` are single documents that took their worker with them
    as often as is allowed: their shards are claimed for the caller, who writes the failed results."""

    again: int = 0
    halved: int = 0
    blamed: tuple[Claim, ...] = ()


def expire(connection: Connection, *, owner: str, lease: float, most: int = 200) -> Expired:
    """Charge a loss to the shards whose lease ran out, and let them run again, halve them, or blame their document; or to
    the model, where it was being loaded."""
    _shorten(connection, lease)
    rows = connection.execute(
        select(
            shards.c.key,
            shards.c.job_key,
            shards.c.start,
            shards.c.stop,
            shards.c.attempt,
            shards.c.losses,
            shards.c.succeeded,
            shards.c.references_version,
            shards.c.owner,
            shards.c.lease_until,
            shards.c.started_at,
            shards.c.loading,
        )
        .where(shards.c.state == "running", shards.c.lease_until < db_now())
        .limit(most)
        .with_for_update(skip_locked=True)
    ).all()
    again = halved = 0
    blamed: list[Claim] = []
    loads = [row for row in rows if row.loading == row.attempt]
    loaders = {row.owner for row in loads}
    for row in rows:
        # What a worker held when it was lost while it loaded a model is charged to that load alone.
        whole, losses = Slice(row.start, row.stop), row.losses + (row.owner not in loaders)
        verdict = _verdict(connection, row.job_key, losses, len(whole))
        if verdict == "cancel":
            connection.execute(
                update(shards)
                .where(shards.c.key == row.key)
                .values(
                    state="cancelled",
                    cancelled=len(whole) - row.succeeded,
                    losses=losses,
                    lease_until=None,
                    finished_at=db_now(),
                )
            )
            job_rows.close_if_done(connection, row.job_key)
        elif verdict == "again":
            _await(connection, row.key, row.attempt, losses=losses)
            again += 1
        elif verdict == "halve":
            left, right = halves(whole)
            kept = result_rows.succeeded(connection, row.job_key, left) if row.succeeded else 0
            _await(connection, row.key, row.attempt, stop=left.stop, losses=losses_of_half(len(left)), succeeded=kept)
            connection.execute(
                insert(shards).values(
                    job_key=row.job_key, start=right.start, stop=right.stop, state="pending", attempt=row.attempt,
                    losses=losses_of_half(len(right)), succeeded=row.succeeded - kept,
                    references_version=row.references_version,
                )
            )  # fmt: skip
            halved += 1
        else:
            connection.execute(
                update(shards)
                .where(shards.c.key == row.key)
                .values(attempt=row.attempt + 1, owner=owner, losses=losses, lease_until=db_now() + lease)
            )
            blamed.append(
                Claim(
                    key=row.key,
                    job_key=row.job_key,
                    slice=whole,
                    attempt=row.attempt + 1,
                    losses=losses,
                    owner=owner,
                    kept=row.succeeded,
                    references_version=row.references_version,
                )
            )
    for job_key in {row.job_key for row in loads}:
        mine = [row for row in loads if row.job_key == job_key]
        seen = sum(row.lease_until == 0.0 for row in mine)  # it was surrendered
        load_rows.lost(connection, job_key, seen=seen, begun_at=max(row.started_at for row in mine))
    return Expired(again=again, halved=halved, blamed=tuple(blamed))


def _shorten(connection: Connection, lease: float) -> None:
    """Leases that end far ahead were taken before the clock was set back, and would outlast a dead worker by as much: they
    end in a lease from now. A worker that lives renews its own three times in that; one that has done so since, with a
    longer lease than the sweeper's, keeps it."""
    beaten_since = select(workers.c.id).where(workers.c.id == shards.c.owner, workers.c.seen_at <= db_now())
    connection.execute(
        update(shards)
        .where(shards.c.state == "running", shards.c.lease_until > db_now() + 2 * lease, ~beaten_since.exists())
        .values(lease_until=db_now() + lease)
    )


def _verdict(
    connection: Connection, job_key: int, losses: int, documents: int
) -> Literal["again", "halve", "blame", "cancel"]:
    intent = connection.scalar(select(jobs.c.intent).where(jobs.c.key == job_key))
    return "cancel" if intent == Intent.CANCEL else after_loss(losses, documents)


def _await(connection: Connection, key: int, attempt: int, **values: Any) -> None:
    """Put a lost shard back into the queue, a little later each time: a fault that repeats must not become a storm."""
    pause = 0.0 if attempt < 2 else min(_LONGEST_PAUSE, 2.0 ** (attempt - 2))
    connection.execute(
        update(shards)
        .where(shards.c.key == key)
        .values(
            state="pending", owner=None, lease_until=None, published_at=None, not_before=db_now() + pause, **values
        )
    )  # fmt: skip


def to_publish(connection: Connection, most: int) -> list[int]:
    """Keys of up to `most` waiting shards, those never or longest ago published first, by priority."""
    if most <= 0:
        return []
    return list(
        connection.scalars(
            select(shards.c.key)
            .join(jobs, jobs.c.key == shards.c.job_key)
            .where(shards.c.state == "pending", _due(db_now()), jobs.c.intent == Intent.RUN)
            .order_by(jobs.c.priority.desc(), func.coalesce(shards.c.published_at, 0.0), shards.c.key)
            .limit(most)
        )
    )


def waiting_count(connection: Connection, most: int) -> int:
    """How many shards wait to be claimed, counted up to `most`."""
    waiting = (
        select(shards.c.key)
        .join(jobs, jobs.c.key == shards.c.job_key)
        .where(shards.c.state == "pending", _due(db_now()), jobs.c.intent == Intent.RUN)
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


def _held(claim: Claim) -> tuple[Any, ...]:
    return (
        shards.c.key == claim.key,
        shards.c.attempt == claim.attempt,
        shards.c.owner == claim.owner,
        shards.c.state == "running",
    )
