"""Looks at this worker from outside its work: a parent that no longer listens ends itself, for its supervisor to start anew.

Knows the queue's depth and who holds shards. Must not know Celery: it may be Celery that hangs. Reconnecting to a broker
has left consumers deaf more than once (celery/celery#10205, kombu#2492), and nothing inside such a process says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from broker.doorbell import Doorbell
from corpusmill.errors import BrokerUnavailable, DatabaseUnavailable
from db import shards
from db.engine import Engine, reading

log = structlog.get_logger(__name__)

#: How long messages and shards may wait while this worker takes none.
DEAF_SECONDS = 90.0
LOOK_SECONDS = 10.0


@dataclass(slots=True, kw_only=True)
class Watch:
    """A watch over the worker of one boot. `end` is called once, when the worker has been deaf for too long."""

    database: Engine
    doorbell: Doorbell
    boot: str
    end: Callable[[], None]
    deaf_seconds: float = DEAF_SECONDS
    clock: Callable[[], float] = time.monotonic
    _since: float | None = None

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
        elif now - self._since >= self.deaf_seconds:
            log.critical("shards and messages wait, and this worker takes none: ending it", seconds=self.deaf_seconds)
            self.end()

    def _deaf(self) -> bool:
        """Whether there is a message to be had and a shard to be run, and this worker has neither."""
        if not self.doorbell.depth():
            return False
        with reading(self.database) as connection:
            return not shards.held(connection, f"{self.boot}:") and shards.waiting_count(connection, 1) > 0
