"""Losses: what becomes of the shards of workers that are gone.

Knows leases that ran out and the losses that find a poison document. Must not know how a worker's end is noticed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, and_, insert, or_, select, update

from corpusmill.queueing import after_loss, losses_of_half
from corpusmill.shards import Slice, halves
from corpusmill.status import Intent
from db import jobs as job_rows
from db import loads as load_rows
from db import results as result_rows
from db.engine import db_now
from db.shards import FREE, LONGEST_PAUSE, Claim
from db.tables import jobs, shards, workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapsed:
    """How many shards a dead process held. `too_large` are keys of jobs whose model it was loading, and which others run."""

    shards: int = 0
    too_large: frozenset[int] = frozenset()


def lapse(connection: Connection, owner_prefix: str, *, but: str) -> Lapsed:
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
    freed = connection.execute(update(shards).where(*dead, shards.c.owner.in_(loaders)).values(**FREE)).rowcount
    lost = connection.execute(update(shards).where(*dead).values(lease_until=0.0)).rowcount
    job_keys = {row.job_key for row in loads}
    for job_key in job_keys:
        load_rows.lost(connection, job_key, seen=sum(row.job_key == job_key for row in loads))
    too_large = frozenset(key for key in job_keys if load_rows.served(connection, key))
    return Lapsed(shards=freed + lost, too_large=too_large)


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
    # What a worker held when it was lost while it loaded a model is charged to that load alone, also where its leases did
    # not run out at one time; not what it had given up by itself before.
    loaders = _loaders(connection, {row.owner for row in rows})
    for row in rows:
        spared = row.owner in loaders and (row.loading == row.attempt or row.lease_until > 0.0)
        whole, losses = Slice(row.start, row.stop), row.losses + (not spared)
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
                .values(
                    attempt=row.attempt + 1,
                    owner=owner,
                    losses=losses,
                    started_at=db_now(),
                    lease_until=db_now() + lease,
                )
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
    end in a lease from now. A worker that lives renews its own three times in that; one that has done so since, or has not
    beaten yet and claimed its shard since, with a longer lease than the sweeper's, keeps it."""
    seen = select(workers.c.id).where(workers.c.id == shards.c.owner)
    since = or_(
        seen.where(workers.c.seen_at <= db_now()).exists(), and_(~seen.exists(), shards.c.started_at <= db_now())
    )
    connection.execute(
        update(shards)
        .where(shards.c.state == "running", shards.c.lease_until > db_now() + 2 * lease, ~since)
        .values(lease_until=db_now() + lease)
    )


def _loaders(connection: Connection, owners: Collection[str]) -> frozenset[str]:
    loading = select(shards.c.owner).where(
        shards.c.state == "running", shards.c.loading == shards.c.attempt, shards.c.owner.in_(owners)
    )
    return frozenset(connection.scalars(loading)) if owners else frozenset()


def _verdict(
    connection: Connection, job_key: int, losses: int, documents: int
) -> Literal["again", "halve", "blame", "cancel"]:
    intent = connection.scalar(select(jobs.c.intent).where(jobs.c.key == job_key))
    return "cancel" if intent == Intent.CANCEL else after_loss(losses, documents)


def _await(connection: Connection, key: int, attempt: int, **values: Any) -> None:
    """Put a lost shard back into the queue, a little later each time: a fault that repeats must not become a storm."""
    pause = 0.0 if attempt < 2 else min(LONGEST_PAUSE, 2.0 ** (attempt - 2))
    connection.execute(
        update(shards).where(shards.c.key == key).values(FREE | {"not_before": db_now() + pause, **values})
    )
