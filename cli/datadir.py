"""The data directory's lock: one supervisor at a time.

Knows files. Must not know what runs below the supervisor.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from corpusmill.errors import InvalidSettings


class DataDirectory:
    """A data directory in use by this process, until `release` or the process's end, however that comes.

    Raises InvalidSettings, naming the process, where another supervisor uses it, and where it cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Closed on exec: a child that outlived this process would otherwise keep the lock.
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            reason = "it is no directory" if self.path.is_file() else error.strerror
            raise InvalidSettings(
                f"CORPUSMILL_DATA_DIR: {self.path} cannot be used ({reason}); choose another directory."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock)
            raise InvalidSettings(
                f"The data directory {self.path} is in use by process {holder} (`corpusmill up`): stop it first, or "
                "choose another directory with `--data`."
            ) from None
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another supervisor have it."""
        os.close(self._lock)
