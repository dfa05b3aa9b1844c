"""Loads: which claim is having its model loaded, and how often in a row a job's load took its worker with it.

Knows that a worker that dies then says nothing against the documents it held. Must not know how a model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, or_, select, update

from corpusmill.errors import ModelFault
from corpusmill.queueing import LOSSES_ALLOWED
from corpusmill.status import Intent
from db import jobs as job_rows
from db.engine import db_now
from db.tables import jobs, shards

if TYPE_CHECKING:
    from db.shards import Claim


def begin(connection: Connection, claim: Claim) -> bool:
    """Note that the model is being loaded for this claim, before it is; False where the shard is no longer the claim's.
    The note is its attempt, so that no later claim is taken for one that loads, whoever makes it."""
    return bool(connection.execute(update(shards).where(*claim.held).values(loading=claim.attempt)).rowcount)


def end(connection: Connection, claim: Claim) -> None:
    """The model is loaded, and can be."""
    connection.execute(update(shards).where(*claim.held).values(loading=None))
    forget(connection, claim.job_key)


def forget(connection: Connection, job_key: int) -> None:
    """Workers that were lost while they loaded the job's model count no more: it can be loaded, or one of them lives."""
    connection.execute(
        update(jobs).where(jobs.c.key == job_key, jobs.c.load_losses > 0).values(load_losses=0, load_lost_at=None)
    )


def lost(connection: Connection, job_key: int, *, seen: int = 0, begun_at: float = 0.0) -> None:
    """Count workers that were lost while they loaded the job's model; the job fails where that happened twice in a row, and
    nowhere does it run: where it does, the machines of the others may be too small for it.

    `seen` is how many are known to have died. One that the network cut off looks like one that died unseen, so of those
    that were not heard for a lease, the last of which had its claim at `begun_at` (seconds since 1970), one counts, and only
    where it began after the last loss was noted: several may be cut off at once. Whoever comes back has it forgotten.
    """
    job = connection.execute(
        select(jobs.c.load_losses, jobs.c.load_lost_at, jobs.c.model_id, jobs.c.intent, db_now().label("clock")).where(
            jobs.c.key == job_key
        )
    ).one()
    noted = job.load_lost_at if job.load_lost_at is not None and job.load_lost_at <= job.clock else 0.0
    losses = job.load_losses + (seen or begun_at > noted)
    if job.intent == Intent.CANCEL or losses == job.load_losses or served(connection, job_key):
        return
    if losses < LOSSES_ALLOWED:
        connection.execute(update(jobs).where(jobs.c.key == job_key).values(load_losses=losses, load_lost_at=db_now()))
        return
    message = (
        f"{job.model_id} could not be loaded {losses} times in a row, each time at the cost of the worker or by an error "
        "that nobody foresaw: there may be less memory than it needs, or its files crash what reads them."
    )
    job_rows.fail(connection, job_key, code=ModelFault.code, message=message)


def served(connection: Connection, job_key: int) -> bool:
    """Whether somebody has the job's model loaded, and runs a shard of it."""
    running = select(shards.c.key).where(
        shards.c.job_key == job_key, shards.c.state == "running", shards.c.lease_until > db_now(),
        or_(shards.c.loading.is_(None), shards.c.loading != shards.c.attempt),
    )  # fmt: skip
    return connection.scalar(running.limit(1)) is not None
