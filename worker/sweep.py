"""The sweeper: puts right what a crash, a lost message or a restart has left undone.

Knows the database, the doorbell and the corpus files; beside its own steps it lets the runs of schedules go on
(`pipeline`). Must not know torch. Any number of sweepers may run: each step is one transaction whose repetition changes
nothing.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

import evaluation
from broker.doorbell import Doorbell
from corpora import Store, remove_partials
from corpusmill.documents import failed
from corpusmill.errors import (
    CorpusDamaged,
    CorpusmillError,
    DatabaseUnavailable,
    DocumentError,
    LeaseLost,
    NewerVersion,
    NotFound,
)
from corpusmill.schedules import ReportDefinition
from corpusmill.settings import Settings
from corpusmill.tasks import stored_params
from db import (
    corpora,
    files,
    forgetting,
    idempotency,
    ingest,
    jobs,
    losses,
    metrics,
    planning,
    references,
    rescoring,
    reuse,
    runs,
    schedules,
    shards,
    workers,
)
from db.corpora import store_directory
from db.engine import Connection, Engine, clock_of, create_engine, reading, settle, transact
from db.losses import Expired
from db.results import ResultRow, kept, result_of, row_of
from db.shards import Claim
from pipeline.parts import real_parts
from pipeline.running import Runner
from worker.pulse import Pulse

log = structlog.get_logger(__name__)

_FORGET_WORKERS_SECONDS = 3_600.0
_TIDY_SECONDS = 600.0
_RETIRED_AT_ONCE = 20
#: Of each sweep, for statistics that are to be made again with other references.
_RESCORING_SECONDS = 2.0
#: Slices of the kept outputs that are looked through at once: with all of them a round takes not quite three hours.
_SLICES_AT_ONCE = 16
#: Of each sweep, for what is kept of the texts of deleted corpora.
_FORGETTING_SECONDS = 2.0
_RUNS_SECONDS = 1.0
#: What keeps a job's metrics from being made is a file that is gone or damaged as a rule: no matter of seconds.
_SPOILED_SECONDS = 600.0
#: For runs to be given back when the process ends; `up` kills it not much later.
_LEAVE_SECONDS = 6.0
#: An upload is normally read by the process that received it; only what that process left behind is read here.
_INGEST_GRACE_SECONDS = 30.0


@dataclass(slots=True, kw_only=True)
class Sweeper:
    """One sweeper, for as long as its process lives."""

    settings: Settings
    database: Engine
    doorbell: Doorbell
    owner: str = field(default_factory=lambda: f"sweep:{os.urandom(8).hex()}")
    _reader: subprocess.Popen[bytes] | None = None
    _tidied: float = 0.0
    _slice: int = 0
    #: Jobs whose metrics cannot be made now, and when that is tried again, as `time.monotonic()`.
    _spoiled: dict[int, float] = field(default_factory=dict)
    #: Until then nothing is taken from anybody; infinite while the database does not answer. As `time.monotonic()`.
    _patient_until: float = 0.0
    #: The database's clock less ours, `time.monotonic()`, at the last sweep.
    _ahead_by: float | None = None

    def sweep(self, ended: Callable[[], bool] = lambda: False) -> None:
        """Do every step once, unless `ended` says between two that there is no more time. A step that fails is logged and
        does not keep the others from being done."""
        for step in (
            self._expire, self._ingest, self._plan, self._publish, self._close, self._evaluate, self._retire, self._forget,
            self._tidy, self._settle,
        ):  # fmt: skip
            if ended():
                return
            self._attempt(step)

    @staticmethod
    def _attempt(step: Callable[[], None]) -> Exception | None:
        """Do a step; returns what kept it from being done."""
        name = step.__name__.strip("_")
        try:
            step()
        except CorpusmillError as error:
            log.warning("step put off", step=name, why=str(error))
            return error
        except Exception as error:
            log.error("step failed", step=name, exc_info=error)
            return error
        return None

    def _expire(self) -> None:
        """Shards whose worker has gone: again, halved, or their one document blamed."""
        asked = time.monotonic()
        try:
            expired = transact(self.database, lambda connection: self._expired(connection, asked))
        except DatabaseUnavailable:
            self._patient_until = math.inf
            raise
        if expired.again or expired.halved or expired.blamed:
            log.warning("shards lost", again=expired.again, halved=expired.halved, blamed=len(expired.blamed))
        for claim in expired.blamed:
            try:
                self._blame(claim)
            except DatabaseUnavailable:
                raise  # nor could the others be written
            except (CorpusmillError, OSError) as error:  # its lease runs out, and then it has its turn again
                log.warning("a lost document is not blamed", shard=claim.key, why=str(error))
            except Exception as error:
                log.error("a lost document is not blamed", shard=claim.key, exc_info=error)

    def _expired(self, connection: Connection, asked: float) -> Expired:
        """While the database was away no worker could renew its lease, and where its clock was set on every lease seems to
        have run out: those that live get the time to renew theirs first, so that neither is charged to a shard and no
        finished work is done again."""
        lease, now = self.settings.lease_seconds, time.monotonic()
        ahead_by, before = clock_of(connection) - now, self._ahead_by
        self._ahead_by = ahead_by
        set_on = before is not None and ahead_by - before > lease / 3
        if self._patient_until == math.inf or now - asked > lease / 3 or set_on:
            self._patient_until = now + lease
        if now < self._patient_until:
            return Expired()
        return losses.expire(connection, owner=self.owner, lease=lease)

    def _blame(self, claim: Claim) -> None:
        with reading(self.database) as connection:
            job = jobs.by_key(connection, claim.job_key)
            before = kept(connection, claim.job_key, claim.slice) if claim.kept else []
        rows: list[ResultRow] = []
        if not before:  # else the document has its result, and the worker was lost with nothing left to run
            try:
                document = Store(store_directory(self.settings.data_dir, job.corpus_id)).document(claim.slice.start)
            except CorpusDamaged as damage:
                self._fail(claim, damage)
                return
            except NotFound:
                self._fail(claim, files.gone(self.settings.data_dir, job.corpus_id))
                return
            message = "The worker was lost again and again with this document alone."
            rows = [row_of(failed(document, DocumentError(code="worker_lost", message=message, retryable=True)), None)]
        whole = [*rows, *before]
        partial = evaluation.partial_of(
            job.task, [result_of(row) for row in whole], [row.statistics for row in whole],
            stored_params(job.task, job.params),
        )  # fmt: skip
        try:
            transact(
                self.database,
                lambda connection: shards.finish(connection, claim, rows=rows, usage={}, partial=partial),
            )
        except LeaseLost:
            log.info("blame taken back", shard=claim.key)  # cancelled or deleted meanwhile

    def _fail(self, claim: Claim, damage: CorpusDamaged) -> None:
        """End a job whose documents nobody can read any more, as a worker does that is to read them."""
        log.warning("job failed", job=claim.job_key, why=str(damage))
        transact(
            self.database,
            lambda connection: jobs.fail(connection, claim.job_key, code=damage.code, message=str(damage)),
        )

    def _ingest(self) -> None:
        """Uploads that were cut off between the disk and the corpus; one at a time, each in a child of its own."""
        if self._reader is not None and self._reader.poll() is None:
            return
        with reading(self.database) as connection:
            waiting = corpora.unclaimed(connection, grace=_INGEST_GRACE_SECONDS)
        for corpus_id in waiting[:1]:
            log.warning("reading an upload again", corpus=corpus_id)
            self._reader = ingest.spawn(self.settings, corpus_id)

    def _plan(self) -> None:
        planning.plan_waiting(self.database, self.settings)

    def _publish(self) -> None:
        """Ring for waiting shards that have no message: as many as wait, up to the window, less those in the queue."""
        window = self.settings.doorbell_window
        with reading(self.database) as connection:
            waiting = shards.waiting_count(connection, window)
        missing = waiting - self.doorbell.depth() if waiting else 0
        if missing <= 0:
            return
        with reading(self.database) as connection:
            keys = shards.to_publish(connection, missing)
        self.doorbell.ring(keys)
        transact(self.database, lambda connection: shards.mark_published(connection, keys))

    def _close(self) -> None:
        with reading(self.database) as connection:
            left = jobs.open_without_shards(connection)
        for job_key in left:
            transact(self.database, lambda connection, job_key=job_key: jobs.close_if_done(connection, job_key))  # type: ignore[misc]

    def _evaluate(self) -> None:
        """Metrics of jobs that have ended, and of those whose corpus has got other references since. What is much is done
        over several sweeps, so that leases and doorbells are seen to in between."""
        until = time.monotonic() + _RESCORING_SECONDS
        with reading(self.database) as connection:
            left, running = metrics.unevaluated(connection), rescoring.behind(connection)
        now = time.monotonic()
        self._spoiled = {job_key: until for job_key, until in self._spoiled.items() if until > now}
        for job_key in [*left, *running]:
            if job_key in self._spoiled:
                continue
            try:
                whole = rescoring.bring_up_to_date(
                    self.database, self.settings.data_dir, job_key, seconds=until - time.monotonic()
                )
                if whole and job_key in left:
                    metrics.evaluate(self.database, job_key)
            except DatabaseUnavailable:
                raise
            except Exception as error:
                expected = isinstance(error, CorpusmillError | OSError)
                log.warning(
                    "metrics stay as they are", job=job_key, why=str(error), exc_info=None if expected else error
                )
                self._spoiled[job_key] = now + _SPOILED_SECONDS

    def _retire(self) -> None:
        """Jobs and corpora whose time is over, with everything that belongs to them."""
        with reading(self.database) as connection:
            old_jobs = jobs.expired(connection, _RETIRED_AT_ONCE)
            old_corpora = corpora.expired(connection, _RETIRED_AT_ONCE)
        for job_id in old_jobs:
            files.remove_job(self.database, self.settings.data_dir, job_id, expired_only=True)
        for corpus_id in old_corpora:
            transact(self.database, lambda connection, corpus_id=corpus_id: corpora.remove(connection, corpus_id))  # type: ignore[misc]
            self._remove_files(corpus_id)
        if old_jobs or old_corpora:
            log.info("retired", jobs=old_jobs, corpora=old_corpora)

    def _forget(self) -> None:
        """What is kept for others of the texts of deleted corpora, and then their documents."""
        until = time.monotonic() + _FORGETTING_SECONDS
        with reading(self.database) as connection:
            left = forgetting.waiting(connection)
        for corpus_id in left:
            try:
                done = forgetting.go_on(
                    self.database, self.settings.data_dir, corpus_id, seconds=until - time.monotonic()
                )  # fmt: skip
            except OSError as error:  # one whose files cannot be read must not keep the others waiting
                log.error("a deleted corpus is not forgotten", corpus=corpus_id, exc_info=error)
                continue
            if not done:
                return
            log.info("forgot the texts of a deleted corpus", corpus=corpus_id)

    def _tidy(self) -> None:
        if time.monotonic() - self._tidied < _TIDY_SECONDS and self._tidied:
            return
        self._tidied = time.monotonic()
        for step in (
            self._forget_workers, self._forget_keys, self._forget_outputs, self._forget_runs, self._remove_partials,
            self._remove_strays, self._remove_superseded, self._remove_abandoned, self._remove_read, self._remove_orphans,
        ):  # fmt: skip
            if isinstance(self._attempt(step), DatabaseUnavailable):
                return

    def _forget_workers(self) -> None:
        transact(self.database, lambda connection: workers.forget_gone(connection, after=_FORGET_WORKERS_SECONDS))

    def _forget_keys(self) -> None:
        transact(self.database, idempotency.forget_old)

    def _remove_partials(self) -> None:
        remove_partials(self.settings.data_dir / "corpora")

    def _remove_strays(self) -> None:
        forgetting.remove_strays(self.database, self.settings.data_dir)

    def _remove_superseded(self) -> None:
        references.remove_superseded(self.database, self.settings.data_dir, older=files.ORPHAN_SECONDS)

    def _remove_abandoned(self) -> None:
        """Documents of jobs that never were."""
        with reading(self.database) as connection:
            abandoned = corpora.abandoned(connection, older=files.ORPHAN_SECONDS)
        for corpus_id in abandoned:
            log.info("removing documents of a job that never was", corpus=corpus_id)
            transact(self.database, lambda connection, corpus_id=corpus_id: corpora.remove(connection, corpus_id))  # type: ignore[misc]
            self._remove_files(corpus_id)

    def _remove_read(self) -> None:
        with reading(self.database) as connection:
            files.remove_read(connection, self.settings.data_dir)

    def _remove_orphans(self) -> None:
        with reading(self.database) as connection:
            left = files.orphans(connection, self.settings.data_dir)
        for corpus_id in left:
            log.info("removing files without a corpus", corpus=corpus_id)
            self._remove_files(corpus_id)

    def _remove_files(self, corpus_id: str) -> None:
        """Files that cannot be removed now are orphans later."""
        try:
            files.remove_corpus(self.settings.data_dir, corpus_id)
        except OSError as error:
            log.error("files are not removed", corpus=corpus_id, exc_info=error)

    def _settle(self) -> None:
        """Whoever deletes empties the log once, and cannot where others are at work in that moment. It is not asked who that
        was and when: an empty log costs nothing."""
        settle(self.database)

    def _forget_outputs(self) -> None:
        """Outputs that no job has used for as long as they are kept, in some slices of their keys at a time."""
        if not self.settings.reuse_days:
            return
        for _ in range(_SLICES_AT_ONCE):
            part, self._slice = self._slice, (self._slice + 1) % reuse.SLICES
            transact(
                self.database,
                lambda connection, part=part: reuse.forget_unused(  # type: ignore[misc]
                    connection, seconds=self.settings.reuse_days * 86_400, part=part
                ),
            )
        transact(self.database, reuse.forget_empty_scopes)  # a scope says the parameters of a job, prompts among them

    def _forget_runs(self) -> None:
        """Runs that ended long ago, but for those with which the next reports compare."""
        if not self.settings.run_days:
            return
        with reading(self.database) as connection:
            keys = schedules.keys(connection)
        for key in keys:
            with suppress(NewerVersion):  # a program of that version knows what its reports need
                transact(self.database, lambda connection, key=key: self._forget_runs_of(connection, key))  # type: ignore[misc]

    def _forget_runs_of(self, connection: Connection, schedule_key: int) -> None:
        schedule = schedules.locked(connection, schedule_key)
        if schedule is not None:
            keep = (schedule.definition.report or ReportDefinition()).looked_at
            runs.forget_old(connection, schedule_key, seconds=self.settings.run_days * 86_400, keep=keep)


def main(settings: Settings) -> None:
    """Sweep every `sweep_seconds` until SIGTERM or SIGINT, which its readers are told at once: the step in hand may take as
    long as a supervisor waits."""
    ended = threading.Event()

    def end(*_: object) -> None:
        ended.set()
        ingest.end_readers()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    sweeper = Sweeper(
        settings=settings, database=create_engine(settings.database, pool_size=4), doorbell=Doorbell(settings)
    )
    log.info("sweeping", every=settings.sweep_seconds)
    # In a thread of its own: reading a source may take an hour, and shards are not to wait for that.
    runner = Runner(settings=settings, database=sweeper.database, parts=real_parts(), stopping=ended)
    every = min(settings.sweep_seconds, _RUNS_SECONDS)
    keeping = threading.Thread(target=runner.keep, args=(every,), name="runs", daemon=True)
    keeping.start()
    pulse = Pulse(settings.pulse_file)
    while not ended.is_set():
        sweeper.sweep(ended.is_set)
        pulse.beat()
        ended.wait(settings.sweep_seconds)
    keeping.join(_LEAVE_SECONDS)
