"""`python -m tests.faults`, run over tests that take no time: when it is content, and where it goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with the command and the hooks of the fault tests, and tests that take no time: one for each fault, database
    and seed, of which the first does what the file `trouble` says."""
    tests = tmp_path / "tests"
    shutil.copytree(ROOT / "tests" / "faults", tests / "faults", ignore=shutil.ignore_patterns("test_*", "__pycache__"))
    for name in ("__init__.py", "databases.py", "acceptance"):
        (tests / name).symlink_to(ROOT / "tests" / name)
    (tmp_path / "docs").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    (tests / "faults" / "test_made_up.py").write_text(TESTS)
    return tmp_path


TESTS = """
import os
from pathlib import Path
import pytest
from tests.faults.scoreboard import DATABASES, FAULTS, NOT_RUN, SEEDS

@pytest.fixture(params=DATABASES)
def kind(request):
    return request.param

def made(fault):
    @pytest.mark.fault(fault)
    @pytest.mark.parametrize("seed", range(1, SEEDS.get(fault, 1) + 1))
    def test(kind, seed):
        if fault == "F1" and kind == "sqlite":
            with Path("ran").open("a") as ran:
                ran.write("x")
            exec(Path("trouble").read_text() if Path("trouble").exists() else "")
    return test

for number, fault in enumerate(FAULTS, start=1):
    if fault not in NOT_RUN:
        globals()[f"test_{number}"] = made(fault)
"""


def faults(tree: Path, *arguments: str) -> int:
    """The command's exit status."""
    command = [sys.executable, "-m", "tests.faults", *arguments]
    # Without pytest's other plugins, whose start takes longer than these tests.
    environ = os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{ROOT}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=tree, env=environ, capture_output=True, timeout=120, check=False).returncode


def scoreboard(tree: Path) -> str:
    return (tree / "docs" / "reliability.md").read_text()


def row(text: str, fault: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {fault} |"))


def test_the_command_is_content_with_the_whole_alone_and_goes_on_where_it_was(tree: Path) -> None:
    assert faults(tree, "-k", "test_1") == 1
    assert "**no outcome**" in scoreboard(tree)
    assert faults(tree) == 0
    assert "Complete:" in scoreboard(tree)
    assert faults(tree) == 0
    assert (tree / "ran").read_text() == "x"


@pytest.mark.slow
def test_the_command_keeps_the_failure_of_what_passes_later(tree: Path) -> None:
    (tree / "trouble").write_text("assert False")
    assert faults(tree) == 1
    assert "**failed**" in row(scoreboard(tree), "F1")
    (tree / "trouble").unlink()
    assert faults(tree) == 0
    assert "| passed, after 1 failure | passed |" in row(scoreboard(tree), "F1")


@pytest.mark.slow
def test_the_command_believes_no_run_that_ended_early_and_none_that_cannot_be_collected(tree: Path) -> None:
    (tree / "trouble").write_text("pytest.exit('enough', 3)")
    assert faults(tree) == 3
    (tree / "tests" / "faults" / "test_broken.py").write_text("import nowhere_to_be_found\n")
    assert faults(tree) == pytest.ExitCode.INTERRUPTED


def test_a_test_whose_process_dies_has_failed(tree: Path) -> None:
    (tree / "trouble").write_text("os._exit(1)")
    assert faults(tree, "-p", "xdist", "-n", "1") == 1
    assert "**failed** (1 of 1, after 0 s) | passed |" in row(scoreboard(tree), "F1")
