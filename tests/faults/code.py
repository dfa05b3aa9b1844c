"""Which code an outcome was found with, so that an outcome counts for as long as nothing that it depends on has changed.

Knows files alone. Must not run anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from .processes import ROOT

#: Files and folders on which it depends how any fault ends: the product with its versions, and what `tests.faults` imports.
SHARED = (
    "api", "broker", "catalog", "cli", "client", "corpora", "corpusmill", "db", "demo", "evaluation", "pipeline", "worker",
    "pyproject.toml", "constraints.txt", "tests/faults", "tests/__init__.py", "tests/conftest.py", "tests/databases.py",
    "tests/resume.py", "tests/acceptance/__init__.py", "tests/acceptance/nights.py", "tests/acceptance/programs.py",
    "tests/acceptance/stack.py",
)  # fmt: skip
#: What of them decides which tests run and how they are told of, not how they end.
_TELLING = frozenset({"__main__.py", "scoreboard.py"})


def shared() -> str:
    """Changes when the product's code, its versions' bounds or what all fault tests have in common do."""
    return _digest((path for name in SHARED for path in _files(ROOT / name) if not _of_some(path)), ROOT)


def of_test(module: Path) -> str:
    """Changes when a file of fault tests does."""
    return _digest([module], module.parent)


def _of_some(path: Path) -> bool:
    """Whether a file is of some fault tests only, or of none."""
    return path.parent == ROOT / "tests" / "faults" and (path.name.startswith("test_") or path.name in _TELLING)


def _digest(paths: Iterable[Path], below: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(path.relative_to(below).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:12]


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir() and path.name not in {"__pycache__", "build"}:
        for one in path.iterdir():
            yield from _files(one)
