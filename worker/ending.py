"""Sees to it that a worker that was told to end does end, whatever its child is in.

Knows the child as a process, and whose its shards are. Must not know Celery: it waits for a child for as long as that takes,
and a model that loads, a long batch or a hang in native code may take an hour.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import structlog

from corpusmill.errors import DatabaseUnavailable
from db import shards
from db.engine import Engine, transact

log = structlog.get_logger(__name__)

#: How long a child may take to end: somewhat more than it takes to give its shards back over its work's head, and less than
#: `corpusmill up` gives a worker, so that what a hung child holds can be given back in its place.
CHILD_SECONDS = 5.5
#: How long the database may take to hear that the shards of a killed child are free.
RELEASE_SECONDS = 12.0
#: How long the whole worker may take to end.
END_SECONDS = 30.0


@dataclass(slots=True, kw_only=True)
class Ending:
    """The end of the worker of one boot, from a thread of its own. `children` are the numbers of the processes that work
    for it; `end` ends this one at once."""

    database: Engine
    boot: str
    children: Callable[[], Iterable[int]]
    end: Callable[[], None]
    _released: bool = False
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def begin(self) -> None:
        """The worker was told to end. Told again, it has begun already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._see_to_it, name="ending", daemon=True)
            self._thread.start()

    def over(self) -> None:
        """The worker has ended by itself, but for what is still being given back."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS)

    def _see_to_it(self) -> None:
        if self._over.wait(CHILD_SECONDS):
            return
        for pid in self.children():
            log.warning("ending a process that does not stop", pid=pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # In a thread of its own, since SQLite waits half a minute for a lock whatever our patience.
        releasing = threading.Thread(target=self._release, name="releasing", daemon=True)
        releasing.start()
        releasing.join(RELEASE_SECONDS)
        if not self._released:
            log.error("shards not given back; their leases run out, which counts as a loss")
        if not self._over.wait(END_SECONDS - CHILD_SECONDS - RELEASE_SECONDS):
            self.end()

    def _release(self) -> None:
        """Give back what the child could not: one that holds the interpreter's lock does not even try."""
        release = partial(shards.release_all, owner_prefix=f"{self.boot}:")
        with suppress(DatabaseUnavailable):
            given = transact(self.database, release, patience=RELEASE_SECONDS)
            self._released = True
            if given:
                log.warning("shards given back", shards=given)
