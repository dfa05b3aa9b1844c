"""`make faults`: run what has not passed yet, on both databases, and write the scoreboard.

    python -m tests.faults [pytest arguments]

Outcomes are kept in `.faults/`, one file for each fault, database and seed, below the digest of the code that they were
found with: cut off and started again, it goes on; another code starts anew.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

from .processes import ROOT
from .scoreboard import write

_CODE = (
    "api", "broker", "catalog", "cli", "client", "corpora", "corpusmill", "db", "evaluation", "pipeline", "worker",
    "tests/faults",
)  # fmt: skip


def main() -> int:
    """Exit status 0 where every fault that can be run here passed."""
    folder = ROOT / ".faults" / os.environ.get("FAULTS_RUN", digest())
    environ = os.environ | {"FAULTS_OUTCOMES": str(folder)}
    command = [sys.executable, "-m", "pytest", "tests/faults", "-q", *sys.argv[1:]]
    subprocess.run(command, cwd=ROOT, env=environ, check=False)
    return 0 if write(folder, ROOT / "docs" / "reliability.md") else 1


def digest() -> str:
    """Changes when the product's code or the tests' does."""
    found = hashlib.sha256()
    for path in sorted(path for name in _CODE for path in (ROOT / name).rglob("*.py")):
        found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:12]


if __name__ == "__main__":
    raise SystemExit(main())
