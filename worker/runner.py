"""What is done with one shard: claim, read and tokenize it; and after the model, evaluate and save it, or give it up.

Knows these steps and what to do when one fails. Must not know torch, Celery, how a model computes, or what runs beside
what (`serving`): it is given its models, its database and its heartbeat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

import structlog

import evaluation
from corpora import Store
from corpusmill.documents import Document, Result
from corpusmill.errors import (
    CorpusDamaged,
    CorpusmillError,
    DatabaseUnavailable,
    DeviceLost,
    LeaseLost,
    ModelFault,
    NewerVersion,
    NotFound,
)
from corpusmill.models import ModelInfo
from corpusmill.settings import Settings
from corpusmill.shards import Slice
from corpusmill.tasks import Params, Task, stored_params
from db import files, jobs, loads, metrics, references, shards, turns
from db.corpora import store_directory
from db.engine import Connection, reading, transact
from db.engine import Engine as Database
from db.jobs import Job
from db.results import ResultRow, kept, result_of, row_of
from db.reuse import Keeping
from db.shards import Claim
from worker.device import is_device_lost
from worker.engines.base import Engine, Usage, Work
from worker.heartbeat import Heartbeat, Held
from worker.reuse import Reuse, look_up, scope_of

log = structlog.get_logger(__name__)

#: A finished shard is worth waiting for the database for; the lease may run out meanwhile, and then the fence decides.
SAVE_PATIENCE_SECONDS = 600.0
#: For how long jobs are left to others whose model this worker's machine seems to be too small for.
_TOO_LARGE_SECONDS = 600.0


class Models(Protocol):
    """The loaded models of this process."""

    def get(self, info: ModelInfo, task: Task, params: Params) -> Engine[Any]:
        """The model, loaded if it is not yet. Raises ModelFault."""

    def has(self, info: ModelInfo, task: Task, params: Params) -> bool:
        """Whether it is loaded. Raises ModelFault where it cannot be."""

    def loaded(self) -> frozenset[tuple[str, str]]:
        """(id, revision) of what is loaded."""


@dataclass(slots=True, kw_only=True)
class Ready:
    """A claimed shard whose documents are read and tokenized, without those of it that are `kept` from before.

    `waiting` are those of its documents that are to go through the model; where outputs are used again, `reuse` says
    which, and their results are among `results` already.
    """

    held: Held
    job: Job
    params: Params
    documents: list[Document]
    waiting: list[Document]
    kept: list[ResultRow]
    engine: Engine[Any]
    work: Work[Any]
    reuse: Reuse | None = None
    results: list[Result] = field(default_factory=list)

    @property
    def suspect(self) -> bool:
        """Whether it was lost before: what runs or waits beside it might be blamed for what it does."""
        return self.held.claim.losses > 0

    def may_follow(self, first: Ready) -> bool:
        """Whether an engine may take it up while `first` is still running."""
        alike = self.engine is first.engine and self.job.key == first.job.key
        return alike and bool(self.waiting) and not self.suspect and not first.suspect


@dataclass(slots=True, kw_only=True)
class Done:
    """A shard that has been through the model. It holds no engine: one that nobody refers to may be dropped."""

    held: Held
    job: Job
    params: Params
    documents: list[Document]
    kept: list[ResultRow]
    usage: Usage
    runtime: dict[str, Any] | None
    results: list[Result]
    keeping: Keeping | None


class _NotLoaded(Exception):
    """The shard that was to be read ahead needs a model, or another form of one, that is not loaded."""


class Runner:
    """The steps of a shard. One instance for each worker process; `take` and `save` may run in two threads at a time."""

    def __init__(
        self, *, database: Database, settings: Settings, models: Models, heartbeat: Heartbeat,
        too_large: Collection[int] = (),
    ) -> None:  # fmt: skip
        self._database = database
        self._settings = settings
        self._models = models
        self._heartbeat = heartbeat
        self._jobs: dict[int, Job] = {}
        #: Keys of jobs that ask for what only a newer version knows: they are for its workers.
        self._beyond: set[int] = set()
        #: Those whose model an earlier process of this worker did not survive while others run it: left to these until then,
        #: as `time.monotonic()`.
        self._too_large = dict.fromkeys(too_large, time.monotonic() + _TOO_LARGE_SECONDS)
        #: When each loaded model was first seen, and when a shard last ended whose job had overtaken no other; as
        #: `time.monotonic()`.
        self._loaded_at: dict[tuple[str, str], float] = {}
        self._in_turn_at = time.monotonic()
        #: Whether the database may have given this worker a shard and the answer was lost. Nobody would run it or renew its
        #: lease, which would be charged to its documents; as it is all the same where the database carries out the lost
        #: COMMIT only after it was asked to give back.
        self._in_doubt = False
        #: Seconds of writing that no shard has reported: a shard's own are known only after its transaction.
        self._writing: dict[int, float] = {}

    @property
    def draining(self) -> bool:
        """Whether this worker is to end and take up nothing more."""
        return self._heartbeat.draining

    def take(self, *, ahead: bool) -> Ready | None:
        """Claim and prepare the next shard; jobs whose model or corpus cannot be used fail on the way.

        Raises OSError where this machine cannot do it now: it is for another worker, or for the next bell.
        """
        while True:
            claim = transact(self._database, partial(self._claim, ahead=ahead))
            self._in_doubt = False
            if claim is None:
                return None
            held = self._heartbeat.hold(claim)
            try:
                return self._prepare(held, ahead)
            except _NotLoaded:
                self.give_back(held, turns.give_way)
                return None
            except (ModelFault, CorpusDamaged) as fault:
                self.fail_job(held, fault)
            except NewerVersion as error:
                log.warning("job left to newer workers", job=claim.job_key, why=str(error))
                self._beyond.add(claim.job_key)
                self.give_back(held)
            except (NotFound, LeaseLost):
                self._heartbeat.drop(held)  # the job was deleted, or the shard taken away, between the claim and now
            except DatabaseUnavailable:
                self.give_back(held)  # nothing is wrong with the shard
            except OSError:
                self.give_back(held)  # nor is it where this machine is out of file descriptors, or a disk fails
                raise
            except Exception as error:
                if is_device_lost(error):
                    self.give_back(held)
                    raise DeviceLost(f"The device cannot be used by this process any more: {error}") from error
                self.surrender(held, error)

    def _claim(self, connection: Connection, ahead: bool) -> Claim | None:
        owner = self._heartbeat.worker_id
        if self._in_doubt:
            shards.release_but(connection, owner, [held.claim.key for held in self._heartbeat.held()])
        self._in_doubt = True
        return turns.claim_next(
            connection, owner=owner, lease=self._settings.lease_seconds, ahead=ahead, **self._standing()
        )

    def _prepare(self, held: Held, ahead: bool) -> Ready:
        usage = Usage()
        claim = held.claim
        job = self._job(claim.job_key)
        params = stored_params(job.task, job.params)
        with usage.phase("load"):
            engine = self._engine(held, job, params, ahead)
            self._note_models()
        with usage.phase("read"):
            documents = self._documents(job, claim.slice)
            before = self._kept(claim)
            done = {row.position for row in before}
            documents = [document for document in documents if document.position not in done]
            reuse = self._reuse(job, params, engine, documents)
        waiting = documents if reuse is None else reuse.waiting
        # what had succeeded before, and what is known of its texts, may leave nothing for the model
        prepared = engine.prepare(waiting, params, usage) if waiting else None
        ready = Ready(
            held=held, job=job, params=params, documents=documents, waiting=waiting, kept=before, engine=engine,
            work=Work(prepared, usage, held.stopped), reuse=reuse,
        )  # fmt: skip
        if reuse is not None:
            ready.results += reuse.results
            usage.reused = len(reuse.results)
        return ready

    def _engine(self, held: Held, job: Job, params: Params, ahead: bool) -> Engine[Any]:
        """The job's model. While it is being loaded the database says so: were the process to die of that, no document
        would be to blame. Therefore nothing is loaded ahead, beside a shard that may be what the process dies of."""
        if self._models.has(job.model, job.task, params):
            return self._models.get(job.model, job.task, params)
        if ahead:
            raise _NotLoaded
        if not transact(self._database, partial(loads.begin, claim=held.claim)):
            raise LeaseLost("The shard was taken over, cancelled or deleted before its model was loaded.")
        held.loading = True
        engine = self._models.get(job.model, job.task, params)
        transact(self._database, partial(loads.end, claim=held.claim))
        held.loading = False
        return engine

    def _reuse(self, job: Job, params: Params, engine: Engine[Any], documents: list[Document]) -> Reuse | None:
        """What is kept of the documents' texts, where the job asks for that."""
        if not job.reuse or not documents:
            return None
        scope = scope_of(job, params, engine)
        return look_up(self._database, scope, documents, stale=self._settings.reuse_noted_seconds)

    def _documents(self, job: Job, piece: Slice) -> list[Document]:
        """A shard's documents. Raises CorpusDamaged, and OSError where this machine cannot read them now."""
        try:
            store = Store(store_directory(self._settings.data_dir, job.corpus_id))
            documents = list(store.documents(piece.start, piece.stop))
        except NotFound as error:
            raise files.gone(self._settings.data_dir, job.corpus_id) from error
        if len(documents) < len(piece):
            raise CorpusDamaged(
                f"The corpus has {len(store)} documents, and had {piece.stop} or more; upload it again."
            )
        return documents

    def _kept(self, claim: Claim) -> list[ResultRow]:
        """What succeeded of a shard before it was opened again."""
        if not claim.kept:
            return []
        with reading(self._database) as connection:
            return kept(connection, claim.job_key, claim.slice)

    def _job(self, job_key: int) -> Job:
        if job_key not in self._jobs:
            with reading(self._database) as connection:
                self._jobs = {job_key: jobs.by_key(connection, job_key)}
        return self._jobs[job_key]

    def _note_models(self) -> None:
        now = time.monotonic()
        self._loaded_at = {model: self._loaded_at.get(model, now) for model in self._models.loaded()}

    def _standing(self) -> dict[str, Any]:
        """What of this worker has a say in which job it serves."""
        now = time.monotonic()
        self._note_models()
        return {
            "loaded": {model: now - at for model, at in self._loaded_at.items()},
            "overtaking": now - self._in_turn_at,
            "beyond": self._beyond | {key for key, until in self._too_large.items() if now < until},
        }

    def gives_way(self, ready: Ready) -> bool:
        """Give a shard that was taken ahead back, where one of another job is to go before it; says whether it was."""

        def give_way(connection: Connection) -> bool:
            claim = ready.held.claim
            return turns.gives_way(connection, claim, **self._standing()) and turns.give_way(connection, claim)

        try:
            given = transact(self._database, give_way, patience=1.0)
        except DatabaseUnavailable:
            return False  # it is in hand, and may as well be run
        if given:
            self._heartbeat.drop(ready.held)
        return given

    def outcome(self, ready: Ready) -> Done | None:
        """What is to be saved of a shard that the engine is through with; None where there is nothing to save."""
        held = ready.held
        if not held.claim.overtook:
            self._in_turn_at = time.monotonic()
        if held.reason == "lost":
            self._heartbeat.drop(held)
            return None
        if held.reason in {"drain", "pause"} and len(ready.results) < len(ready.documents):
            self._try(lambda: transact(self._database, lambda connection: shards.release(connection, held.claim)))
            self._heartbeat.drop(held)
            return None
        runtime = _runtime_of(ready)
        return Done(
            held=held, job=ready.job, params=ready.params, documents=ready.documents, kept=ready.kept,
            usage=ready.work.usage, runtime=runtime, results=ready.results,
            keeping=None if ready.reuse is None else ready.reuse.keeping(ready.results, runtime or {}),
        )  # fmt: skip

    def save(self, done: Done) -> None:
        """Evaluate and commit a shard, and the job's metrics where it was the last one."""
        held, usage = done.held, done.usage
        try:
            results = sorted(done.results, key=lambda result: result.position)
            with usage.phase("evaluate"):
                documents, version = self._referenced(done)
                statistics = evaluation.document_statistics(done.job.task, documents, results, done.params)
                # the shard's partial is of all its documents, those that had succeeded before it was opened again too
                everything = [*results, *(result_of(row) for row in done.kept)]
                partial = evaluation.partial_of(
                    done.job.task, everything, [*statistics, *(row.statistics for row in done.kept)], done.params
                )
            rows = [row_of(result, one) for result, one in zip(results, statistics, strict=True)]
            usage.seconds["write"] = self._writing.pop(done.job.key, 0.0)
            started = time.perf_counter()
            ended = transact(
                self._database,
                lambda connection: shards.finish(
                    connection,
                    held.claim,
                    rows=rows,
                    usage=asdict(usage),
                    partial=partial,
                    runtime=done.runtime,
                    references_version=version,
                    keeping=done.keeping,
                ),
                patience=SAVE_PATIENCE_SECONDS,
            )
            self._writing = {done.job.key: time.perf_counter() - started}
            if ended:
                metrics.evaluate(self._database, done.job.key)
        except LeaseLost as error:
            log.info("shard not written", shard=held.claim.key, why=str(error))
        except DatabaseUnavailable as error:
            log.warning("shard not written", shard=held.claim.key, why=str(error))
            self.give_back(held)  # nothing is wrong with it
        except Exception as error:  # noqa: BLE001 — whatever a model or a document does, the process goes on
            self.surrender(held, error)
        finally:
            self._heartbeat.drop(held)

    def _referenced(self, done: Done) -> tuple[list[Document], int]:
        """The documents of a shard with the references in force, and their version: these may have been attached while it
        ran. Should others come before it is written, or should they not be readable now, the sweeper makes its statistics
        again: the outputs are whole, and not to be run once more."""
        job = done.job
        if job.corpus_key is None:  # it was over a corpus that is gone by now: then the shard is, too
            return done.documents, 0
        try:
            with reading(self._database) as connection:
                version = references.current(connection, job.corpus_key)
            if version is None:
                return done.documents, 0
            found = references.attached(self._settings.data_dir, job.corpus_id, version, done.documents)
            return list(found), version.version
        except (OSError, CorpusmillError) as error:
            log.warning("saved without the references in force", shard=done.held.claim.key, why=str(error))
            return done.documents, 0

    def fail_job(self, held: Held, fault: ModelFault | CorpusDamaged) -> None:
        log.warning("job failed", job=held.claim.job_key, why=str(fault))
        self._try(lambda: transact(
            self._database,
            lambda connection: jobs.fail(connection, held.claim.job_key, code=fault.code, message=str(fault)),
        ))  # fmt: skip
        self._heartbeat.drop(held)

    def let_go(self) -> None:
        """Give back whatever is still in hand when nothing is done with it any more: its lease would be renewed for ever,
        and nobody else could have it."""
        for held in self._heartbeat.held():
            log.warning("shard given back", shard=held.claim.key)
            self.give_back(held)
        if self._in_doubt:
            self._try(lambda: transact(
                self._database,
                lambda connection: shards.release_but(connection, self._heartbeat.worker_id, ()),
                patience=SAVE_PATIENCE_SECONDS,
            ))  # fmt: skip

    def give_back(self, held: Held, give: Callable[[Connection, Claim], object] = shards.release) -> None:
        """Something that is not the shard's fault: it waits again, and counts as lost no more often than before."""
        try:
            self._try(
                lambda: transact(
                    self._database,
                    lambda connection: give(connection, held.claim),
                    patience=SAVE_PATIENCE_SECONDS,
                )
            )
        finally:
            self._heartbeat.drop(held)

    def surrender(self, held: Held, error: Exception) -> None:
        """Something unforeseen: the shard counts as lost, so that repetition halves it until the document is found."""
        log.error("shard failed", shard=held.claim.key, exc_info=error)
        self._heartbeat.drop(held)
        self._try(lambda: transact(self._database, lambda connection: shards.surrender(connection, held.claim)))

    @staticmethod
    def _try(work: Callable[[], object]) -> None:
        # Where even this cannot be written, the lease runs out by itself and the sweeper goes on from there.
        try:
            work()
        except (DatabaseUnavailable, CorpusmillError) as error:
            log.warning("left to the sweeper", why=str(error))


def _runtime_of(ready: Ready) -> dict[str, Any] | None:
    """What shaped a shard's outputs. The engine's own word is of what it ran last, maybe for another job: of outputs that
    are used again their scope says it, and those kept from before have their job's already."""
    if ready.waiting:
        return ready.engine.runtime
    return dict(ready.reuse.scope.description["runtime"]) if ready.reuse is not None else None
