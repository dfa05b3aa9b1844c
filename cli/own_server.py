"""A server of our own for as long as somebody needs it: `corpusmill up` as a child that is always ended.

Knows the line `ready http://…` and signals. Must not know what the server is asked.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from broker.tether import tethered
from cli.output import say
from corpusmill.errors import CorpusmillError

READY_SECONDS, STOP_SECONDS = 120.0, 20.0
#: What differs from a server that is to stay, where the environment does not say otherwise: a shard is the step of a
#: progress bar, and the corpora are small.
SETTINGS = {"CORPUSMILL_SHARD_DOCUMENTS": "64"}
COMMAND = (sys.executable, "-m", "cli", "up", "--host", "127.0.0.1", "--port", "0")


class ServerFault(CorpusmillError):
    """The server did not start."""

    code = "server_fault"


@contextmanager
def own_server(data: Path | None) -> Iterator[str]:
    """Runs a server on a free port and gives its address; ends it on the way out, whatever the reason.

    Without `data` it works in a temporary directory that is removed at the end. SIGTERM and SIGHUP end it too, and so
    does the death of this process. Raises ServerFault with the end of its messages where it does not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="corpusmill-demo-", ignore_cleanup_errors=True) as made:
        log = Path(made) / "up.log"
        command = [*COMMAND, "--data", str(data or Path(made) / "data")]
        with _ended_by_signals(), log.open("wb") as errors:
            process = subprocess.Popen(
                tethered(command, signal=signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=SETTINGS | os.environ,
                start_new_session=True,  # Ctrl-C is for us; the server is then asked to end in order
                text=True,
            )
            lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
            reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
            reader.start()
            try:
                yield _ready(lines, log)
            finally:
                _end(process)
                reader.join(STOP_SECONDS)


def _ready(lines: queue.SimpleQueue[str | None], log: Path) -> str:
    """The address that the server prints once it answers."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise ServerFault(f"The server was not ready within {READY_SECONDS:g} s.{_end_of(log)}") from None
        if line is None:
            raise ServerFault(f"The server did not start.{_end_of(log)}")
        if line.startswith("ready "):
            return line.split()[1]


def _read(stream: IO[str] | None, lines: queue.SimpleQueue[str | None]) -> None:
    """Reads the server's output to its end, so that it never waits for a reader."""
    if stream is not None:
        with stream:
            for line in stream:
                lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    """Asks the server to end, and ends it."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        say(f"The server had not ended after {STOP_SECONDS:g} s and was killed.")
        process.kill()  # what it started dies with it
        process.wait()


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
    return " The end of its messages:\n" + "\n".join(lines) if lines else ""


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP leave by way of SystemExit, so that what is open is closed."""

    def leave(number: int, frame: Any) -> None:  # noqa: ARG001
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
