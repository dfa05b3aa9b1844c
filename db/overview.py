"""Counts over everything, for gauges and the front page.

Knows the tables. Must not be asked about one job: `db.jobs` is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from db import jobs as job_rows
from db.engine import db_now
from db.tables import jobs, shards, workers
from db.workers import SEEN_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Numbers of jobs by status, shards of open jobs by state, documents by outcome, workers, and losses."""

    jobs: dict[str, int]
    shards: dict[str, int]
    documents: dict[str, int]
    workers: int
    losses: int


def count(connection: Connection) -> Overview:
    """The counts at this moment."""
    ended = connection.execute(
        select(jobs.c.outcome, func.count().label("number")).where(jobs.c.outcome.is_not(None)).group_by(jobs.c.outcome)
    )
    by_status: Counter[str] = Counter({row.outcome: row.number for row in ended})
    before = None
    while page := job_rows.page(connection, before=before, limit=1_000, statuses=job_rows.OPEN):
        by_status.update(job.status.value for job in page)
        before = page[-1].key
    states = connection.execute(
        select(shards.c.state, func.count().label("number"))
        .join(jobs, jobs.c.key == shards.c.job_key)
        .where(jobs.c.outcome.is_(None))
        .group_by(shards.c.state)
    )
    sums = connection.execute(
        select(
            func.coalesce(func.sum(shards.c.succeeded), 0), func.coalesce(func.sum(shards.c.failed), 0),
            func.coalesce(func.sum(shards.c.cancelled), 0), func.coalesce(func.sum(shards.c.losses), 0),
        )
    ).one()  # fmt: skip
    alive = select(func.count()).select_from(workers).where(workers.c.seen_at > db_now() - SEEN_SECONDS)
    return Overview(
        jobs=dict(sorted(by_status.items())),
        shards={row.state: row.number for row in states},
        documents=dict(zip(("succeeded", "failed", "cancelled"), (int(value) for value in sums[:3]), strict=True)),
        workers=connection.execute(alive).scalar_one(),
        losses=int(sums[3]),
    )
