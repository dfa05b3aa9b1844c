"""Control groups of the kernel that give their processes too little, by either version of its interface.

Knows the files below `/sys/fs/cgroup`. Must not know what the processes do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

_ROOT = Path("/sys/fs/cgroup")
#: A controller's file with the limit, in the first version and in the second.
_LIMITS = {"memory": ("memory.limit_in_bytes", "memory.max"), "pids": ("pids.max", "pids.max")}


@dataclass(frozen=True, slots=True)
class Group:
    """A group of processes, and the file with its limit."""

    folder: Path
    limit: Path

    def add(self, *pids: int) -> None:
        """Put processes into it, whatever it allows; children that they start later belong to it as well."""
        for pid in pids:
            (self.folder / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def allow(self, limit: int | str) -> None:
        """Change the limit; `max` is none."""
        self.limit.write_text(str(limit), encoding="ascii")


@contextmanager
def control_group(controller: str, limit: int) -> Iterator[Group]:
    """A group whose processes have `limit` bytes of memory, or are not to be more than that, by `controller`: memory or
    pids. Whoever is in it must have ended when the block does. Skips the test where no such group can be made."""
    group: Group | None = None
    try:
        group = _made(controller)
        group.allow(limit)
    except OSError as error:
        _remove(group)
        pytest.skip(f"no control group of the kernel's {controller} controller can be made here ({error.strerror})")
    try:
        yield group
    finally:
        _remove(group)


def _made(controller: str) -> Group:
    name = f"corpusmill-faults-{os.getpid()}"
    first, second = _LIMITS[controller]
    unified = (_ROOT / "cgroup.controllers").exists()
    if unified:  # what a group may limit is said by the one above it
        (_ROOT / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")
    folder = _ROOT / name if unified else _ROOT / controller / name
    folder.mkdir(exist_ok=True)
    if unified and controller == "memory":
        with suppress(FileNotFoundError):  # a kernel without swap
            (folder / "memory.swap.max").write_text("0", encoding="ascii")
    return Group(folder, folder / (second if unified else first))


def _remove(group: Group | None) -> None:
    if group is not None:
        with suppress(OSError):
            group.folder.rmdir()
