"""What a full disk is called, whoever meets it.

Knows error numbers. Must not know what was being written.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from corpusmill.errors import StorageFull

#: No space, a user's quota, and a process's limit on the size of a file.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def full_disk_refused() -> Iterator[None]:
    """Raise StorageFull where the system says that nothing more can be written; every other error passes."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StorageFull(
            "The disk holding the data directory is full. Delete corpora or jobs that are no longer needed, "
            "or give it more room, and send the file again."
        ) from error
