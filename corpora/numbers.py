"""Numbers of one kind in a file, read some at a time.

Must not know what they stand for. A file of them is not mapped into memory: where the disk fails, or the file is cut, under
a map, the kernel ends the whole process (SIGBUS), whoever else it serves; to a read it is an error.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


def count(path: Path, kind: np.dtype[Any]) -> int:
    """How many numbers a file holds. Raises ValueError where the last is not whole, and OSError."""
    whole, rest = divmod(path.stat().st_size, kind.itemsize)
    if rest:
        raise ValueError("The last number is not whole.")
    return whole


def block(file: IO[bytes], kind: np.dtype[Any], start: int, stop: int) -> NDArray[Any]:
    """The numbers from `start` to `stop` (excluded) of an open file. Raises ValueError where it ends before, and OSError."""
    read, at, end = bytearray(), start * kind.itemsize, stop * kind.itemsize
    while at < end:  # where a disk fails within, the system gives what it has, and says so the next time
        piece = os.pread(file.fileno(), end - at, at)
        if not piece:
            raise ValueError("The file has been cut.")
        read += piece
        at += len(piece)
    return np.frombuffer(read, dtype=kind)
