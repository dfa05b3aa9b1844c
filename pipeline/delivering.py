"""The third stage: what the job says goes to the sinks, and the ledger then says so.

Knows how a run's rows are read, and in what order sinks and ledger are written. Must not know any sink but by its shape.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from corpora import Store
from db import files, jobs, ledger, results, runs, schedules
from db.corpora import store_directory
from db.engine import Connection, reading
from db.jobs import Job
from db.ledger import Settled
from db.results import ResultRow, Selection
from db.runs import Run
from pipeline.places import load_places
from pipeline.report import SCORE_BINS
from pipeline.sinks import Delivered, OpenSink
from pipeline.work import Step, Work, scope_of

_BATCH = 1_000
#: For so many nights in a row a source that is appended does not go on, so that documents whose failure may pass come again.
MOST_NIGHTS_HELD = 3


def deliver(work: Work, open_sink: OpenSink) -> Step:
    """Write the sinks, then the ledger, then where the source goes on. Cut off anywhere, all of it is done again: the sinks
    take the same rows twice, and the ledger changes only what it has not yet."""
    begun = time.monotonic()
    run = work.run
    job = job_of(work, run)
    _doubt(work)
    places = load_places(work.settings)
    for definition in run.definition.sinks:
        work.go_on()
        sink = open_sink(definition, places, run=run.id, date=work.date)
        sink.deliver(work.outgoing(rows_of(work, run, job)), work.outgoing(_gone(work)))
    tally = _settle(work, job)
    seconds = dict(run.counts.get("seconds", {}))
    seconds["deliver"] = round(time.monotonic() - begun, 3)
    documents = dict(run.counts.get("documents", {})) | tally.documents
    counts = work.counted(documents=documents, seconds=seconds, **tally.as_json())
    position = _position(work, tally)

    def finish(connection: Connection) -> None:
        ledger.settle_gone(connection, run.schedule_key, run.key)
        ledger.let_go(connection, run.schedule_key, run.key)  # what could not be read, or is to be tried again
        # one that was changed meanwhile to read another source begins there from the start
        same = schedules.get(connection, run.schedule_id).definition.source == run.definition.source
        if position is not None and same:
            schedules.keep_position(connection, run.schedule_key, position)
        runs.advance(connection, work.held, stage="review", counts=counts)

    work.write(finish)
    return Step(stage="review", values={"counts": counts})


def _position(work: Work, tally: _Tally) -> Mapping[str, Any] | None:
    """Where the source goes on: for some nights at the old place, if it passed documents whose failure may pass."""
    run = work.run
    if not tally.again or run.position is None or run.definition.source.sync == "mirror":
        return run.position
    with reading(work.database) as connection:
        before = schedules.get(connection, run.schedule_id).position or {"source": None, "scope": run.position["scope"]}
    nights = before.get("held", 0)
    return run.position if nights >= MOST_NIGHTS_HELD else {**before, "held": nights + 1}


def rows_of(work: Work, run: Run, job: Job | None) -> Iterator[Delivered]:
    """The documents of a run with the results of its job, by position, a page at a time."""
    if job is None:
        return
    with files.expected(work.database, work.settings.data_dir, job.corpus_id):
        store = Store(store_directory(work.settings.data_dir, job.corpus_id))
    for page in _pages(work, job, len(store)):
        work.go_on()
        if not page:
            continue
        start, stop = page[0].position, page[-1].position + 1
        with files.expected(work.database, work.settings.data_dir, job.corpus_id):
            documents = {document.position: document for document in store.documents(start, stop)}
        for row in page:
            document, output = documents[row.position], row.output or {}
            yield Delivered(
                document_id=document.id, text=document.text, text_pair=document.text_pair, output=row.output,
                status=row.status, error=row.error, score=output.get("score"), label=output.get("label"),
                model_id=job.model.id, model_revision=job.model.revision, run_id=run.id,
                labelled_at=job.finished_at or job.now, fields=document.fields,
            )  # fmt: skip


def _pages(work: Work, job: Job, total: int) -> Iterator[list[ResultRow]]:
    for start in range(0, total, _BATCH):
        with reading(work.database) as connection:
            page = list(results.read(connection, job.key, Selection(start=start, stop=min(start + _BATCH, total))))
        yield page


def job_of(work: Work, run: Run) -> Job | None:
    """The job of a run, or None where nothing was new. Raises NotFound where it was deleted."""
    if run.job_id is None:
        return None
    with reading(work.database) as connection:
        return jobs.get(connection, run.job_id)


def _doubt(work: Work) -> None:
    run = work.run
    while work.write(lambda connection: ledger.doubt(connection, run.schedule_key, run.key)):
        work.go_on()


def _gone(work: Work) -> Iterator[str]:
    run = work.run
    last: str | None = None
    while True:
        with reading(work.database) as connection:
            ids = ledger.gone(connection, run.schedule_key, run.key, last)
        if not ids:
            return
        yield from ids
        last = ids[-1]


@dataclass(slots=True)
class _Tally:
    """What the results add up to: by status, by label, by score, and failures by their cause."""

    succeeded: int = 0
    failed: int = 0
    reused: int = 0
    again: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    scores: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, row: ResultRow) -> None:
        if row.status == "failed":
            self.failed += 1
            self.again += bool((row.error or {}).get("retryable"))
            self.failures[str((row.error or {}).get("code", "internal"))] += 1
            return
        self.succeeded += 1
        output: Mapping[str, Any] = row.output or {}
        label, score = output.get("label"), output.get("score")
        if isinstance(label, str):
            self.labels[label] += 1
        if isinstance(score, int | float):
            self.scores[max(0, min(SCORE_BINS - 1, int(score * SCORE_BINS)))] += 1

    @property
    def documents(self) -> dict[str, int]:
        ran = self.succeeded + self.failed - self.reused
        return {"succeeded": self.succeeded, "failed": self.failed, "reused": self.reused, "ran": ran}

    def as_json(self) -> dict[str, Any]:
        distribution = {"labels": dict(self.labels), "scores": self.scores}
        return {"distribution": distribution, "failures": dict(self.failures)}


def _settle(work: Work, job: Job | None) -> _Tally:
    """Bring the ledger up to date with the job's results."""
    tally = _Tally()
    if job is None:
        return tally
    run, tally.reused = work.run, job.reused
    scope = scope_of(job.task, job.model, dict(job.params))
    total = job.counts.total if job.counts else 0
    for page in _pages(work, job, total):
        work.go_on()
        for row in page:
            tally.add(row)
        ended = [_settled(row) for row in page]
        work.write(
            lambda connection, ended=ended: ledger.settle(  # type: ignore[misc]
                connection, run.schedule_key, run.key, ended, scope_hash=scope
            )
        )
    return tally


def _settled(row: ResultRow) -> Settled:
    again = row.status == "failed" and bool((row.error or {}).get("retryable"))
    return Settled(document_id=row.document_id, status=row.status, again=again)
