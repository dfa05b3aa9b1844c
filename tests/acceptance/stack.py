"""The whole system as a user starts it: `corpusmill up` in a process of its own, spoken to over HTTP.

A test file of this tier imports nothing of the product but this.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil

ROOT = Path(__file__).parents[2]
ENDED = {"completed", "completed_with_errors", "failed", "cancelled"}
#: Seconds to wait for what takes one or two: a wait is for what will come, and says nothing of how fast. Others may share
#: the machine.
PATIENCE = 900.0


class Stack:
    """A running `corpusmill up`: its address, its processes, and the few requests that tests make."""

    def __init__(self, process: subprocess.Popen[str], url: str, data_dir: Path, output: list[str]) -> None:
        self.process = process
        self.url = url
        self.data_dir = data_dir
        self.output = output
        self.http = httpx2.Client(base_url=url, timeout=httpx2.Timeout(120.0))

    def get(self, path: str, **params: Any) -> Any:
        response = self.http.get(f"/api/v1{path}", params=params)
        assert response.status_code == 200, response.text
        return response.json()

    def upload(self, body: bytes, media_type: str = "application/x-ndjson", **query: str) -> dict[str, Any]:
        response = self.http.post("/api/v1/corpora", content=body, params=query, headers={"Content-Type": media_type})
        assert response.status_code == 201, response.text
        return self.ready(response.json())

    def ready(self, corpus: dict[str, Any], seconds: float = PATIENCE) -> dict[str, Any]:
        """The corpus once it has been read."""
        deadline = time.monotonic() + seconds
        while corpus["status"] == "validating":
            assert time.monotonic() < deadline, f"not read: {corpus}\n{self.logs()}"
            time.sleep(0.2)
            corpus = self.get(f"/corpora/{corpus['id']}")
        return corpus

    def submit(self, **body: Any) -> dict[str, Any]:
        response = self.http.post("/api/v1/jobs", json=body)
        assert response.status_code == 202, response.text
        job: dict[str, Any] = response.json()
        return job

    def wait(
        self, job_id: str, until: Callable[[dict[str, Any]], bool] | None = None, seconds: float = PATIENCE
    ) -> Any:
        """The job once `until` holds of it, by default once it has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                job = self.get(f"/jobs/{job_id}", wait=1)
            except (AssertionError, httpx2.HTTPError):
                time.sleep(0.2)
                continue
            if until(job) if until else job["status"] in ENDED:
                return job
        raise AssertionError(f"not reached: {self.get(f'/jobs/{job_id}')}\n{self.logs()}")

    def results(self, job_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = self.get(f"/jobs/{job_id}/results", limit=1000, **({"cursor": cursor} if cursor else {}))
            found += page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def export(self, job_id: str, format: str = "jsonl", **params: Any) -> bytes:
        response = self.http.get(f"/api/v1/jobs/{job_id}/export", params={"format": format, **params})
        assert response.status_code == 200, response.text
        content: bytes = response.content
        return content

    def metrics(self, job_id: str) -> dict[str, Any]:
        return {metric["name"]: metric for metric in self.get(f"/jobs/{job_id}/metrics")["metrics"]}

    def processes(self, word: str) -> list[psutil.Process]:
        """The programs that `up` started whose command line holds `word`, with their own children."""
        found: list[psutil.Process] = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # ended while it was looked at
                if word in [Path(part).name for part in child.cmdline()]:
                    found += [child, *child.children(recursive=True)]
        return found

    def kill_workers(self) -> None:
        """SIGKILL every worker, parents and children at once."""
        for process in self.processes("worker"):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    def logs(self) -> str:
        """The ends of the programs' logs, for a failing test."""
        ends = [
            f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted((self.data_dir / "logs").glob("*.log"))
        ]
        return "\n".join(["".join(self.output), *ends])

    def stop(self) -> int:
        """SIGTERM, as an orchestrator does; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def started(data_dir: Path, *arguments: str, **settings: str) -> Iterator[Stack]:
    """`corpusmill up` with the given settings, ready; stopped at the end."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CORPUSMILL_")}
    environ |= {f"CORPUSMILL_{name.upper()}": value for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "up", "--port", "0", "--data", str(data_dir), "--device", "cpu", *arguments],
        cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    output: list[str] = []
    url: list[str] = []
    ready = threading.Event()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)
            if line.startswith("ready "):
                url.append(line.split()[1])
                ready.set()
        ready.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    ready.wait(PATIENCE)
    stack = Stack(process, url[0] if url else "http://127.0.0.1:1", data_dir, output)
    try:
        assert url, stack.logs()
        yield stack
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        stack.http.close()
        listener.join(10)
        if process.stdout is not None:
            process.stdout.close()


def jsonl(documents: Sequence[Mapping[str, Any]]) -> bytes:
    """Documents as JSON lines."""
    return "".join(json.dumps(document) + "\n" for document in documents).encode()
