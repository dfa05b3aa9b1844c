"""Jobs: what was asked, how their shards stand, and how they end.

Knows the tables `jobs` and `shards`. Must not know leases (`db.shards`), what is asked of a job later (`db.job_moves`), or
what a worker does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, case, delete, func, insert, select, update

from corpusmill.errors import NotFound
from corpusmill.models import ModelInfo
from corpusmill.shards import Slice
from corpusmill.status import ENDED, Counts, Intent, Status, status_of
from corpusmill.tasks import Task
from db import idempotency
from db.corpora import Corpus
from db.engine import db_now
from db.tables import corpora, jobs, shards

_SHARDS_A_STATEMENT = 1_000
#: The statuses of jobs that have not ended.
OPEN = frozenset(Status) - ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as its row and its shards stand. Times are seconds since 1970 by the database's clock; `now` is that clock at
    the time of reading. `counts` is None until the shards are planned."""

    key: int
    id: str
    name: str | None
    task: Task
    model: ModelInfo
    corpus_key: int | None
    corpus_id: str
    corpus_invalid: int
    params: Mapping[str, Any]
    priority: int
    metadata: Mapping[str, Any]
    intent: Intent
    error: Mapping[str, Any] | None
    counts: Counts | None
    runtime: Mapping[str, Any] | None
    summary: Mapping[str, Any] | None
    confusion_matrix: Mapping[str, Any] | None
    evaluated: bool
    references_version: int
    outcome: Status | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    expires_at: float | None
    reuse: bool
    #: Documents whose results were taken from outputs kept before.
    reused: int
    now: float

    @property
    def status(self) -> Status:
        if self.outcome:
            return self.outcome
        return status_of(self.intent, str(self.error) if self.error else None, self.counts)

    @property
    def seconds(self) -> float | None:
        """How long it has been running, or ran."""
        return None if self.started_at is None else max(0.0, (self.finished_at or self.now) - self.started_at)


def create(
    connection: Connection, *, id: str, name: str | None, task: Task, model: ModelInfo, corpus: Corpus,
    params: Mapping[str, Any], priority: int, metadata: Mapping[str, Any], slices: Iterable[Slice] | None,
    ttl: float | None = None, reuse: bool = False,
) -> None:  # fmt: skip
    """A job and, where the corpus is ready, its shards; repeating it with the same id changes nothing.

    `ttl` is the seconds for which it is kept after its end, or None for ever; `reuse` lets outputs kept of the same texts
    stand for the model's, and keeps its own.
    """
    if connection.scalar(select(jobs.c.key).where(jobs.c.id == id)) is not None:
        return
    key = connection.execute(
        insert(jobs)
        .values(
            id=id, name=name, task=task, model_id=model.id, model_revision=model.revision, model=_model_json(model),
            corpus_key=corpus.key, corpus_id=corpus.id, corpus_invalid=corpus.invalid, params=dict(params),
            priority=priority, metadata=dict(metadata), intent=Intent.RUN, created_at=db_now(), ttl=ttl, reuse=reuse,
        )
        .returning(jobs.c.key)
    ).scalar_one()  # fmt: skip
    if slices is not None:
        plan(connection, key, slices, invalid=corpus.invalid)


def plan(connection: Connection, job_key: int, slices: Iterable[Slice], *, invalid: int) -> None:
    """Write a job's shards, once; a job that has them already keeps them."""
    row = connection.execute(
        select(jobs.c.total, jobs.c.outcome).where(jobs.c.key == job_key).with_for_update(key_share=True)
    ).one_or_none()
    if row is None or row.total is not None or row.outcome is not None:
        return
    total = 0
    rows: list[dict[str, Any]] = []
    for piece in slices:
        rows.append({"job_key": job_key, "start": piece.start, "stop": piece.stop, "state": "pending"})
        total = piece.stop
        if len(rows) == _SHARDS_A_STATEMENT:
            connection.execute(insert(shards), rows)
            rows = []
    if rows:
        connection.execute(insert(shards), rows)
    connection.execute(update(jobs).where(jobs.c.key == job_key).values(total=total, corpus_invalid=invalid))


def unplanned(connection: Connection, corpus_key: int | None = None) -> list[tuple[int, str, Task]]:
    """(job key, corpus id, task) of jobs without shards whose corpus is validated by now."""
    query = (
        select(jobs.c.key, corpora.c.id, jobs.c.task)
        .join(corpora, corpora.c.key == jobs.c.corpus_key)
        .where(jobs.c.total.is_(None), jobs.c.outcome.is_(None), corpora.c.status != "validating")
    )
    if corpus_key is not None:
        query = query.where(corpora.c.key == corpus_key)
    return [(job, corpus, Task(task)) for job, corpus, task in connection.execute(query)]


def get(connection: Connection, job_id: str) -> Job:
    """The job with that id. Raises NotFound."""
    found = _read(connection, select(jobs, db_now().label("now")).where(jobs.c.id == job_id))
    if not found:
        raise NotFound(f"There is no job {job_id!r}.")
    return found[0]


def by_key(connection: Connection, job_key: int) -> Job:
    """The job with that key. Raises NotFound where it was deleted."""
    found = _read(connection, select(jobs, db_now().label("now")).where(jobs.c.key == job_key))
    if not found:
        raise NotFound("The job was deleted.")
    return found[0]


def page(
    connection: Connection,
    *,
    before: int | None,
    limit: int,
    statuses: Collection[Status] = (),
    task: Task | None = None,
) -> list[Job]:
    """Up to `limit` jobs, newest first, older than the key `before`, with one of `statuses` (all where empty)."""
    query = select(jobs, db_now().label("now")).order_by(jobs.c.key.desc())
    if task is not None:
        query = query.where(jobs.c.task == task)
    wanted = set(statuses) or set(Status)
    ended = sorted(wanted & ENDED)
    if not wanted - ENDED:
        query = query.where(jobs.c.outcome.in_(ended))
    elif not ended:
        query = query.where(jobs.c.outcome.is_(None))
    found: list[Job] = []
    while len(found) < limit:
        # The status of an open job follows from its shards, so open jobs are read and then chosen.
        step = query if before is None else query.where(jobs.c.key < before)
        read = _read(connection, step.limit(limit))
        found += [job for job in read if job.status in wanted]
        if len(read) < limit:
            break
        before = read[-1].key
    return found[:limit]


def queue_position(connection: Connection, job: Job) -> int:
    """How many jobs that have not started come before this one, by priority and age."""
    ahead = (
        select(func.count())
        .select_from(jobs)
        .where(
            jobs.c.outcome.is_(None), jobs.c.started_at.is_(None), jobs.c.intent == Intent.RUN, jobs.c.key != job.key
        )
        .where((jobs.c.priority > job.priority) | ((jobs.c.priority == job.priority) & (jobs.c.key < job.key)))
    )
    return connection.execute(ahead).scalar_one()


def _undone() -> Any:
    """The documents of a shard that have no result: one that was reopened has some."""
    return shards.c.stop - shards.c.start - shards.c.succeeded


def fail(connection: Connection, job_key: int, *, code: str, message: str) -> None:
    """End a job that cannot go on: the documents not yet done fail with this reason, results already there stay."""
    open_ = (jobs.c.key == job_key, jobs.c.outcome.is_(None), jobs.c.error.is_(None))
    if connection.scalar(select(jobs.c.key).where(*open_)) is None:
        return
    # Shards before their job, the order in which whoever claims one locks them: in the other, the two wait for each other.
    connection.execute(
        update(shards)
        .where(shards.c.job_key == job_key, shards.c.state.in_(("pending", "running")))
        .values(state="failed", failed=_undone(), owner=None, finished_at=db_now())
    )
    if connection.execute(update(jobs).where(*open_).values(error={"code": code, "message": message})).rowcount:
        close_if_done(connection, job_key)


def end_waiting(connection: Connection, job_key: int, end: Literal["cancelled", "failed"]) -> None:
    """End the shards of a job that nobody has claimed."""
    connection.execute(
        update(shards)
        .where(shards.c.job_key == job_key, shards.c.state == "pending")
        .values(state=end, finished_at=db_now(), **{end: _undone()})
    )


def close_if_done(connection: Connection, job_key: int) -> bool:
    """End a job none of whose shards is open any more. The job's row is locked, so that of two last shards one ends it."""
    row = connection.execute(
        select(jobs.c.outcome, jobs.c.total, jobs.c.intent, jobs.c.error)
        .where(jobs.c.key == job_key)
        # FOR NO KEY UPDATE: each result that was written holds the row's key by its foreign key, and two shards that wanted
        # more than that of each other would lock for ever.
        .with_for_update(key_share=True)
    ).one_or_none()
    if row is None or row.outcome is not None:
        return False
    if row.intent == Intent.CANCEL or row.error is not None:
        # given back, or halved, after the job was cancelled or failed: nobody will ever claim it
        end_waiting(connection, job_key, "failed" if row.error is not None else "cancelled")
    never_planned = row.total is None and (row.intent == Intent.CANCEL or row.error is not None)
    counts, reused = _sums(connection, [job_key], {job_key: row.total}).get(job_key, (Counts(), 0))
    if not never_planned and (row.total is None or counts.pending):
        return False
    status = status_of(Intent(row.intent), str(row.error) if row.error else None, None if never_planned else counts)
    summary = {"succeeded": counts.succeeded, "failed": counts.failed, "cancelled": counts.cancelled}
    connection.execute(
        update(jobs)
        .where(jobs.c.key == job_key)
        .values(outcome=status, finished_at=db_now(), summary=summary, reused=reused, expires_at=db_now() + jobs.c.ttl)
    )
    return True


def open_without_shards(connection: Connection) -> list[int]:
    """Keys of jobs that have not ended although none of their shards is open: their end was cut off by a crash."""
    stranded = (jobs.c.intent == Intent.CANCEL) | jobs.c.error.is_not(None)
    open_ = (shards.c.state == "running") | ((shards.c.state == "pending") & ~stranded)
    has_open = select(shards.c.key).where(shards.c.job_key == jobs.c.key, open_).correlate(jobs).exists()
    return list(
        connection.scalars(select(jobs.c.key).where(jobs.c.outcome.is_(None), jobs.c.total.is_not(None), ~has_open))
    )


def record_runtime(connection: Connection, job_key: int, runtime: Mapping[str, Any]) -> None:
    """Keep what shaped the job's outputs, as the first worker that ran a shard of it reports; with the shard that holds
    the first documents may come their `agreement` with the plain model's, which replaces it."""
    wanted = [jobs.c.key == job_key]
    if "agreement" not in runtime:
        wanted.append(jobs.c.runtime.is_(None))
    connection.execute(update(jobs).where(*wanted).values(runtime=dict(runtime)))


def expired(connection: Connection, most: int) -> list[str]:
    """Ids of up to `most` jobs that have been kept for as long as they were to be."""
    return list(connection.scalars(select(jobs.c.id).where(jobs.c.expires_at <= db_now()).limit(most)))


def remove(connection: Connection, job_id: str, *, expired_only: bool = False) -> Corpus | None:
    """Delete a job with its shards, results and metrics; a worker still at it finds its shard gone and writes nothing.

    Returns the corpus of its inline documents, whose row is deleted with it and whose files are then to be. Raises
    NotFound.
    """
    from db import corpora as corpora_

    job = get(connection, job_id)
    gone = delete(jobs).where(jobs.c.key == job.key)
    if expired_only:
        gone = gone.where(jobs.c.expires_at <= db_now())  # it may have been opened again meanwhile
    if not connection.execute(gone).rowcount:
        return None
    idempotency.forget_answers(connection, [job.id])
    corpus = corpora_.get(connection, job.corpus_id) if job.corpus_key is not None else None
    if corpus is None or not corpus.inline:
        return None
    connection.execute(delete(corpora).where(corpora.c.key == corpus.key))
    return corpus


def _read(connection: Connection, query: Any) -> list[Job]:
    rows = connection.execute(query).all()
    totals = {row.key: row.total for row in rows if row.outcome is None and row.total is not None}
    sums = _sums(connection, totals, totals) if totals else {}
    return [_job(row, sums.get(row.key)) for row in rows]


def _sums(
    connection: Connection, keys: Collection[int], totals: Mapping[int, int | None]
) -> dict[int, tuple[Counts, int]]:
    """Counts, and how many results were taken from outputs kept before, by job key."""
    rows = connection.execute(
        select(
            shards.c.job_key,
            func.sum(shards.c.succeeded).label("succeeded"),
            func.sum(shards.c.failed).label("failed"),
            func.sum(shards.c.cancelled).label("cancelled"),
            func.sum(case((shards.c.state == "running", 1), else_=0)).label("running"),
            func.coalesce(func.sum(shards.c.usage["reused"].as_integer()), 0).label("reused"),
        )
        .where(shards.c.job_key.in_(keys))
        .group_by(shards.c.job_key)
    )
    return {
        row.job_key: (
            Counts(
                total=totals[row.job_key] or 0, succeeded=int(row.succeeded), failed=int(row.failed),
                cancelled=int(row.cancelled), running=int(row.running),
            ),
            int(row.reused),
        )
        for row in rows
    }  # fmt: skip


def _job(row: Row[Any], sums: tuple[Counts, int] | None) -> Job:
    values = dict(row._mapping)
    total = values.pop("total")
    counts, reused = sums or (None, 0)
    if values["summary"] is not None:
        counts = Counts(total=total or 0, **values["summary"])
        reused = values["reused"] or 0
    for name in ("model_id", "model_revision", "claimed_at", "ttl", "load_losses", "load_lost_at"):
        values.pop(name)
    return Job(
        **values
        | {
            "task": Task(row.task),
            "model": _model(row.model),
            "intent": Intent(row.intent),
            "outcome": Status(row.outcome) if row.outcome else None,
            "counts": counts,
            "reused": reused,
        }
    )


def _model_json(model: ModelInfo) -> dict[str, Any]:
    return {name: getattr(model, name) for name in ModelInfo.__dataclass_fields__}


def _model(values: Mapping[str, Any]) -> ModelInfo:
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return ModelInfo(**{**values, **lists, "tasks": tuple(Task(task) for task in values["tasks"])})
