"""Looks at this worker from outside its work: a parent that no longer listens ends itself, for its supervisor to start anew.

Knows the queue's depth, who holds shards, and the file in which the child says that it answers doorbells. Must not know
Celery: it may be Celery that hangs. Reconnecting to a broker has left consumers deaf more than once (celery/celery#10205,
kombu#2492), and nothing inside such a process says so. It is a thread of the parent: the child computes in a process of its
own, so nothing that it does holds this thread up. A parent that stands still as a whole, its threads included, is not seen.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from broker.doorbell import Doorbell
from broker.settings import START_SECONDS
from corpusmill.errors import BrokerUnavailable, DatabaseUnavailable
from db import shards
from db.engine import Engine, reading

log = structlog.get_logger(__name__)

#: How long messages and shards may wait while this worker takes none.
DEAF_SECONDS = 90.0
LOOK_SECONDS = 10.0


def answers(sign: Path) -> None:
    """Say in the file `sign` that this process, the child, is up and answers a doorbell."""
    with suppress(OSError):  # no descriptor or no room: not worth a shard
        sign.write_text(str(os.getpid()), encoding="ascii")


@dataclass(slots=True, kw_only=True)
class Watch:
    """A watch over the worker of one boot. `end` is called once, when the worker has been deaf for too long.

    `sign` is the file that its child writes (`answers`). A worker that answers doorbells is not deaf though it takes no
    shard: those that wait may be for newer workers. One whose child is not up yet has as long again as that may take.
    """

    database: Engine
    doorbell: Doorbell
    boot: str
    sign: Path
    end: Callable[[], None]
    deaf_seconds: float = DEAF_SECONDS
    clock: Callable[[], float] = time.monotonic
    _since: float | None = None
    _answered: int | None = None

    def start(self) -> None:
        """Begin to look, in a thread of its own."""
        threading.Thread(target=self._look_on, name="watch", daemon=True).start()

    def _look_on(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Look once."""
        try:
            deaf = self._deaf()
        except (BrokerUnavailable, DatabaseUnavailable):
            deaf = False  # nobody could do anything now
        if not deaf:
            self._since = None
            return
        now = self.clock()
        if self._since is None:
            self._since = now
        elif now - self._since >= self.deaf_seconds + (0.0 if self._child_is_up() else START_SECONDS):
            log.critical("shards and messages wait, and this worker takes none: ending it", seconds=self.deaf_seconds)
            self.end()

    def _deaf(self) -> bool:
        """Whether there is a message to be had and a shard to be run, and this worker has neither, nor has answered since
        the last look."""
        before, self._answered = self._answered, self._last_answer()
        if self._answered != before or not self.doorbell.depth():
            return False
        with reading(self.database) as connection:
            return not shards.held(connection, f"{self.boot}:") and shards.waiting_count(connection, 1) > 0

    def _last_answer(self) -> int | None:
        with suppress(OSError):
            return self.sign.stat().st_mtime_ns
        return None

    def _child_is_up(self) -> bool:
        with suppress(OSError, ValueError):
            os.kill(int(self.sign.read_text(encoding="ascii")), 0)
            return True
        return False
