"""`make faults`: run what has not passed yet, on both databases, and write the scoreboard.

    python -m tests.faults [pytest arguments]

Outcomes are kept in `.faults/`, below the digest of the code that they were found with: cut off and started again, it goes
on; another code starts anew, another state of a test's own file with the tests of that file. Whatever the arguments choose,
every test of the folder must have passed before it is content.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from . import code, outcomes
from .processes import ROOT
from .scoreboard import write

_PYTEST = [sys.executable, "-m", "pytest", "tests/faults", "-q"]
#: Exit statuses of pytest after which what it did is to be believed; nothing is left to run where all has passed.
_SOUND = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


def main() -> int:
    """Exit status 0 where every expected test passed, or was skipped for a reason that holds on every machine; pytest's own
    where it did not get through."""
    digest = code.shared()
    folder = ROOT / ".faults" / digest
    status = _pytest("--collect-only", **{outcomes.EXPECTED: str(folder / "expected.json")})
    if status != pytest.ExitCode.OK:
        return status
    passed = [f"--deselect={one.test}" for one in outcomes.read(folder) if one.outcome == "passed"]
    status = _pytest(*passed, *sys.argv[1:], **{outcomes.OUTCOMES: str(folder)})
    wanting = write(folder, ROOT / "docs" / "reliability.md", digest)
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


if __name__ == "__main__":
    raise SystemExit(main())
