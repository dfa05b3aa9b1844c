"""What a disk that takes nothing more is called, whoever meets it, which disk is full, and when it has something for good.

Knows error numbers and free space. Must not know what was being written.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from corpusmill.errors import StorageFull
from corpusmill.settings import Settings

#: No space, a user's quota, a process's limit on the size of a file, and a file system that a fault has made read-only.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
#: Bytes below which a disk counts as full: a shard's results, or the next piece of an upload, may not fit any more.
LEAST_ROOM = 4 << 20


@contextmanager
def full_disk_refused() -> Iterator[None]:
    """Raise StorageFull where the system says that nothing more can be written; every other error passes."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StorageFull(
            "The disk holding the data directory takes nothing more: it is full, or read-only after a fault. Delete corpora "
            "or jobs that are no longer needed, or give it more room, and send the file again."
        ) from error


def synced(path: Path) -> None:
    """Wait until a file, or a directory's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def written_to(settings: Settings) -> Mapping[str, Path]:
    """The directories that this service writes to, each of which may be a disk of its own, by what they hold."""
    places = {"data directory": settings.data_dir}
    places |= {name: settings.data_dir / name for name in ("uploads", "corpora")}
    if settings.database.startswith("sqlite:///"):
        places["database"] = Path(settings.database.removeprefix("sqlite:///")).parent
    return places


def full(settings: Settings) -> list[str]:
    """Which of them lie on a disk with less than LEAST_ROOM bytes left for us."""
    return [
        name for name, path in written_to(settings).items()
        if path.is_dir() and shutil.disk_usage(path).free < LEAST_ROOM
    ]  # fmt: skip
