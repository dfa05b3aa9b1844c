"""Starts a program that dies with the process that started it, however that one ends.

    python tether.py PARENT_PID SIGNAL PROGRAM ARGUMENT…

Knows `prctl(2)`. Must not import anything of ours: it is run by its path, in an isolated interpreter, and replaces
itself by the program. On Linux the kernel then sends SIGNAL to the program when the starting *thread* ends; the request
outlives `exec`, but is not handed on to the program's own children. Elsewhere there is no such request, and the program
is only run.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tethered(command: Sequence[str], *, signal: int) -> list[str]:
    """The command that runs `command` so that it gets `signal` when the calling process dies."""
    # -I -S: neither the environment nor site-packages are looked at, which makes the detour 20 ms long.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(signal)), *command]


def tie(parent: int, signal: int) -> None:
    """Ask the kernel for `signal` when the parent dies; ends this process if it is dead already."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    tie(int(sys.argv[1]), int(sys.argv[2]))
    os.execv(sys.argv[3], sys.argv[3:])  # noqa: S606 — no shell is wanted
