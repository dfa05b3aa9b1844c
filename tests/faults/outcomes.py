"""What is kept on disk of a run of the fault tests: which of them must have an outcome, and every attempt at each.

Knows files alone. Must not know pytest, nor what a fault is.

`expected.json` lists the tests of a whole collection. Every other file belongs to one test and gets a line for each attempt
that came to an end, so that a failure is not forgotten when the test passes later. One that was made with another state of
the test's code does not count.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: Variables with which the tests are told where outcomes go, and to which file a collection is written.
OUTCOMES, EXPECTED = "FAULTS_OUTCOMES", "FAULTS_EXPECTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt: `outcome` is passed, failed or skipped, and `reason` says why it was skipped or how it failed. Recoveries
    and `seconds` are seconds, `at` is the time at its end in seconds since 1970, and `code` the digest of its test."""

    outcome: str
    code: str
    reason: str = ""
    recoveries: list[float] = field(default_factory=list)
    executions: int = 0
    shards: int = 0
    note: str = ""
    seconds: float = 0.0
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A test that must have an outcome, the digest of its code, and its attempts so far, of which the last one counts."""

    fault: str
    database: str
    seed: int
    test: str
    code: str
    attempts: tuple[Attempt, ...] = ()

    @property
    def last(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def outcome(self) -> str:
        """The last attempt's; empty where there is none."""
        return self.last.outcome if self.last else ""

    @property
    def failures(self) -> int:
        """Attempts that failed before the last one."""
        return sum(attempt.outcome == "failed" for attempt in self.attempts[:-1])


def expect(path: Path, tests: list[Expected]) -> None:
    """Write down the tests that must have an outcome."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [{name: value for name, value in asdict(one).items() if name != "attempts"} for one in tests]
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")


def keep(folder: Path, test: str, attempt: Attempt) -> None:
    """Add an attempt to those at a test."""
    folder.mkdir(parents=True, exist_ok=True)
    with _file(folder, test).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(attempt)) + "\n")


def read(folder: Path) -> list[Expected]:
    """Every expected test, with its attempts."""
    expected: list[dict[str, Any]] = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    return [Expected(**one, attempts=_attempts(_file(folder, one["test"]), one["code"])) for one in expected]


def _attempts(path: Path, code: str) -> tuple[Attempt, ...]:
    """Those that were made with this code."""
    if not path.exists():
        return ()
    attempts = [Attempt(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return tuple(attempt for attempt in attempts if attempt.code == code)


def _file(folder: Path, test: str) -> Path:
    # Readable, and of this test alone: what is left out of a name may be all in which two differ.
    readable = re.sub(r"[^\w.]+", "-", test.removeprefix("tests/faults/")).strip("-")
    return folder / f"{readable}-{hashlib.sha256(test.encode()).hexdigest()[:8]}.jsonl"
