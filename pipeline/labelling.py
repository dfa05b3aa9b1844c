"""The second stage: a job runs over the run's corpus, and is looked at now and then.

Knows the job of a run, and the window in which it may run. Must not know shards, workers or models.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress

from corpora import Format, Upload
from corpusmill.errors import Conflict
from corpusmill.status import ENDED, Intent, Status
from db import corpora, files, ingest, job_moves, jobs, planning, runs
from db.corpora import Corpus
from db.engine import Connection, reading
from db.jobs import Job
from db.runs import RunStatus
from pipeline.work import Step, Work, model_of

#: How often a job is looked at.
_LOOK_SECONDS = 1.0
_CHILD_LOOK_SECONDS = 0.5


def label(work: Work) -> Step:
    """One look: makes the job where there is none, holds it outside the window, and goes on once it has ended."""
    run = work.run
    if run.corpus_id is None:
        return Step(stage="deliver")
    with reading(work.database) as connection:
        corpus = corpora.get(connection, run.corpus_id)
    if corpus.status == "validating":
        _ingest(work, corpus)
        with reading(work.database) as connection:
            corpus = corpora.get(connection, run.corpus_id)
    if corpus.status == "validating":  # somebody else is at it
        return Step(wait=_LOOK_SECONDS)
    if corpus.status == "rejected":
        return _rejected(work, corpus)
    if run.job_id is None:
        return _submit(work, corpus)
    with reading(work.database) as connection:
        job = jobs.get(connection, run.job_id)
    if job.status not in ENDED:
        return _hold_or_let_go(work, job)
    return _after(work, job)


def _ingest(work: Work, corpus: Corpus) -> None:
    """Read the upload into the corpus, here or in a child; whoever is cut off leaves it to the next."""
    if ingest.fits_in_process(corpus.bytes, Upload(Format(corpus.format), None)):
        ingest.run(work.database, work.settings, corpus.id)
        return
    with reading(work.database) as connection:
        if corpus.id not in corpora.unclaimed(connection, grace=0.0):
            return
    child = ingest.spawn(work.settings, corpus.id)
    while child.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            child.wait(_CHILD_LOOK_SECONDS)
        work.go_on()


def _rejected(work: Work, corpus: Corpus) -> Step:
    """What becomes of a run without a corpus: where none of its documents can be used, there may still be some that are gone
    from the source. Any other reason says nothing of the documents: the next run is to have them again."""
    error = corpus.error or {}
    if error.get("code") == "no_documents":
        return Step(stage="deliver", values={"corpus_id": None, "counts": _without(work, corpus)})
    message = f"The documents of this run could not be read into a corpus: {error.get('message', 'no reason was kept')}"
    return Step(end="failed", values={"error": _reason(str(error.get("code", "internal")), message)})


def _without(work: Work, corpus: Corpus) -> dict[str, object]:
    documents = dict(work.run.counts.get("documents", {}))
    documents["unusable"] = documents.get("unusable", 0) + corpus.invalid
    documents["read"] = documents.get("read", 0) - corpus.invalid  # by then they are lines that are no documents
    return work.counted(documents=documents)


def _submit(work: Work, corpus: Corpus) -> Step:
    """The job of the run, whose id follows from the run's: made twice, it is made once."""
    run, definition = work.run, work.run.definition
    model, params = model_of(work.catalog, definition.job)
    job_id = "job_" + run.id.removeprefix("run_")
    with files.expected(work.database, work.settings.data_dir, corpus.id):
        slices = planning.slices(work.settings, corpus, definition.job.task)
    now_open = work.open_now()

    def write(connection: Connection) -> None:
        jobs.create(
            connection, id=job_id, name=definition.name, task=definition.job.task, model=model, corpus=corpus,
            params=params.model_dump(mode="json", exclude_none=False), priority=definition.job.priority,
            metadata={"schedule": run.schedule_id, "run": run.id}, slices=slices,
            ttl=work.settings.job_ttl_seconds or None, reuse=definition.reuse,
        )  # fmt: skip
        status: RunStatus = "running"
        if not now_open:  # the window closed while the source was read
            job_moves.request_pause(connection, job_id)
            status = "paused"
        runs.advance(connection, work.held, job_id=job_id, status=status)

    work.write(write)
    counts = _without(work, corpus) | {"model": {"id": model.id, "revision": model.revision}}
    return Step(values={"job_id": job_id, "counts": counts})


def _hold_or_let_go(work: Work, job: Job) -> Step:
    """Outside the window the job is paused; a job that somebody else paused is left alone. Who paused it, the run's status
    says: the two are written at once."""
    open_now, paused = work.open_now(), work.run.status == "paused"

    def hold(connection: Connection) -> None:
        with suppress(Conflict):  # it has just ended
            job_moves.request_pause(connection, job.id)
        runs.advance(connection, work.held, status="paused")

    def let_go(connection: Connection) -> None:
        with suppress(Conflict):
            job_moves.request_resume(connection, job.id)
        runs.advance(connection, work.held, status="running")

    if not open_now and job.intent is Intent.RUN:
        work.write(hold)
    elif open_now and paused:
        work.write(let_go)
    at_rest = not open_now and job.status is Status.PAUSED
    return Step(wait=work.until_open() if at_rest else _LOOK_SECONDS)


def _after(work: Work, job: Job) -> Step:
    if job.status is Status.CANCELLED:
        return Step(end="cancelled", values={"error": _reason("cancelled", f"The job {job.id} was cancelled.")})
    if job.error is not None:
        message = f"The job {job.id} failed: {job.error.get('message', 'no reason was kept')}"
        return Step(end="failed", values={"error": _reason(str(job.error.get("code", "internal")), message)})
    seconds = dict(work.run.counts.get("seconds", {}))
    seconds["label"] = round(job.seconds or 0.0, 3)
    return Step(stage="deliver", values={"status": "running", "counts": work.counted(seconds=seconds)})


def _reason(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}
