"""`make faults`: run what has not passed yet, on both databases, and write the scoreboard.

    python -m tests.faults [pytest arguments]

Outcomes are kept in `.faults/`, below the digest of the code that they were found with: cut off and started again, it goes
on; another code starts anew. Whatever the arguments choose, every test of the folder must have passed before it is content.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import outcomes
from .processes import ROOT
from .scoreboard import write

#: Files and folders on which it depends how a fault ends: the product with its versions, and what `tests.faults` imports.
CODE = (
    "api", "broker", "catalog", "cli", "client", "corpora", "corpusmill", "db", "demo", "evaluation", "pipeline", "worker",
    "pyproject.toml", "constraints.txt", "tests/faults", "tests/__init__.py", "tests/conftest.py", "tests/databases.py",
    "tests/resume.py", "tests/acceptance/__init__.py", "tests/acceptance/nights.py", "tests/acceptance/programs.py",
    "tests/acceptance/stack.py",
)  # fmt: skip
_PYTEST = [sys.executable, "-m", "pytest", "tests/faults", "-q"]
#: Exit statuses of pytest after which what it did is to be believed; nothing is left to run where all has passed.
_SOUND = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


def main() -> int:
    """Exit status 0 where every expected test passed, or was skipped for a reason that holds on every machine; pytest's own
    where it did not get through."""
    code = digest()
    folder = ROOT / ".faults" / code
    status = _pytest("--collect-only", **{outcomes.EXPECTED: str(folder / "expected.json")})
    if status != pytest.ExitCode.OK:
        return status
    passed = [f"--deselect={one.test}" for one in outcomes.read(folder) if one.outcome == "passed"]
    status = _pytest(*passed, *sys.argv[1:], **{outcomes.OUTCOMES: str(folder)})
    wanting = write(folder, ROOT / "docs" / "reliability.md", code)
    for line in wanting:
        print(line, file=sys.stderr)
    if status not in _SOUND:
        return status
    return 1 if wanting or status == pytest.ExitCode.TESTS_FAILED else 0


def _pytest(*arguments: str, **variables: str) -> int:
    """Its exit status. Nothing from outside may choose among the tests but the arguments."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"} | variables
    quiet = subprocess.DEVNULL if "--collect-only" in arguments else None
    status = subprocess.run([*_PYTEST, *arguments], cwd=ROOT, env=environ, stdout=quiet, check=False).returncode
    if quiet and status:
        print(f"The fault tests cannot be collected: {' '.join(_PYTEST)} --collect-only", file=sys.stderr)
    return status


def digest() -> str:
    """Changes when the product's code, its versions' bounds or the tests' code do."""
    found = hashlib.sha256()
    for path in sorted(path for name in CODE for path in _files(ROOT / name)):
        found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:12]


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir() and path.name not in {"__pycache__", "build"}:
        for one in path.iterdir():
            yield from _files(one)


if __name__ == "__main__":
    raise SystemExit(main())
