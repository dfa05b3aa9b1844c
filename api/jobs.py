"""Routes of jobs: submit, poll, list, cancel, delete, and their metrics.

Knows requests and answers. Must not know shards, leases or formulas.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import structlog
from flask import Response, request

import db.corpora as corpus_rows
import db.idempotency as keys
import db.job_moves as moves
import db.jobs as rows
from api.blueprint import answer, cursor_key
from api.blueprint import blueprint as make_blueprint
from api.idempotency import first_answer, idempotency_of, is_first
from api.schemas import InlineDocument, JobList, JobPath, JobQuery, JobRequest, JobResponse, JobsQuery, MetricsResponse
from api.state import State, state
from api.views import etag_of, job_view, keyset_view, report_view
from corpusmill.errors import (
    BrokerUnavailable,
    Conflict,
    CorpusmillError,
    DatabaseUnavailable,
    FieldFault,
    InvalidRequest,
    NotFound,
)
from corpusmill.ids import new_id
from corpusmill.status import ENDED, Status
from corpusmill.tasks import parse_params
from db import files, ingest, metrics, planning, rescoring, shards
from db.corpora import Corpus
from db.engine import Connection, reading, settle, transact
from db.jobs import Job

log = structlog.get_logger(__name__)
blueprint = make_blueprint("jobs", "A task, a model and parameters over a corpus.")

#: Largest text of inline documents; a larger set belongs in a corpus.
MOST_INLINE_BYTES = 32 << 20
_POLL_SECONDS = 0.25
#: For which an answer with metrics may wait for them to be held against other references.
_SCORING_SECONDS = 20.0


@blueprint.post("/jobs", responses={202: JobResponse})
def submit(body: JobRequest) -> Response:
    """Submit a job

    The answer comes when the job is committed with its shards; whatever happens afterwards, it will be run. With an
    `Idempotency-Key` a repetition within 24 hours gets the first answer and makes no second job; once the job is deleted,
    a 410. A corpus whose files are damaged or gone is a 409 (`corpus_damaged`)."""
    here = state()
    once = idempotency_of(request)
    if once is not None and (first := first_answer(here.database, once)) is not None:
        return _accepted(first)
    model = here.catalog.resolve(body.model, body.revision)
    params = here.catalog.check(model, body.task, parse_params(body.task, body.params))
    corpus = _inline(here, body.documents) if body.documents is not None else _corpus(here, body.corpus or "")
    job_id = new_id("job")

    def write(connection: Connection) -> dict[str, Any] | None:
        if once is not None and not is_first(connection, once, job_id):
            return None
        rows.create(
            connection, id=job_id, name=body.name, task=body.task, model=model, corpus=corpus,
            params=params.model_dump(mode="json", exclude_none=False), priority=body.priority, metadata=body.metadata,
            slices=slices, ttl=body.ttl_seconds or here.settings.job_ttl_seconds or None, reuse=body.reuse,
        )  # fmt: skip
        view = _view(connection, rows.get(connection, job_id))
        if once is not None:
            keys.keep_answer(connection, once.key, view)
        return view

    view: dict[str, Any] | None = None
    try:
        with files.expected(here.database, here.data_dir, corpus.id):
            slices = planning.slices(here.settings, corpus, body.task)
        view = transact(here.database, write)
    finally:
        if view is None and body.documents is not None:  # no job has come of them
            files.take_back(here.database, here.data_dir, corpus.id)
    if view is None:  # another request with the same key came first by a moment
        first = first_answer(here.database, once) if once is not None else None
        assert first is not None, "the other request's key and answer were committed together"
        return _accepted(first)
    _ring(here)
    return _accepted(view)


def _accepted(view: dict[str, Any]) -> Response:
    return answer(view, 202, Location=f"/api/v1/jobs/{view['id']}", ETag=f'"{etag_of(view)}"')


@blueprint.get("/jobs", responses={200: JobList})
def list_jobs(query: JobsQuery) -> dict[str, Any]:
    """List jobs, newest first"""
    with reading(state().database) as connection:
        found = rows.page(
            connection,
            before=cursor_key(query.cursor),
            limit=query.limit + 1,
            statuses=query.status or (),
            task=query.task,
        )
        return keyset_view(found, query.limit, lambda job: _view(connection, job), lambda job: job.key)


@blueprint.get("/jobs/<string:job_id>", responses={200: JobResponse})
def get_job(path: JobPath, query: JobQuery) -> Response:
    """A job as it stands

    With `If-None-Match` the answer is 304 while the job has not changed; with `wait` it comes when the job changes."""
    here = state()
    view = _read(here, path.job_id)
    known = request.if_none_match if request.headers.get("If-None-Match") else None
    if query.wait and view["status"] not in ENDED and (known is None or known.contains_weak(etag_of(view))):
        view = _wait(here, path.job_id, view, query.wait)
    tag = etag_of(view)
    if known is not None and known.contains_weak(tag):
        return Response(status=304, headers={"ETag": f'"{tag}"'})
    return answer(view, ETag=f'"{tag}"')


@blueprint.post("/jobs/<string:job_id>/cancel", responses={202: JobResponse})
def cancel(path: JobPath) -> Response:
    """Cancel a job

    Documents that have ended keep their results; the others end as `cancelled`, those on a device after their batch."""
    return _move(path, moves.request_cancel)


@blueprint.post("/jobs/<string:job_id>/pause", responses={202: JobResponse})
def pause(path: JobPath) -> Response:
    """Pause a job

    No more of it is started, and what is on a device goes back into the queue after its batch, unharmed."""
    return _move(path, moves.request_pause)


@blueprint.post("/jobs/<string:job_id>/resume", responses={202: JobResponse})
def resume(path: JobPath) -> Response:
    """Let a paused job go on"""
    accepted = _move(path, moves.request_resume)
    _ring(state())
    return accepted


@blueprint.post("/jobs/<string:job_id>/retry", responses={202: JobResponse})
def retry(path: JobPath) -> Response:
    """Run the failed documents of a job again

    What succeeded stays, and the metrics are computed again when the job ends."""
    accepted = _move(path, moves.retry)
    _ring(state())
    return accepted


def _move(path: JobPath, move: Callable[[Connection, str], Job]) -> Response:
    here = state()
    tried = False

    def once(connection: Connection) -> None:
        nonlocal tried
        try:
            move(connection, path.job_id)
        except Conflict:
            # What was committed though its answer was lost may not be asked for again. The first try may as well have been
            # rolled back, and the job have ended before this one: then nothing was asked of it, and the answer is that of a
            # request which came just before its end and was too late to change it.
            if not tried:
                raise
        tried = True

    transact(here.database, once)
    return answer(_read(here, path.job_id), 202)


@blueprint.delete("/jobs/<string:job_id>", responses={204: None})
def delete(path: JobPath) -> Response:
    """Delete a job with its results and metrics, whatever its state

    Documents that came with the job go with it, and within moments the outputs that jobs with `reuse` kept of their texts.
    Those of the texts of an uploaded corpus stay until that is deleted."""
    here = state()
    files.remove_job(here.database, here.data_dir, path.job_id)
    settle(here.database)
    return Response(status=204)


@blueprint.get("/jobs/<string:job_id>/metrics", responses={200: MetricsResponse})
def get_metrics(path: JobPath) -> dict[str, Any]:
    """The job's metrics, live while it runs, with 95 % intervals once it has ended"""
    here = state()
    with reading(here.database) as connection:
        job = rows.get(connection, path.job_id)
    if job.status not in ENDED:
        return here.recent.get(("live metrics", job.key), lambda: _live(here, job))
    _evaluate(here, job)
    with reading(here.database) as connection:
        job = rows.get(connection, path.job_id)
        if job.evaluated:
            return report_view(metrics.stored(connection, job), references_version=job.references_version)
    return _live(here, job)


def _evaluate(here: State, job: Job) -> None:
    """Compute the metrics of an ended job, where that is to be done and does not take long; or else the sweeper does."""
    with reading(here.database) as connection:
        behind = metrics.behind(connection, job)
    if job.evaluated and not (behind and rescoring.at_once(job)):
        return
    try:
        if rescoring.bring_up_to_date(here.database, here.data_dir, job.key, seconds=_SCORING_SECONDS):
            metrics.evaluate(here.database, job.key)
    except DatabaseUnavailable:
        raise
    except (OSError, CorpusmillError) as error:  # a file that is gone or damaged: what was computed before still stands
        log.warning("metrics stay as they are", job=job.id, why=str(error))


def _live(here: State, job: Job) -> dict[str, Any]:
    with reading(here.database) as connection:
        return report_view(
            metrics.live(connection, job), references_version=metrics.references_of(connection, job)
        )  # fmt: skip


def _corpus(here: State, corpus_id: str) -> Corpus:
    with reading(here.database) as connection:
        try:
            corpus = corpus_rows.get(connection, corpus_id)
        except NotFound as error:
            raise InvalidRequest(str(error), FieldFault("/corpus", "unknown"), code="unknown_corpus") from error
    corpus_rows.require_usable(corpus)
    return corpus


def _inline(here: State, documents: list[InlineDocument]) -> Corpus:
    """A corpus of the documents in the body, on disk and in SQL like any other."""
    corpus_id = new_id("corpus")
    lines = [json.dumps(document.model_dump(exclude_unset=True), ensure_ascii=True) for document in documents]
    body = ("\n".join(lines) + "\n").encode()
    if len(body) > MOST_INLINE_BYTES:
        raise InvalidRequest(
            f"The documents have {len(body)} bytes; up to {MOST_INLINE_BYTES} go into a job. Upload a corpus instead.",
            FieldFault("/documents", "too many bytes"), code="too_large",
        )  # fmt: skip
    try:
        ingest.run_inline(here.database, here.settings, corpus_id, body)
        with reading(here.database) as connection:
            corpus = corpus_rows.get(connection, corpus_id)
        if corpus.invalid:
            errors = ingest.errors_of(here.settings, corpus_id, 20)
            raise InvalidRequest(
                "Some documents cannot be used: " + errors[0].message,
                *(
                    FieldFault(f"/documents/{error.line - 1}/{error.column or ''}".rstrip("/"), error.message)
                    for error in errors
                ),
            )
        corpus_rows.require_usable(corpus)
    except Exception:
        files.take_back(here.database, here.data_dir, corpus_id)
        raise
    return corpus


def _ring(here: State) -> None:
    """Ring for what was just committed. A broker or database that does not answer by now costs time, never the job: the
    sweeper rings."""
    try:
        room = here.settings.doorbell_window - here.doorbell.depth()
        with reading(here.database) as connection:
            waiting = shards.to_publish(connection, room)
        here.doorbell.ring(waiting)
        transact(here.database, lambda connection: shards.mark_published(connection, waiting))
    except (BrokerUnavailable, DatabaseUnavailable) as error:
        log.warning("doorbell not rung", why=str(error))


def _wait(here: State, job_id: str, view: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The job once it has changed, or as it stands after `seconds`; at once where too many threads wait already."""
    if not here.waiting.acquire(blocking=False):
        return view
    try:
        tag, deadline = etag_of(view), time.monotonic() + seconds
        while etag_of(view) == tag and time.monotonic() < deadline:
            time.sleep(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))
            view = _read(here, job_id)
        return view
    finally:
        here.waiting.release()


def _read(here: State, job_id: str) -> dict[str, Any]:
    with reading(here.database) as connection:
        return _view(connection, rows.get(connection, job_id))


def _view(connection: Connection, job: Job) -> dict[str, Any]:
    queued = job.status is Status.QUEUED
    return job_view(
        job, queue_position=rows.queue_position(connection, job) if queued else None,
        references_version=metrics.references_of(connection, job),
    )  # fmt: skip
