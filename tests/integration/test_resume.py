"""A run of the tests that was cut goes on with those that have not passed: `pytest --resume`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import os, pathlib, pytest

ran = pathlib.Path(__file__).with_name("ran.log")

@pytest.fixture
def noted(request):
    with ran.open("a") as file:
        file.write(request.node.name + " ")

@pytest.fixture
def spoiled(noted):
    yield
    assert not pathlib.Path("spoil").exists()

def test_first(noted): pass

def test_skipped(noted): pytest.skip("not here")

def test_torn_down(spoiled): pass

@pytest.mark.parametrize("text", ["a b", "\\n"])
def test_many(noted, text): pass

def test_fails(noted):
    assert not pathlib.Path("fail").exists()

def test_killed(noted):
    if pathlib.Path("kill").exists():
        os.kill(os.getpid(), 9)

def test_last(noted): pass
"""


class Project:
    """A folder with tests, run by pytest in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "test_it.py").write_text(TESTS)
        (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")

    def run(self, *arguments: str) -> tuple[int, list[str]]:
        """pytest's exit status, and the names of the tests that ran."""
        (self.folder / "ran.log").write_text("")
        alone = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        environ = {**os.environ, **alone}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.resume", "--resume", *arguments]
        ended = subprocess.run(
            command, cwd=self.folder, env=environ, check=False, capture_output=True, text=True, timeout=120
        )
        self.said = ended.stdout
        return ended.returncode, (self.folder / "ran.log").read_text().split()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


ALL = [
    "test_first",
    "test_skipped",
    "test_torn_down",
    "test_many[a",
    "b]",
    "test_many[\\n]",
    "test_fails",
    "test_killed",
]


def test_a_run_that_was_killed_goes_on_with_what_has_not_passed(project: Project) -> None:
    (project.folder / "kill").touch()
    assert project.run() == (-9, ALL)
    (project.folder / "kill").unlink()
    assert project.run() == (0, ["test_skipped", "test_killed", "test_last"])
    assert "5 tests left out" in project.said


def test_what_failed_or_could_not_be_torn_down_runs_again(project: Project) -> None:
    (project.folder / "fail").touch()
    (project.folder / "spoil").touch()
    assert project.run()[0] == 1
    (project.folder / "fail").unlink()
    (project.folder / "spoil").unlink()
    assert project.run() == (0, ["test_skipped", "test_torn_down", "test_fails"])


def test_with_nothing_left_to_run_all_is_well(project: Project) -> None:
    assert project.run("-k", "first or many")[0] == 0
    assert project.run("-k", "first or many") == (0, [])
    assert "3 tests left out" in project.said
    assert project.run("-k", "nonesuch")[0] == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_change_of_the_code_begins_anew(project: Project) -> None:
    project.run()
    (project.folder / "module.py").write_text("changed = True\n")
    assert project.run() == (0, [*ALL, "test_last"])


def test_processes_side_by_side_remember_together(project: Project) -> None:
    assert project.run("-p", "xdist.plugin", "-n", "2", "-k", "not skipped")[0] == 0
    assert project.run("-p", "xdist.plugin", "-n", "2", "-k", "not skipped") == (0, [])
