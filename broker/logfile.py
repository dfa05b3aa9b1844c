"""The log files of the programs that run below one supervisor: `logs/<name>.log` in the data directory.

Knows files. Must not know what is written in them.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

#: A log longer than this is put aside, over its predecessor, before the program is started again.
_LIMIT = 8 << 20


def open_log(log: Path) -> IO[bytes]:
    """The log, open to append to, for a program's output."""
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > _LIMIT:
        log.replace(log.with_name(log.name + ".1"))
    return log.open("ab")


def tail(log: Path, *, lines: int = 15, since: int = 0) -> str:
    """The last lines of a log after its first `since` bytes; empty where there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, log.stat().st_size - 8192))
            found = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join([line for line in found if line.strip()][-lines:])
