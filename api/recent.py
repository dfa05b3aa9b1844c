"""Answers that are dear to compute and asked for again and again: kept for a few seconds.

Knows clocks and locks. Must not know what is kept, nor keep anything that a decision hangs on.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

#: An answer that took t seconds is kept for 10 t at least, so that askers, however many, cost a tenth of one core.
_TIMES_ITS_COST = 10.0
#: Answers kept at most; the one asked for longest ago goes first.
_MOST = 64


@dataclass(slots=True)
class _Slot:
    """One answer; the lock has those who ask for the same meanwhile wait for it instead of computing it, too."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    value: Any = None
    until: float = float("-inf")


class Recent:
    """Answers by key, each computed by one thread at a time and kept for `seconds`, longer where it was dear.

    `clock` gives seconds and never goes back.
    """

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._slots: OrderedDict[Hashable, _Slot] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The answer kept for `key`, or a new one. What `compute` raises is raised, and nothing is kept."""
        slot = self._slot(key)
        with slot.lock:
            began = self._clock()
            if began < slot.until:
                kept: T = slot.value
                return kept
            slot.value = value = compute()
            ended = self._clock()
            slot.until = ended + max(self._seconds, _TIMES_ITS_COST * (ended - began))
            return value

    def _slot(self, key: Hashable) -> _Slot:
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > _MOST:
                self._slots.popitem(last=False)
            return slot
