"""A file that a program touches while it is well, so that a health check costs no more than looking at a file's age.

Knows files and clocks. Must not know what being well means: whoever beats does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

#: Seconds between two touches; a check that allows a minute sees a dozen of them.
_EVERY = 5.0


@dataclass(slots=True)
class Pulse:
    """Touches `path`, where there is one, at most every few seconds."""

    path: Path | None
    _due: float = 0.0

    def beat(self) -> None:
        """All is well at this moment."""
        now = time.monotonic()
        if self.path is None or now < self._due:
            return
        self._due = now + _EVERY
        try:
            self.path.touch()
        except OSError as error:
            log.warning("pulse not written", path=str(self.path), why=error.strerror)
