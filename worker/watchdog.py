"""Ends a process that can no longer help itself, so that another may take its place.

Knows threads and the interpreter's lock. Must not know what a shard is: whoever starts it says what to look at.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)


def watch(look: Callable[[], None], *, patience: float) -> None:
    """Call `look` about once a second from a thread of its own, for as long as the process lives.

    Where native code keeps the interpreter's lock for `patience` seconds, so that no thread of Python runs any more, the
    process is ended with status 1 and the stack of each thread is written to stderr.
    """
    threading.Thread(target=_watch, args=(look, patience), name="watchdog", daemon=True).start()


def _watch(look: Callable[[], None], patience: float) -> None:
    while True:
        # Its timer runs outside the interpreter, which is what makes it fire when nothing else does.
        faulthandler.dump_traceback_later(patience, exit=True, file=sys.__stderr__ or sys.stderr)
        try:
            look()
        except Exception as error:
            log.error("watchdog failed", exc_info=error)
        time.sleep(min(1.0, patience / 6))
