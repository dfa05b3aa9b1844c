"""What runs beside what: while a shard is in the model, the next one is read ahead and the last one saved behind.

Knows threads and the order of shards. Must not know what is done with a shard (`runner`) or in the model.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from corpusmill.errors import DeviceLost, ModelFault
from worker.device import is_device_lost
from worker.engines.base import Work, steps
from worker.runner import Ready, Runner

#: How long one doorbell keeps a worker claiming shards before the next doorbell is answered: the broker's time limit,
#: which frees a worker that hangs in native code, is per message.
SERVE_SECONDS = 60.0
#: How often a worker whose engine streams looks for a shard to read ahead, where there was none.
LOOK_AGAIN_SECONDS = 1.0


def serve(runner: Runner) -> int:
    """Run waiting shards until none is to be had, a minute has passed or the worker drains. Returns how many ran.

    Raises DeviceLost where this process has to end, with nothing in its hands.
    """
    try:
        with ThreadPoolExecutor(1, "read-ahead") as reader, ThreadPoolExecutor(1, "save-behind") as writer:
            return Serving(runner, reader, writer).serve()
    finally:
        runner.let_go()


class Serving:
    """The shards of one doorbell: while one runs, the next is read ahead and the last one saved behind.

    A shard that was lost before runs with nothing ahead and nothing unsaved: were it to take the process with it once
    more, no other shard must be charged for that.
    """

    def __init__(self, runner: Runner, reader: ThreadPoolExecutor, writer: ThreadPoolExecutor) -> None:
        self._runner = runner
        self._reader = reader
        self._writer = writer
        self._deadline = time.monotonic() + SERVE_SECONDS
        self._ahead: Future[Ready | None] | None = None
        self._looked = 0.0
        self._saving: Future[None] | None = None
        self._clock: float | None = None
        self._served = 0

    def serve(self) -> int:
        """Returns how many shards ran."""
        ready = self._next()
        while ready is not None:
            self._run(ready)
            ready = None  # another model may need the room of this one's engine
            ready = self._next()
        self._settle()
        return self._served

    def _next(self) -> Ready | None:
        ahead, self._ahead = self._ahead, None
        ready = ahead.result() if ahead is not None else None
        if ready is not None and self._runner.gives_way(ready):
            ready = None
        if ready is None and self._may_go_on():
            ready = self._runner.take(ahead=False)
        return ready

    def _run(self, first: Ready) -> None:
        """Put a shard through its model, and those that follow it without a gap where the engine streams."""
        if first.suspect:
            self._settle()
        now = time.perf_counter()
        if self._clock is not None:
            first.work.usage.seconds["wait"] = now - self._clock
        self._clock = now
        running = {id(first.work): first}
        first.held.since = time.monotonic()

        def more() -> Work[Any] | None:
            following = self._ready_ahead(first)
            if following is None:
                return None
            running[id(following.work)] = following
            following.held.since = time.monotonic()
            self._look_ahead(first)
            return following.work

        self._look_ahead(first)
        if not first.waiting:
            self._end(first)
            return
        try:
            for step in steps(first.engine, first.work, more):
                running[id(step.work)].results.extend(step.results)
                if step.ended:
                    self._end(running.pop(id(step.work)))
        except ModelFault as fault:
            for ready in running.values():
                self._runner.fail_job(ready.held, fault)
        except Exception as error:
            if is_device_lost(error):
                self._leave(running.values())
                raise DeviceLost(f"The device cannot be used by this process any more: {error}") from error
            for ready in running.values():  # whatever a model or a document does, the process goes on
                self._runner.surrender(ready.held, error)

    def _leave(self, running: Iterable[Ready]) -> None:
        """Give back everything that is not saved, unharmed."""
        self._settle()
        ahead, self._ahead = self._ahead, None
        waiting = ahead.result() if ahead is not None and ahead.exception() is None else None
        for ready in (*running, *([waiting] if waiting is not None else [])):
            self._runner.give_back(ready.held)

    def _may_go_on(self) -> bool:
        return time.monotonic() < self._deadline and not self._runner.draining

    def _look_ahead(self, beside: Ready) -> None:
        if self._ahead is None and not beside.suspect and self._may_go_on():
            self._ahead = self._reader.submit(self._runner.take, ahead=True)
            self._looked = time.monotonic()

    def _ready_ahead(self, first: Ready) -> Ready | None:
        """The shard that was read ahead, if it is there by now and may follow; never waits."""
        if self._ahead is None or not self._ahead.done() or self._ahead.exception() is not None:
            return None  # what went wrong is raised when there is nothing else to run
        following = self._ahead.result()
        if following is None and time.monotonic() - self._looked > LOOK_AGAIN_SECONDS:
            self._ahead = None
            self._look_ahead(first)
        if following is None or not following.may_follow(first):
            return None
        if self._runner.gives_way(following):
            self._ahead = None
            return None
        self._ahead = None
        return following

    def _end(self, ready: Ready) -> None:
        now = time.perf_counter()
        ready.work.usage.seconds["run"] = now - (self._clock or now)
        self._clock = now
        self._served += 1
        ready.held.since = None
        done = self._runner.outcome(ready)
        self._settle()
        self._saving = self._writer.submit(self._runner.save, done) if done is not None else None
        if ready.suspect:
            self._settle()

    def _settle(self) -> None:
        """Wait until the last shard is saved."""
        if self._saving is not None:
            self._saving.result()
            self._saving = None
