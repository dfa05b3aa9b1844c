"""Statistics made again where a corpus has got other references since: shard by shard, each in one transaction.

Knows which shards are behind, and that outputs never change. Must not know a formula (`evaluation` does) or when a job's
metrics are put together (`db.metrics`).

Every shard that has ended says which version of the references its statistics are of. One that is behind is read, its
documents are held against the references in force, and statistics, partial and version are written together, fenced by the
shard's attempt: should it have been opened again meanwhile, nothing is written. Any number may do this at once.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, select, update

import evaluation
from corpora import Store
from corpusmill.errors import NotFound
from corpusmill.shards import Slice
from corpusmill.tasks import Task, stored_params
from db import jobs as job_rows
from db import references
from db import results as result_rows
from db.corpora import store_directory
from db.engine import reading, transact
from db.jobs import Job
from db.results import Selection
from db.tables import corpora, jobs, results, shards

_ENDED = shards.c.state.in_(("done", "cancelled", "failed"))
#: Jobs of up to so many documents are brought up to date by whoever asks for their metrics; larger ones by sweepers alone.
AT_ONCE = {Task.CLASSIFICATION: 20_000, Task.SUMMARIZATION: 500, Task.TRANSLATION: 1_000}


def at_once(job: Job) -> bool:
    """Whether a job is small enough to be brought up to date while somebody waits for its metrics."""
    return job.counts is None or job.counts.total <= AT_ONCE[job.task]


def behind(connection: Connection) -> list[int]:
    """Keys of jobs that have not ended, with ended shards whose statistics are of older references."""
    older = (
        select(shards.c.key)
        .where(shards.c.job_key == jobs.c.key, _ENDED, shards.c.references_version < corpora.c.references_version)
        .exists()
    )
    query = (
        select(jobs.c.key)
        .join(corpora, corpora.c.key == jobs.c.corpus_key)
        .where(jobs.c.outcome.is_(None), corpora.c.references_version > 0, older)
    )
    return list(connection.scalars(query))


def bring_up_to_date(engine: Engine, data_dir: Path, job_key: int, *, seconds: float | None = None) -> bool:
    """Make the statistics of a job's ended shards those of the references in force, for about `seconds` at most.

    Says whether nothing is left to do: also where the job or its corpus is gone. Raises NotFound where the corpus's files
    are not there.
    """
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        with reading(engine) as connection:
            try:
                job = job_rows.by_key(connection, job_key)
            except NotFound:
                return True
            row = _next(connection, job) if job.corpus_key is not None else None
        if row is None:
            return True
        if until is not None and time.monotonic() >= until:
            return False
        _rescore(engine, data_dir, job, row)


def _next(connection: Connection, job: Job) -> Any:
    version = select(corpora.c.references_version).where(corpora.c.key == job.corpus_key).scalar_subquery()
    return connection.execute(
        select(shards.c.key, shards.c.start, shards.c.stop, shards.c.state, shards.c.attempt, shards.c.partial)
        .where(shards.c.job_key == job.key, _ENDED, shards.c.references_version < version)
        .order_by(shards.c.start)
        .limit(1)
    ).one_or_none()


def _rescore(engine: Engine, data_dir: Path, job: Job, shard: Any) -> None:
    piece = Slice(shard.start, shard.stop)
    assert job.corpus_key is not None
    with reading(engine) as connection:
        version = references.current(connection, job.corpus_key)
        rows = list(result_rows.read(connection, job.key, Selection(start=piece.start, stop=piece.stop)))
    if version is None:
        return  # the corpus was deleted meanwhile
    read = Store(store_directory(data_dir, job.corpus_id)).documents(piece.start, piece.stop)
    documents = list(references.attached(data_dir, job.corpus_id, version, read))
    params = stored_params(job.task, job.params)
    found = [result_rows.result_of(row) for row in rows]
    statistics = evaluation.document_statistics(job.task, documents, found, params)
    partial = evaluation.partial_of(job.task, found, statistics, params)
    values: dict[str, Any] = {"references_version": version.version}
    if shard.partial is not None:  # a shard that was opened again and cut off has none, and its rows are asked instead
        values["partial"] = partial

    def write(connection: Connection) -> None:
        taken = connection.execute(
            update(shards)
            .where(shards.c.key == shard.key, shards.c.attempt == shard.attempt, shards.c.state == shard.state)
            .where(shards.c.start == shard.start, shards.c.stop == shard.stop)
            .where(shards.c.references_version < version.version)
            .values(**values)
        ).rowcount
        changed = [
            {"at": row.position, "made": one} for row, one in zip(rows, statistics, strict=True) if one is not None
        ]
        if taken and changed:
            connection.execute(
                update(results)
                .where(results.c.job_key == job.key, results.c.position == bindparam("at"))
                .values(statistics=bindparam("made")),
                changed,
            )

    transact(engine, write)
