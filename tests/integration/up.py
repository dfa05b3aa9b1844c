"""`corpusmill up` as the tests start it: the real programs, and what is asked of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
CLI = [sys.executable, "-m", "cli"]


@dataclass
class Up:
    """A supervisor that said it was ready."""

    process: subprocess.Popen[str]
    url: str
    data: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def everything(self) -> list[psutil.Process]:
        """The supervisor and all that runs below it."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def program(self, *words: str) -> psutil.Process:
        """The child whose command line ends in these words, or whose program's name is the one word."""
        [found] = [
            child
            for child in psutil.Process(self.process.pid).children()
            if child.cmdline()[-len(words) :] == list(words) or Path(child.cmdline()[0]).name == words[0]
        ]
        return found

    def messages(self) -> str:
        return (self.data / "up.log").read_text()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The API's answer to GET, or to POST where there is a body."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api/v1{path}", content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=30) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def start(data: Path, *options: str, **environ: str) -> Up:
    """Run `up` on a directory and wait until it is ready."""
    data.mkdir(exist_ok=True)
    with (data / "up.log").open("w") as log:
        process = subprocess.Popen(
            [*CLI, "up", "--port", "0", "--data", str(data), "--device", "cpu", *options],
            cwd=ROOT,
            env=os.environ | environ,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready http://127.0.0.1:"), (data / "up.log").read_text()
    return Up(process, line.split()[1], data)


def end(up: Up) -> None:
    """Leave nothing running, whatever a test did."""
    if up.process.poll() is None:
        up.process.kill()  # the rest dies with it
        up.process.wait()
    if up.process.stdout is not None:
        up.process.stdout.close()


def eventually(happens: Callable[[], bool]) -> None:
    """Return once it does; the test's own time limit ends the waiting."""
    while not happens():
        time.sleep(0.05)
