"""What the stages of a run have in common: what they work with, and how they end.

Knows the run that is held, and the fence around whatever is written for it. Must not know any stage.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from catalog import Catalog
from corpusmill import cron
from corpusmill.errors import LeaseLost
from corpusmill.models import ModelInfo
from corpusmill.schedules import ScheduledJob
from corpusmill.settings import Settings
from corpusmill.tasks import Params
from db import runs
from db.engine import Connection, Engine, transact
from db.runs import Held, Run, RunStatus, Stage

T = TypeVar("T")
#: So many documents at most leave a process that does not know whether it still holds their run: no sink and no place where
#: people look takes fewer at once.
_HELD_FOR = 250


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
    """A run that this process holds, and what is needed to go on with it. `clock` is the time by which windows go; `lost` is
    set once the run is known to be somebody else's."""

    settings: Settings
    database: Engine
    catalog: Catalog
    held: Held
    lease: float
    stopping: threading.Event
    clock: Callable[[], float]
    lost: threading.Event = field(default_factory=threading.Event)

    @property
    def run(self) -> Run:
        return self.held.run

    @property
    def date(self) -> str:
        """The day of the run's fire."""
        return date_of(self.run)

    def write(self, change: Callable[[Connection], T]) -> T:
        """Do something in a transaction of the run: nothing is written once it was taken over. Raises LeaseLost."""

        def fenced(connection: Connection) -> T:
            runs.renew(connection, self.held, lease=self.lease)
            return change(connection)

        return transact(self.database, fenced)

    def go_on(self) -> None:
        """Raises Stopped where this process is ending, and LeaseLost where it is known to have lost the run."""
        if self.lost.is_set():
            raise LeaseLost(f"The run {self.run.id} was taken over, has ended or is gone.")
        if self.stopping.is_set():
            raise Stopped

    def hold(self) -> None:
        """Take the run for another lease before something leaves this process that no transaction of ours can fence.
        Raises Stopped and LeaseLost."""
        self.go_on()
        self.write(lambda _: None)

    def outgoing(self, items: Iterable[T]) -> Iterator[T]:
        """Items on their way out, with the run held before every few hundred of them and after the last: a process that was
        given up for dead finds out before it writes the next ones over those of its successor. Raises as `hold`."""
        for number, item in enumerate(items):
            if number % _HELD_FOR == 0:
                self.hold()
            yield item
        self.hold()

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

    def until_open(self) -> float:
        """Seconds after which a run outside its window is looked at again: when the window opens, if that is soon; its job
        may end, or be cancelled by hand, meanwhile."""
        window = self.run.definition.window
        assert window is not None, "a run without a window is never outside"
        clock, start = self.clock(), window.times[0]
        slot, zone = f"{start.minute} {start.hour} * * *", cron.zone_of(self.run.definition.timezone)
        [opens] = cron.next_fires(slot, zone, datetime.fromtimestamp(clock, UTC), 1)
        return min(opens.timestamp() - clock, runs.LONGEST_PAUSE)


def date_of(run: Run) -> str:
    """The day of a run's fire on the clock of its schedule's zone."""
    zone = cron.zone_of(run.definition.timezone)
    return datetime.fromtimestamp(run.fire_time, UTC).astimezone(zone).date().isoformat()


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
