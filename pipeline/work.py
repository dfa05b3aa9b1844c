"""What the stages of a run have in common: what they work with, and how they end.

Knows the run that is held, and the fence around whatever is written for it. Must not know any stage.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from catalog import Catalog
from corpusmill import cron
from corpusmill.models import ModelInfo
from corpusmill.schedules import ScheduledJob
from corpusmill.settings import Settings
from corpusmill.tasks import Params
from db import runs
from db.engine import Connection, Engine, transact
from db.runs import Held, Run, RunStatus, Stage

T = TypeVar("T")


class Stopped(Exception):
    """This process is ending: the run is given back as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How a stage ended: the next `stage`, or a `wait` of so many seconds at the same one, or the run's `end`; with none of
    them the same stage goes on at once. `values` are columns of the run that are written with it.
    """

    stage: Stage | None = None
    wait: float | None = None
    end: RunStatus | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A run that this process holds, and what is needed to go on with it. `clock` is the time by which windows go."""

    settings: Settings
    database: Engine
    catalog: Catalog
    held: Held
    lease: float
    stopping: threading.Event
    clock: Callable[[], float]

    @property
    def run(self) -> Run:
        return self.held.run

    @property
    def date(self) -> str:
        """The day of the fire on the clock of the schedule's zone."""
        zone = cron.zone_of(self.run.definition.timezone)
        return datetime.fromtimestamp(self.run.fire_time, UTC).astimezone(zone).date().isoformat()

    def write(self, change: Callable[[Connection], T]) -> T:
        """Do something in a transaction of the run: nothing is written once it was taken over. Raises LeaseLost."""

        def fenced(connection: Connection) -> T:
            runs.renew(connection, self.held, lease=self.lease)
            return change(connection)

        return transact(self.database, fenced)

    def go_on(self) -> None:
        """Raises Stopped where this process is ending."""
        if self.stopping.is_set():
            raise Stopped

    def counted(self, **more: Any) -> dict[str, Any]:
        """What the run has counted so far, with more of it."""
        return {**self.run.counts, **more}

    def open_now(self) -> bool:
        """Whether the device may be used for this run: a run by hand goes on at any hour."""
        window = self.run.definition.window
        if window is None or self.run.trigger != "cron":
            return True
        now = datetime.fromtimestamp(self.clock(), UTC)
        return cron.in_window(*window.times, cron.zone_of(self.run.definition.timezone), now)


def model_of(catalog: Catalog, job: ScheduledJob) -> tuple[ModelInfo, Params]:
    """The model that a schedule means now, and the parameters in force.

    Raises InvalidRequest where there is none, or where it cannot do the task.
    """
    model = catalog.resolve(job.model, job.revision)
    return model, catalog.check(model, job.task, job.parsed)


def scope_of(task: str, model: ModelInfo, params: Mapping[str, Any]) -> bytes:
    """16 bytes for what a label comes of besides the text: task, model, revision and parameters in force."""
    said = json.dumps([task, model.id, model.revision, params], sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(said.encode(), digest_size=16).digest()
