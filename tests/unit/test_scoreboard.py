"""The scoreboard of faults: what is written of outcomes, without running a fault."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.scoreboard import kernel, write


def outcome(folder: Path, database: str, note: str) -> None:
    held = {
        "fault": "F52", "database": database, "passed": True, "skipped": "", "recoveries": [], "executions": None,
        "shards": 0, "note": note,
    }  # fmt: skip
    (folder / f"F52-{database}.json").write_text(json.dumps(held))


def test_what_several_runs_say_alike_is_written_once(tmp_path: Path) -> None:
    outcome(tmp_path, "sqlite", "20,000 shards; 128 MB")
    outcome(tmp_path, "postgresql", "20,000 shards; 121 MB")
    assert write(tmp_path, tmp_path / "written.md")
    row = next(line for line in (tmp_path / "written.md").read_text().splitlines() if line.startswith("| F52 "))
    assert row.endswith("| 20,000 shards; 121 MB; 128 MB |")


def test_of_the_kernel_no_more_than_its_version_is_named() -> None:
    assert kernel("6.18.44-of-somebody") == "Linux 6.18"
    assert kernel("6.8-rc1") == "Linux 6.8"
