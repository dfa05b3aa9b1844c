"""Metrics: merged from what each shard's commit carried, and kept with intervals once the job has ended.

Knows the table `metrics` and where partials and statistics lie. Must not know a formula: `evaluation` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, insert, select, update

import evaluation
from corpusmill.errors import NotFound
from corpusmill.shards import Slice, added
from corpusmill.tasks import stored_params
from db import jobs as job_rows
from db import results as result_rows
from db.engine import reading, transact
from db.jobs import Job
from db.tables import corpora, jobs, metrics, shards
from evaluation import ConfusionMatrix, Metric, Report


def merged(connection: Connection, job_key: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sums over a job's ended shards so far: (metric partial, usage)."""
    partial: dict[str, Any] = {}
    usage: dict[str, Any] = {"seconds": {}}
    rows = connection.execute(
        select(shards.c.partial, shards.c.usage, shards.c.start, shards.c.stop, shards.c.succeeded)
        .where(shards.c.job_key == job_key, shards.c.state.in_(("done", "cancelled", "failed")))
        .where(shards.c.usage.is_not(None) | (shards.c.succeeded > 0))
        .order_by(shards.c.start)
    ).all()
    for row in rows:
        own = row.partial
        if own is None and row.succeeded:  # opened again, and ended before it ran to its end
            own = _of_results(connection, job_key, Slice(row.start, row.stop))
        partial = evaluation.merge(partial, own or {})
        usage = added(usage, row.usage or {})
    return partial, usage


def _of_results(connection: Connection, job_key: int, piece: Slice) -> dict[str, Any]:
    """The partial of a slice's succeeded documents, made anew from their rows."""
    job = job_rows.by_key(connection, job_key)
    rows = result_rows.kept(connection, job_key, piece)
    params = stored_params(job.task, job.params)
    results = [result_rows.result_of(row) for row in rows]
    return dict(evaluation.partial_of(job.task, results, [row.statistics for row in rows], params))


def references_of(connection: Connection, job: Job) -> int:
    """The version of the references that a job's metrics are of: as they are kept, or else, while it runs or another
    version is being taken in, the oldest that any of its ended shards was held against."""
    return job.references_version if job.evaluated else (_versions(connection, job.key) or (job.references_version,))[0]


def _versions(connection: Connection, job_key: int) -> tuple[int, ...]:
    """The versions of the references that the statistics of a job's ended shards are of, in order."""
    found = connection.scalars(
        select(shards.c.references_version)
        .where(shards.c.job_key == job_key, shards.c.state.in_(("done", "cancelled", "failed")))
        .where(shards.c.succeeded > 0)
        .distinct()
        .order_by(shards.c.references_version)
    )
    return tuple(found)


def live(connection: Connection, job: Job) -> Report:
    """The metrics of a job as it stands, from its partials alone: intervals that need each document are not given."""
    partial, usage = merged(connection, job.key)
    return _report(job, partial, usage, None)


def stored(connection: Connection, job: Job) -> Report:
    """The metrics of a job that has ended, as `evaluate` kept them."""
    rows = connection.execute(select(metrics).where(metrics.c.job_key == job.key).order_by(metrics.c.ordinal)).all()
    found = [
        Metric(
            **{
                name: row._mapping[name]
                for name in ("name", "value", "ci_low", "ci_high", "n", "coverage", "signature")
            }
        )
        for row in rows
    ]
    matrix = ConfusionMatrix(**job.confusion_matrix) if job.confusion_matrix else None
    return Report(metrics=found, confusion_matrix=matrix)


def evaluate(engine: Engine, job_key: int) -> None:
    """Compute the metrics of an ended job with their intervals and keep them; repeating it writes the same.

    Nothing is kept while some of its documents' statistics are of older references than others (`db.rescoring`).
    """
    try:
        with reading(engine) as connection:
            job = job_rows.by_key(connection, job_key)
            found = _versions(connection, job_key)
            if len(found) > 1 and job.corpus_key is not None:
                return
            partial, usage = merged(connection, job_key)
            report = _report(job, partial, usage, result_rows.statistics(connection, job_key))
    except NotFound:
        return  # deleted meanwhile: nothing is left to evaluate
    transact(engine, lambda connection: _keep(connection, job, report, found))


def unevaluated(connection: Connection) -> list[int]:
    """Keys of jobs that have ended and whose metrics are still to be computed, or are of older references."""
    query = select(jobs.c.key).outerjoin(corpora, corpora.c.key == jobs.c.corpus_key)
    return list(
        connection.scalars(query.where(jobs.c.outcome.is_not(None), ~jobs.c.evaluated | _behind()).order_by(jobs.c.key))
    )


def behind(connection: Connection, job: Job) -> bool:
    """Whether the metrics that are kept of a job are of older references than its corpus has by now."""
    query = select(jobs.c.key).join(corpora, corpora.c.key == jobs.c.corpus_key)
    return connection.scalar(query.where(jobs.c.key == job.key, _behind())) is not None


def _behind() -> ColumnElement[bool]:
    return func.coalesce(corpora.c.references_version, 0) > jobs.c.references_version


def _report(job: Job, partial: Mapping[str, Any], usage: Mapping[str, Any], statistics: Any) -> Report:
    total = job.counts.total if job.counts else 0
    return evaluation.report(job.task, partial, statistics, total=total, usage=usage, wall_seconds=job.seconds)


def _keep(connection: Connection, job: Job, report: Report, found: tuple[int, ...]) -> None:
    job_key = job.key
    ended = connection.scalar(select(jobs.c.finished_at).where(jobs.c.key == job_key).with_for_update(key_share=True))
    if ended is None or ended != job.finished_at:
        return  # deleted, or opened again since: these figures are of an end that no longer stands
    if _versions(connection, job_key) != found:
        return  # some statistics have been made again since they were read
    newest = connection.scalar(select(corpora.c.references_version).where(corpora.c.key == job.corpus_key))
    # where no document succeeded there is nothing that references could be held against
    version = found[0] if found else newest or 0
    connection.execute(delete(metrics).where(metrics.c.job_key == job_key))
    rows = [
        {
            "job_key": job_key, "ordinal": ordinal, "name": metric.name, "value": metric.value,
            "ci_low": metric.ci_low, "ci_high": metric.ci_high, "n": metric.n, "coverage": metric.coverage,
            "signature": metric.signature,
        }
        for ordinal, metric in enumerate(report.metrics)
    ]  # fmt: skip
    if rows:
        connection.execute(insert(metrics), rows)
    matrix = report.confusion_matrix
    kept = {"labels": list(matrix.labels), "counts": [list(row) for row in matrix.counts]} if matrix else None
    connection.execute(
        update(jobs).where(jobs.c.key == job_key).values(
            evaluated=True, references_version=version, confusion_matrix=kept
        )
    )  # fmt: skip
