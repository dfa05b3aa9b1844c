"""`pytest --resume`: a run that was cut goes on with the tests that have not passed since the code last changed.

Knows pytest's hooks and cache. Must not know what is tested.

Each test that passes, its teardown included, is written down at once, a line each, under a name that follows from the
code's contents: a run may be killed at any moment, and a change to any file of the code begins anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

#: Files whose contents decide what a test's outcome is worth.
SUFFIXES = {".py", ".toml", ".json", ".jsonl", ".txt", ".md", ".yml", ".html", ".js", ".css", ".safetensors"}
_LEFT_OUT = "corpusmill_left_out"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option itself."""
    parser.addoption(
        "--resume", action="store_true", help="leave out the tests that passed since the code last changed"
    )


class Resumed:
    """The tests that passed before, and the file in which those that pass now are added to them."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        self._file = folder / f"passed-{fingerprint(config.rootpath)}"
        for other in folder.glob("passed-*"):
            if other != self._file:
                other.unlink()
        lines = self._file.read_text(encoding="utf-8").split("\n") if self._file.exists() else [""]
        self.passed = set(lines[:-1])  # what follows the last line end was cut off in the middle
        self._started = False
        self._called: set[str] = set()
        self.left_out = 0

    @pytest.hookimpl(trylast=True)  # after -m and -k have chosen
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what has passed."""
        done = [item for item in items if item.nodeid in self.passed]
        if done:
            self.left_out = len(done)
            config.hook.pytest_deselected(items=done)
            items[:] = [item for item in items if item.nodeid not in self.passed]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write down a test that has passed and was torn down; a skipped one is none."""
        if report.when == "call" and report.passed:
            self._called.add(report.nodeid)
        if report.when == "teardown" and report.passed and report.nodeid in self._called:
            with self._file.open("a", encoding="utf-8") as file:
                if not self._started:
                    file.write("\n")  # ends a line that was cut off
                    self._started = True
                file.write(f"{report.nodeid}\n")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """With pytest-xdist it is the workers that leave out, each the same."""
        self.left_out = max(self.left_out, getattr(node, "workeroutput", {}).get(_LEFT_OUT, 0))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Nothing left to run is no failure."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[_LEFT_OUT] = self.left_out
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self.left_out:
            session.exitstatus = pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was left out and how to have it back."""
        if self.left_out:
            terminalreporter.write_line(
                f"{self.left_out} tests left out: they passed since the code last changed (--cache-clear runs them too)"
            )


def pytest_configure(config: pytest.Config) -> None:
    """Where `--resume` is given, remember; with pytest-xdist the controller writes and every process leaves out."""
    if config.getoption("--resume") and config.cache is not None:
        config.pluginmanager.register(Resumed(config, config.cache.mkdir("corpusmill")), "corpusmill-resume")


def fingerprint(root: Path) -> str:
    """Changes when any file of the code does, wherever the code stands and whenever it was checked out."""
    digest = hashlib.sha256()
    for path in sorted(_code(root)):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _code(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in {"__pycache__", "build", "var"}:
            continue
        if path.is_dir():
            yield from _code(path)
        elif path.suffix in SUFFIXES:
            yield path
