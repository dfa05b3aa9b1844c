"""Runs, gone on with: claimed by lease, one stage after another, put off where something does not answer.

Knows the order of the stages and what becomes of their faults. Must not know what a stage does. A process that is killed in
any stage changes nothing: its lease runs out, and another begins that stage again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from catalog import Catalog
from corpusmill.errors import (
    BrokerUnavailable,
    Conflict,
    CorpusmillError,
    DatabaseUnavailable,
    InvalidSettings,
    LeaseLost,
    NewerVersion,
    PlaceUnavailable,
    StorageFull,
)
from corpusmill.settings import Settings
from corpusmill.status import ENDED
from db import job_moves, ledger, runs
from db.engine import Connection, Engine, now, reading, transact
from db.runs import Held, Run, RunStatus
from pipeline import delivering, labelling, reporting, reviewing
from pipeline import reading as reading_stage
from pipeline.review import OpenReviewers
from pipeline.sinks import OpenSink
from pipeline.sources import OpenSource
from pipeline.ticking import tick
from pipeline.work import Step, Stopped, Work

T = TypeVar("T")
log = structlog.get_logger(__name__)

#: A stage that cannot go on is tried so often, with longer and longer pauses: 810 seconds in all.
MOST_FAILURES = 10
_LONGEST_PAUSE = 300.0
_LOOK_SECONDS = 0.5
#: Runs that one process goes on with at once.
_AT_ONCE = 4
#: What the next try may mend.
_AGAIN = (
    PlaceUnavailable, DatabaseUnavailable, BrokerUnavailable, StorageFull, Conflict, InvalidSettings, NewerVersion, OSError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a run is made of besides our own tables."""

    open_source: OpenSource
    open_sink: OpenSink
    open_reviewers: OpenReviewers


@dataclass(slots=True, kw_only=True)
class Runner:
    """Goes on with runs, for as long as its process lives. `clock` gives the time by which windows go, in seconds since
    1970: the database's where none is given."""

    settings: Settings
    database: Engine
    parts: Parts
    owner: str = field(default_factory=lambda: f"{os.uname().nodename}:{os.getpid()}:{os.urandom(6).hex()}")
    clock: Callable[[], float] | None = None
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def lease(self) -> float:
        """How long a run is held without a sign of life, in seconds: as long as a shard."""
        return self.settings.lease_seconds

    def step(self) -> bool:
        """Go on with one run until it has to wait. Returns whether there was one to go on with."""
        held = self._claim()
        if held is None:
            return False
        self._go_on(held)
        return True

    def keep(self, every: float) -> None:
        """Tick and go on with whatever can, every so many seconds, until it is to stop."""
        busy: list[threading.Thread] = []
        while not self.stopping.is_set():
            try:
                tick(self.database)
                while len(busy := [one for one in busy if one.is_alive()]) < _AT_ONCE:
                    held = self._claim()
                    if held is None:
                        break
                    busy.append(threading.Thread(target=self._go_on, args=(held,), daemon=True))
                    busy[-1].start()
            except CorpusmillError as error:
                log.warning("runs put off", why=str(error))
            except Exception as error:
                log.error("runs not gone on with", exc_info=error)
            self.stopping.wait(every)

    def wait(self, run_ids: Collection[str]) -> None:
        """Go on with runs, here and one at a time, until these have ended."""
        while not self.stopping.is_set():
            with reading(self.database) as connection:
                if not set(run_ids) & set(runs.unfinished(connection)):
                    return
            if not self.step():
                self.stopping.wait(_LOOK_SECONDS)

    def _claim(self) -> Held | None:
        with reading(self.database) as connection:
            if not runs.unfinished(connection):  # so that a quiet day writes nothing
                return None
        return transact(
            self.database, lambda connection: runs.claim(connection, owner=self.owner, lease=self.lease)
        )  # fmt: skip

    def _go_on(self, held: Held) -> None:
        """One stage after another until the run ends or has to wait; whatever happens, it is not this thread's end."""
        done = threading.Event()
        threading.Thread(target=self._keep_lease, args=(held, done), daemon=True).start()
        more: Held | None = held
        try:
            while more is not None:
                more = self._stage(more)
        except LeaseLost as error:
            log.info("run left to others", run=held.run.id, why=str(error))
        except DatabaseUnavailable as error:
            log.warning("run left until its lease ends", run=held.run.id, why=str(error))
        except Exception as error:
            log.error("run left until its lease ends", run=held.run.id, exc_info=error)
        finally:
            done.set()

    def _stage(self, held: Held) -> Held | None:
        """One stage, and the run as it is then; None where it was given back or has ended. Raises LeaseLost."""
        try:
            return self._after(held, self._do(self._work(held)))
        except LeaseLost:
            raise
        except Stopped:
            self._write(lambda connection: runs.release(connection, held))
        except _AGAIN as error:
            self._put_off(held, getattr(error, "code", "internal"), str(error), getattr(error, "private", None))
        except CorpusmillError as error:
            self._end(held, "failed", {"error": {"code": error.code, "message": str(error)}})
        except Exception as error:
            log.error("stage failed", run=held.run.id, stage=held.run.stage, exc_info=error)
            self._put_off(held, "internal", f"{type(error).__name__}: the log says where.")
        return None

    def _work(self, held: Held) -> Work:
        settings = self.settings
        return Work(
            settings=settings, database=self.database, held=held, lease=self.lease, stopping=self.stopping,
            catalog=Catalog(settings.models_root, settings.hub_models, settings.data_dir / "cache"),
            clock=self.clock or (lambda: now(self.database)),
        )  # fmt: skip

    def _do(self, work: Work) -> Step:
        run = work.run
        if run.cancel:
            return self._cancelled(run)
        if run.status == "waiting":
            if not work.open_now():
                return Step(wait=_LOOK_SECONDS)
            work.write(lambda connection: runs.started(connection, work.held))
        return self._do_stage(work)

    def _do_stage(self, work: Work) -> Step:
        match work.run.stage:
            case "read":
                return reading_stage.read(work, self.parts.open_source)
            case "label":
                return labelling.label(work)
            case "deliver":
                return delivering.deliver(work, self.parts.open_sink)
            case "review":
                return reviewing.review(work, self.parts.open_reviewers)
            case "report":
                return reporting.report(work, reviewing.audit_now(work))

    def _cancelled(self, run: Run) -> Step:
        """A run that is to give way: its job is cancelled first, so that no device works for it."""
        if run.job_id is not None:
            job_id = run.job_id
            job = self._write(lambda connection: job_moves.request_cancel(connection, job_id))
            if job.status not in ENDED:
                return Step(wait=_LOOK_SECONDS)
        message = "It gave way to a later run, or its schedule is being deleted."
        return Step(end="cancelled", values={"error": {"code": "cancelled", "message": message}})

    def _after(self, held: Held, step: Step) -> Held | None:
        if step.end is not None:
            self._end(held, step.end, dict(step.values))
            return None
        if step.wait:
            self._write(lambda connection: runs.release(connection, held, after=step.wait or 0.0, **step.values))
            return None
        values = dict(step.values) | ({"stage": step.stage, "failures": 0, "error": None} if step.stage else {})

        def write(connection: Connection) -> Held:
            if values:
                runs.advance(connection, held, **values)
            return Held(run=runs.get(connection, held.run.id), owner=held.owner)

        return self._write(write)

    def _end(self, held: Held, status: RunStatus, values: dict[str, Any]) -> None:
        """End a run. What it held and no sink has got is left to the next one."""

        def write(connection: Connection) -> None:
            runs.end(connection, held, status, **values)
            ledger.let_go(connection, held.run.schedule_key, held.run.key)

        self._write(write)
        log.info("run ended", run=held.run.id, status=status)

    def _put_off(self, held: Held, code: str, message: str, private: str | None = None) -> None:
        failures = held.run.failures + 1
        error = {"code": code, "message": message}
        log.warning(
            "stage put off", run=held.run.id, stage=held.run.stage, failures=failures, why=message,
            **({"said": private} if private else {}),
        )  # fmt: skip
        if failures >= MOST_FAILURES:
            self._end(held, "failed", {"error": error, "failures": failures})
            return
        pause = min(_LONGEST_PAUSE, 2.0**failures)
        self._write(
            lambda connection: runs.release(connection, held, after=pause, failures=failures, error=error)
        )  # fmt: skip

    def _write(self, change: Callable[[Connection], T]) -> T:
        return transact(self.database, change)

    def _keep_lease(self, held: Held, done: threading.Event) -> None:
        while not done.wait(self.lease / 3):
            try:
                transact(self.database, lambda connection: runs.renew(connection, held, lease=self.lease))
            except LeaseLost:
                return
            except DatabaseUnavailable as error:
                log.warning("lease of a run not renewed", run=held.run.id, why=str(error))
