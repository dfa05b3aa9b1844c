"""Keeps a handful of programs running: starts them, starts them again when they die, and ends them in order.

Knows processes, signals and back-off. Must not know what the programs do.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from broker.logfile import open_log, tail
from broker.tether import tethered
from corpusmill.errors import CorpusmillError

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
#: A program that ran this long was sound: the next restart is as quick as the first.
_SOUND_SECONDS = 60.0


class Part(Protocol):
    """Something that runs beside the supervisor and may die."""

    def start(self) -> None:
        """Start it. Raises CorpusmillError or OSError where that fails."""

    def poll(self) -> int | None:
        """Its exit code once it has ended."""

    def said(self) -> str:
        """The end of what it has written since it was started."""


@dataclass(slots=True, kw_only=True)
class Program:
    """A program of ours in a session of its own, so that Ctrl-C reaches the supervisor alone; output goes to `log`.

    It is killed by the kernel when this process dies. `pass_fds` are file descriptors it inherits.
    """

    command: Sequence[str]
    environ: Mapping[str, str]
    log: Path
    pass_fds: Sequence[int] = ()
    _process: subprocess.Popen[bytes] | None = None
    _written: int = 0

    def start(self) -> None:
        with open_log(self.log) as log:
            self._written = log.tell()
            self._process = subprocess.Popen(
                tethered(self.command, signal=signal.SIGKILL),
                env=dict(self.environ),
                pass_fds=self.pass_fds,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """The exit code once it has ended; what it had started is ended with it."""
        if self._process is None:
            return None
        code = self._process.poll()
        if code is not None:
            self._forget()
        return code

    def said(self) -> str:
        return tail(self.log, lines=12, since=self._written)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def terminate(self) -> None:
        """Ask it to end."""
        if self.running and self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End it and all that it started, at once."""
        if self._process is not None:
            self._forget()

    def _forget(self) -> None:
        """Kill its process group, and never again: the number may come to mean somebody else's."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass(slots=True, kw_only=True)
class Watched:
    """A part and its restarts. Times are `time.monotonic()`; `due` is when it is started again, None while it runs."""

    name: str
    part: Part
    pause: float = _FIRST_PAUSE
    started: float = 0.0
    due: float | None = None

    def start(self, now: float) -> None:
        self.started, self.due = now, None
        self.part.start()

    def look(self, now: float, say: Callable[[str], None]) -> None:
        """Notice that it has died, or start it again when that is due."""
        if self.due is not None:
            if now >= self.due:
                self._start_again(now, say)
            return
        code = self.part.poll()
        if code is not None:
            self._plan(now, f"{self.name} ended ({said_of(code)})", say)

    def _start_again(self, now: float, say: Callable[[str], None]) -> None:
        try:
            self.start(now)
        except (CorpusmillError, OSError) as error:
            self._plan(now, f"{self.name} could not be started: {error}", say)

    def _plan(self, now: float, what: str, say: Callable[[str], None]) -> None:
        pause = _FIRST_PAUSE if now - self.started >= _SOUND_SECONDS else self.pause
        self.due, self.pause = now + pause, min(_LONGEST_PAUSE, 2 * pause)
        said = self.part.said()
        say(f"{what}; starting it again in {pause:g} s." + (f" It said at last:\n{said}" if said else ""))


def said_of(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def end(programs: Sequence[Program], *, patience: float, hurry: Callable[[], bool]) -> list[Program]:
    """End programs together: ask, wait `patience` seconds or until `hurry()`, kill. Returns those that were killed."""
    for program in programs:
        program.terminate()
    deadline = time.monotonic() + patience
    while any(program.running for program in programs) and time.monotonic() < deadline and not hurry():
        time.sleep(0.02)
    late = [program for program in programs if program.running]
    for program in programs:
        program.kill()  # also what a program that ended in time may have left behind
    return late


@dataclass(slots=True)
class Signals:
    """Counts the requests to end (SIGINT, SIGTERM, SIGHUP); SIGCHLD only wakes `wait`. For the main thread."""

    count: int = 0
    _wakeup: int = field(default=-1)

    @contextmanager
    def caught(self) -> Iterator[Signals]:
        """Handle them for the length of the block."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self._wakeup = reader
        before_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` leaves it
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._count) for number in numbers}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before_fd)
            os.close(reader)
            os.close(writer)

    def wait(self, seconds: float) -> None:
        """Sleep for `seconds`, or until a signal comes."""
        select.select([self._wakeup], [], [], seconds)
        with suppress(BlockingIOError):
            while os.read(self._wakeup, 512):
                pass

    def _count(self, *_: object) -> None:
        self.count += 1


def say(text: str) -> None:
    """Tell whoever started the supervisor."""
    print(f"corpusmill: {text}", file=sys.stderr, flush=True)
