"""Processes that can be hurt: each in a group of its own, started, stopped, killed and started again.

Knows signals and logs. Must not know what the programs do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

from broker.tether import tethered

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 60.0, what: str = "") -> T:
    """Block until the condition holds, and return what it said. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what or condition}")
        time.sleep(0.02)


@dataclass(slots=True)
class Process:
    """A program in a process group of its own; its output goes to `log`, its code is that in `tree`. It dies with the
    tests."""

    command: Sequence[str]
    environ: Mapping[str, str]
    log: Path
    prefix: Sequence[str] = ()
    tree: Path = ROOT
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.alive:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, *tethered(self.command, signal=signal.SIGKILL)],
                env=dict(self.environ), cwd=self.tree, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def children(self) -> list[psutil.Process]:
        """Everything that it started, directly or not."""
        with suppress(psutil.NoSuchProcess):
            found: list[psutil.Process] = psutil.Process(self.pid).children(recursive=True)
            return found
        return []

    def signal(self, number: int) -> None:
        """Send a signal to the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """SIGKILL the whole group, and wait until it is gone."""
        if self._process is None:
            return
        self.signal(signal.SIGKILL)
        self._process.wait()

    def terminate(self) -> None:
        """SIGTERM for the program alone, as an orchestrator does."""
        assert self._process is not None
        self._process.terminate()

    def await_stopped(self, seconds: float = 40.0) -> None:
        """Wait until it has ended. Raises subprocess.TimeoutExpired."""
        assert self._process is not None
        self._process.wait(seconds)
        self.signal(signal.SIGKILL)  # what it may have left behind

    def wait(self, seconds: float = 60.0) -> int:
        """Block until it has ended by itself; its exit status."""
        assert self._process is not None
        return self._process.wait(seconds)


def python(*arguments: str) -> list[str]:
    """A Python of ours."""
    return [sys.executable, *arguments]
