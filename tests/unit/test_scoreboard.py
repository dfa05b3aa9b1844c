"""The scoreboard of faults: what is asked for, kept and written of outcomes, without running a fault."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

from tests.faults import outcomes
from tests.faults.code import SHARED, of_test
from tests.faults.outcomes import Attempt, Expected
from tests.faults.scoreboard import DATABASES, FAULTS, NOT_BY_CHANCE, NOT_RUN, SEEDS, kernel, write

ROOT = Path(__file__).parents[2]
PASSED = Attempt(outcome="passed", code="ab", seconds=3.0, at=1_795_870_000.0)
FAILED = replace(PASSED, outcome="failed", reason="AssertionError", seconds=134.2)


def expected(fault: str, database: str, seed: int, test: str) -> Expected:
    return Expected(fault=fault, database=database, seed=seed, test=test, code="ab")


def whole() -> list[Expected]:
    """One test for each fault that has one, database and seed."""
    return [
        expected(fault, database, seed, f"tests/faults/test_a.py::{fault}[{database}-{seed}]")
        for fault in FAULTS
        if fault not in NOT_RUN
        for database in DATABASES
        for seed in range(1, SEEDS.get(fault, 1) + 1)
    ]


def written(folder: Path, tests: list[Expected], **attempts: list[Attempt]) -> tuple[list[str], str]:
    """What is wanting, and the text, where every test has passed at once but those of the faults named here."""
    outcomes.expect(folder / "expected.json", tests)
    for one in tests:
        for attempt in attempts.get(one.fault, [PASSED]):
            outcomes.keep(folder, one.test, attempt)
    return write(folder, folder / "written.md", "0123"), (folder / "written.md").read_text()


def sentences(text: str) -> str:
    """The text without the ends of its lines, wherever they fall."""
    return " ".join(text.split())


def row(text: str, fault: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {fault} |"))


def test_a_whole_run_is_complete_and_says_when_with_what_and_where_it_was_made(tmp_path: Path) -> None:
    (tmp_path / "written.md").write_text("a sentence by hand")
    wanting, text = written(tmp_path, whole())
    said = sentences(text)
    assert wanting == []
    assert "Complete: " in said
    assert "2026-11-28, code `0123`, " in said
    assert " cores (" in said
    assert f"{len(FAULTS) - len(NOT_RUN)} of {len(FAULTS)} faults passed" in said
    assert "by hand" not in said
    assert "| not run: webhooks are not built yet |" in row(text, "F46")


def test_a_fault_without_an_outcome_is_wanting(tmp_path: Path) -> None:
    wanting, text = written(tmp_path, whole(), F7=[])
    assert wanting == [f"F7, {database}: **no outcome** (1 of 1)" for database in DATABASES]
    assert "**Incomplete**" in text
    assert "| **no outcome** (1 of 1) | **no outcome** (1 of 1) |" in row(text, "F7")


def test_nothing_run_is_not_content(tmp_path: Path) -> None:
    outcomes.expect(tmp_path / "expected.json", [])
    assert len(write(tmp_path, tmp_path / "written.md", "0123")) == 2 * (len(FAULTS) - len(NOT_RUN))


def test_a_fault_without_a_test_on_one_database_and_one_with_too_few_seeds_are_wanting(tmp_path: Path) -> None:
    few = [
        one
        for one in whole()
        if (one.fault, one.database) != ("F1", "postgresql") and (one.fault, one.seed) != ("F27", 3)
    ]
    wanting, _ = written(tmp_path, few)
    assert wanting == ["F1, postgresql: **no test**", *(f"F27, {one}: **2 of 3 seeds**" for one in DATABASES)]


def test_a_failure_is_wanting_with_the_seconds_that_it_took(tmp_path: Path) -> None:
    wanting, text = written(tmp_path, whole(), F1=[PASSED, FAILED])
    assert wanting == [f"F1, {database}: **failed** (1 of 1, after 134 s)" for database in DATABASES]
    assert "**failed** (1 of 1, after 134 s)" in row(text, "F1")


def test_what_failed_and_then_passed_is_complete_and_not_forgotten(tmp_path: Path) -> None:
    wanting, text = written(tmp_path, whole(), F1=[FAILED, FAILED, PASSED])
    assert wanting == []
    assert "| passed, after 2 failures | passed, after 2 failures |" in row(text, "F1")


def test_what_was_found_with_another_state_of_the_tests_code_does_not_count(tmp_path: Path) -> None:
    older = [replace(attempt, code="aa") for attempt in (FAILED, PASSED)]
    wanting, _ = written(tmp_path, whole(), F1=older)
    assert wanting == [f"F1, {database}: **no outcome** (1 of 1)" for database in DATABASES]
    wanting, text = written(tmp_path / "again", whole(), F1=[*older, PASSED])
    assert wanting == []
    assert "| passed | passed |" in row(text, "F1")


def test_tests_whose_names_differ_in_signs_alone_keep_their_outcomes_apart(tmp_path: Path) -> None:
    names = ["test_a.py::test[sqlite-1]", "test_a.py::test[sqlite--1]"]
    outcomes.expect(tmp_path / "expected.json", [expected("F39", "sqlite", 1, name) for name in names])
    outcomes.keep(tmp_path, names[0], FAILED)
    outcomes.keep(tmp_path, names[1], PASSED)
    assert [one.outcome for one in outcomes.read(tmp_path)] == ["failed", "passed"]


def test_a_file_of_tests_is_of_another_state_when_it_changes_and_not_when_another_does(tmp_path: Path) -> None:
    ours, other = tmp_path / "test_ours.py", tmp_path / "test_other.py"
    ours.write_text("something = 1\n")
    other.write_text("something = 1\n")
    before = [of_test(one) for one in (ours, other)]
    ours.write_text("something = 2\n")
    after = [of_test(one) for one in (ours, other)]
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, True]


def test_a_skip_is_content_for_a_reason_that_holds_everywhere_alone_and_shows_it(tmp_path: Path) -> None:
    everywhere = replace(PASSED, outcome="skipped", reason="a SQLite file has no connections")
    here = replace(everywhere, reason="PostgreSQL's wheel is not installed")
    wanting, text = written(tmp_path, whole(), F26=[everywhere], F1=[here])
    assert wanting == [f"F1, {one}: **not run here**: PostgreSQL's wheel is not installed" for one in DATABASES]
    assert "not run: a SQLite file has no connections" in row(text, "F26")
    assert "PostgreSQL's wheel is not installed" in row(text, "F1")


def test_a_test_without_a_number_has_a_row_and_is_asked_for(tmp_path: Path) -> None:
    plain = [expected("test_by_itself", one, 1, f"test_by_itself[{one}]") for one in DATABASES]
    wanting, text = written(tmp_path, whole() + plain, test_by_itself=[FAILED])
    assert [line.partition(":")[0] for line in wanting] == [f"test_by_itself, {one}" for one in DATABASES]
    assert "| test by itself | **failed** " in row(text, "test_by_itself")


def test_what_several_runs_say_alike_is_written_once(tmp_path: Path) -> None:
    notes = {"sqlite": "20,000 shards; 128 MB", "postgresql": "20,000 shards; 121 MB"}
    tests = whole()
    for one in tests:
        if one.fault == "F52":
            outcomes.keep(tmp_path, one.test, replace(PASSED, note=notes[one.database]))
    _, text = written(tmp_path, tests, F52=[])
    assert row(text, "F52").endswith("| 20,000 shards; 128 MB; 121 MB |")


def test_of_the_kernel_no_more_than_its_version_is_named() -> None:
    assert kernel("6.18.44-of-somebody") == "Linux 6.18"
    assert kernel("6.8-rc1") == "Linux 6.8"


def test_the_digest_covers_every_file_of_ours_that_the_fault_tests_import() -> None:
    seen: set[Path] = set()
    waiting = [*(ROOT / "tests" / "faults").glob("*.py"), ROOT / "tests" / "conftest.py"]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += imported(path)
    covered = [ROOT / name for name in SHARED]
    assert [path for path in sorted(seen) if not any(path.is_relative_to(one) for one in covered)] == []
    assert all(one.exists() for one in covered)


def test_nothing_of_the_fault_tests_is_taken_from_a_file_of_tests() -> None:
    """Their outcomes count for as long as their own file and what all share are the same."""
    folder = ROOT / "tests" / "faults"
    taken = {
        path.name: [one.name for one in imported(path) if one.name.startswith("test_")] for path in folder.glob("*.py")
    }
    assert {name: tests for name, tests in taken.items() if tests} == {}


def test_it_says_which_faults_are_not_tried_by_chance_and_why(tmp_path: Path) -> None:
    left_out = {fault for faults in NOT_BY_CHANCE.values() for fault in faults}
    assert NOT_RUN.keys() <= left_out <= FAULTS.keys()
    _, text = written(tmp_path, whole())
    assert "F46, F53, since they are not built yet" in sentences(text)


def imported(path: Path) -> list[Path]:
    """Modules below `tests` that a module there imports, and their packages."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if node.level else ROOT
            package = base.joinpath(*(node.module or "").split("."))
            names = [package, *(package / alias.name for alias in node.names)]
            found += [file for name in names for file in (name.with_suffix(".py"), name / "__init__.py")]
    return [file for file in found if file.is_file() and file.is_relative_to(ROOT / "tests")]
