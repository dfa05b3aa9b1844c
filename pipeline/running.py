"""Runs, gone on with: claimed by lease, one stage after another, put off where something does not answer.

Knows the order of the stages and what becomes of their faults. Must not know what a stage does. A process that is killed in
any stage changes nothing: its lease runs out, and another begins that stage again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
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
    NotFound,
    PlaceUnavailable,
    ResourcesUnavailable,
    StorageFull,
)
from corpusmill.settings import Settings
from corpusmill.status import ENDED
from db import job_moves, jobs, ledger, runs
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
_LOOK_SECONDS = 0.5
#: Runs that one process goes on with at once.
_AT_ONCE = 4
#: What is under way when the process is to end gets so long to come to where a run can be given back.
_LEAVE_SECONDS = 5.0
#: What the next try may mend.
_AGAIN = (
    PlaceUnavailable, DatabaseUnavailable, BrokerUnavailable, StorageFull, ResourcesUnavailable, Conflict, InvalidSettings,
    NewerVersion, OSError,
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
        until = time.monotonic() + _LEAVE_SECONDS
        for one in busy:  # they give their runs back, so that nobody has to wait for the leases
            one.join(max(0.0, until - time.monotonic()))

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
        done, lost = threading.Event(), threading.Event()
        threading.Thread(target=self._keep_lease, args=(held, done, lost), daemon=True).start()
        more: Held | None = held
        try:
            while more is not None:
                more = self._stage(more, lost)
        except LeaseLost as error:
            log.info("run left to others", run=held.run.id, why=str(error))
        except DatabaseUnavailable as error:
            log.warning("run left until its lease ends", run=held.run.id, why=str(error))
        except Exception as error:
            log.error("run left until its lease ends", run=held.run.id, exc_info=error)
        finally:
            done.set()

    def _stage(self, held: Held, lost: threading.Event) -> Held | None:
        """One stage, and the run as it is then; None where it was given back or has ended. Raises LeaseLost."""
        try:
            return self._after(held, self._do(self._work(held, lost)))
        except LeaseLost:
            raise
        except Stopped:
            self._write(lambda connection: runs.release(connection, held))
        except _AGAIN as error:
            return self._put_off(held, getattr(error, "code", "internal"), *_said(error))
        except CorpusmillError as error:
            return self._give_up(held, {"code": error.code, "message": str(error)})
        except Exception as error:
            log.error("stage failed", run=held.run.id, stage=held.run.stage, exc_info=error)
            return self._put_off(held, "internal", f"{type(error).__name__}: the log says where.")
        return None

    def _work(self, held: Held, lost: threading.Event) -> Work:
        settings = self.settings
        return Work(
            settings=settings, database=self.database, held=held, lease=self.lease, stopping=self.stopping,
            catalog=Catalog(settings.models_root, settings.hub_models, settings.data_dir / "cache"),
            clock=self.clock or (lambda: now(self.database)), lost=lost,
        )  # fmt: skip

    def _do(self, work: Work) -> Step:
        run = work.run
        if run.cancel:
            return self._cancelled(run)
        if run.status == "waiting":
            if not work.open_now():
                return Step(wait=work.until_open())
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
            with suppress(NotFound):  # there is nothing left to cancel
                if not self._write(lambda connection: _cancel(connection, job_id)):
                    return Step(wait=_LOOK_SECONDS)
        message = "It gave way to a later run, or its schedule is being deleted."
        return Step(end="cancelled", values={"error": {"code": "cancelled", "message": message}})

    def _after(self, held: Held, step: Step) -> Held | None:
        if step.end is not None:
            self._end(held, step.end, dict(step.values))
            return None
        values = {"failures": 0, "error": None, **step.values}  # what did not answer answers again
        if step.wait:
            self._write(lambda connection: runs.release(connection, held, after=step.wait or 0.0, **values))
            return None
        if step.stage is not None:
            values["stage"] = step.stage

        def write(connection: Connection) -> Held:
            runs.advance(connection, held, **values)
            return Held(run=runs.get(connection, held.run.id), owner=held.owner)

        return self._write(write)

    def _end(self, held: Held, status: RunStatus, values: dict[str, Any]) -> None:
        """End a run. What it held and no sink has got is left to the next one; the job of one that failed is cancelled where
        it has not ended, so that no device works for it while the next one submits the same documents."""

        def write(connection: Connection) -> None:
            runs.end(connection, held, status, **values)
            if held.run.job_id is not None and status == "failed" and held.run.stage == "label":
                with suppress(NotFound):
                    _cancel(connection, held.run.job_id)
            ledger.let_go(connection, held.run.schedule_key, held.run.key)

        self._write(write)
        log.info("run ended", run=held.run.id, status=status)

    def _give_up(self, held: Held, error: Mapping[str, str], **values: Any) -> Held | None:
        """A stage that cannot be done, now or ever, fails the run. Once the labels are delivered it does not: people are
        asked by a later run, and the night has its report."""
        if held.run.stage == "review":
            counts = {**held.run.counts, "review_failed": dict(error)}
            return self._after(held, Step(stage="report", values={"counts": counts, "error": error}))
        with reading(self.database) as connection:
            reported = runs.get(connection, held.run.id).report is not None
        self._end(held, "succeeded" if reported else "failed", {"error": error, **values})
        return None

    def _put_off(self, held: Held, code: str, message: str, private: str | None = None) -> Held | None:
        failures = held.run.failures + 1
        error = {"code": code, "message": message}
        log.warning(
            "stage put off", run=held.run.id, stage=held.run.stage, failures=failures, why=message,
            **({"said": private} if private else {}),
        )  # fmt: skip
        if failures >= MOST_FAILURES:
            return self._give_up(held, error, failures=failures)
        pause = min(runs.LONGEST_PAUSE, 2.0**failures)
        self._write(
            lambda connection: runs.release(connection, held, after=pause, failures=failures, error=error)
        )  # fmt: skip
        return None

    def _write(self, change: Callable[[Connection], T]) -> T:
        return transact(self.database, change)

    def _keep_lease(self, held: Held, done: threading.Event, lost: threading.Event) -> None:
        while not done.wait(self.lease / 3):
            try:
                transact(self.database, lambda connection: runs.renew(connection, held, lease=self.lease))
            except LeaseLost:
                lost.set()
                return
            except DatabaseUnavailable as error:
                log.warning("lease of a run not renewed", run=held.run.id, why=str(error))


def _said(error: Exception) -> tuple[str, str | None]:
    """What a run may say of an error, and what only the log does: where files of this machine lie is nobody else's."""
    if isinstance(error, InvalidSettings):
        return "A setting of the sweeper is wrong; its log says which.", str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or type(error).__name__}; the sweeper's log says where.", str(error)
    return str(error), getattr(error, "private", None)


def _cancel(connection: Connection, job_id: str) -> bool:
    """Cancel a job that has not ended; says whether it has ended now. Raises NotFound."""
    if jobs.get(connection, job_id).status in ENDED:
        return True
    with suppress(Conflict):  # it has just ended
        return job_moves.request_cancel(connection, job_id).status in ENDED
    return True
