"""Keeps the shards of this process alive in the database, and tells the work when to stop.

Knows leases, drains and the parent process. Must not know models: it has to beat while they compute.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from corpusmill.errors import DatabaseUnavailable
from corpusmill.status import Intent
from db import loads, shards, workers
from db.engine import Connection, Engine, reading, transact
from db.shards import Claim
from worker.pulse import Pulse

log = structlog.get_logger(__name__)

StopReason = Literal["lost", "cancel", "pause", "drain"]

#: How often the jobs of the held shards are asked whether they are still to run.
WATCH_SECONDS = 1.0
#: How long a draining worker may take to reach the end of its batch before its shards are given back over its head.
DRAIN_SECONDS = 5.0


@dataclass(slots=True)
class Held:
    """A shard in this process's hands. `reason` says why its work is to stop, once it is; `loading` that its model is being
    loaded; `since` is when it went into the model, as `time.monotonic()`, while it is there."""

    claim: Claim
    reason: StopReason | None = None
    loading: bool = False
    since: float | None = None

    def stopped(self) -> bool:
        """Whether the work on it is to stop at the next batch."""
        return self.reason is not None


@dataclass(slots=True)
class Heartbeat:
    """Renews the leases of the held shards every third of a lease, from a thread of its own.

    `drain_flag` is a file that the parent process makes when this one is to finish: what is held is then given back
    unharmed. `describe` gives the device and models for the row in `workers`. A process whose parent has died ends itself.
    """

    engine: Engine
    worker_id: str
    lease: float
    drain_flag: Path | None
    describe: Callable[[], workers.Description]
    pulse: Pulse = field(default_factory=lambda: Pulse(None))
    #: Seconds that a shard may be in the model.
    limit: float = math.inf
    draining: bool = False
    _held: dict[int, Held] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)
    _parent: int = field(default_factory=os.getppid)
    _renew_at: float = 0.0
    _watch_at: float = 0.0
    _said: int | None = None
    _give_back_at: float = math.inf

    def start(self) -> None:
        """Begin to beat."""
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Beat no more."""
        self._ended.set()

    def hold(self, claim: Claim) -> Held:
        """Renew this shard's lease from now on."""
        held = Held(claim, reason="drain" if self.draining else None)
        with self._lock:
            self._held[claim.key] = held
        return held

    def held(self) -> list[Held]:
        """What is in this process's hands."""
        with self._lock:
            return list(self._held.values())

    def drop(self, held: Held) -> None:
        """Renew it no more: it is finished, lost or given back."""
        with self._lock:
            if self._held.get(held.claim.key) is held:
                del self._held[held.claim.key]

    def end_overdue(self) -> None:
        """End this process where a shard has been in the model for longer than one may be: nothing else frees it from native
        code. That shard alone counts as lost."""
        now = time.monotonic()
        with self._lock:
            held = list(self._held.values())
        late = [one for one in held if one.since is not None and now - one.since > self.limit]
        if not late:
            return
        log.error("shard over its limit", shards=[one.claim.key for one in late], seconds=self.limit)
        try:
            for one in held:
                if one not in late:
                    transact(self.engine, partial(_release, claim=one.claim), patience=2.0)
        finally:
            os._exit(1)

    def _beat(self) -> None:
        while not self._ended.wait(min(0.25, self.lease / 6)):
            if os.getppid() != self._parent:
                os._exit(1)  # the parent was killed: nobody would ever give this process work again
            try:
                self._look()
                self.pulse.beat()
            except Exception as error:
                log.error("heartbeat failed", exc_info=error)

    def _look(self) -> None:
        now = time.monotonic()
        if self.drain_flag is not None and not self.draining and self.drain_flag.exists():
            self.draining, self._give_back_at = True, now + DRAIN_SECONDS
            self._stop_all("drain")
        if now > self._give_back_at:
            self._give_back_at = math.inf
            self._give_back()
        if now >= self._renew_at:
            self._renew_at = now + self.lease / 3
            self._watch_at = now + WATCH_SECONDS
            self._renew()
        elif now >= self._watch_at:
            self._watch_at = now + WATCH_SECONDS
            self._watch()
            if self._in_hand() != self._said:
                self._renew()

    def _renew(self) -> None:
        with self._lock:
            held = list(self._held.values())
        try:
            kept = transact(self.engine, lambda connection: self._write(connection, held), patience=self.lease / 3)
        except DatabaseUnavailable as error:
            log.warning("heartbeat missed", shards=len(held), why=str(error))
            return
        for one in held:
            if one.claim.key not in kept:
                one.reason = "lost"
            else:
                _note(one, kept[one.claim.key])

    def _watch(self) -> None:
        """Between two renewals: whether somebody has paused or cancelled what is held."""
        with self._lock:
            held = list(self._held.values())
        if not held:
            return
        try:
            with reading(self.engine) as connection:
                wanted = shards.intents(connection, [one.claim for one in held])
        except DatabaseUnavailable:
            return  # the next renewal says so
        for one in held:
            _note(one, wanted.get(one.claim.job_key, Intent.CANCEL))

    def _in_hand(self) -> int | None:
        """The shard that has been held longest: the one in the model, or being saved."""
        with self._lock:
            return next(iter(self._held), None)

    def _write(self, connection: Connection, held: list[Held]) -> dict[int, Intent]:
        self._said = held[0].claim.key if held else None
        workers.seen(connection, self.worker_id, self.describe(), self._said)
        kept = shards.renew(connection, [one.claim for one in held], lease=self.lease)
        for one in held:
            if one.loading and one.reason != "lost" and one.claim.key not in kept:
                loads.forget(connection, one.claim.job_key)  # it was cut off and not dead, as others had to believe
        return kept

    def _stop_all(self, reason: StopReason) -> None:
        with self._lock:
            for held in self._held.values():
                held.reason = held.reason or reason

    def _give_back(self) -> None:
        """The work did not stop in time: release its shards, so that killing this process loses nothing."""
        with self._lock:
            held = list(self._held.values())
        for one in held:
            try:
                transact(self.engine, partial(_release, claim=one.claim), patience=2.0)
            except DatabaseUnavailable:
                self._give_back_at = time.monotonic()  # at the next beat, for as long as this process is let live
                return
            one.reason = "lost"


def _note(one: Held, wanted: Intent) -> None:
    if one.reason is None and wanted is not Intent.RUN:
        one.reason = "cancel" if wanted is Intent.CANCEL else "pause"


def _release(connection: Connection, claim: Claim) -> bool:
    return shards.release(connection, claim)
