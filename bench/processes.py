"""The two sides of a comparison of the whole system: an engine in a process of its own, and `corpusmill up`.

Knows the command line, the client and processes' CPU times. Must not know engines, nor anything inside the server.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from corpusmill_client import Client, Job

_ROOT = Path(__file__).parents[1]
#: Longer than any corpus of a comparison takes.
_READ_SECONDS = 600
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A model below a root, a task with its parameters, and the device to run on."""

    root: Path
    model: str
    task: str
    params: Mapping[str, Any]
    device: str


class Alone:
    """An engine in a process of its own, ready to run the same texts again and again."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()

    def run(self) -> dict[str, float]:
        """One run over all texts: its seconds as `wall` and `cpu`."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the engine's own process ended early")
        found: dict[str, float] = json.loads(line)
        return found


@contextmanager
def alone(work: Work, source: Path, answers: Path, threads: int) -> Iterator[Alone]:
    """The engine, loaded, over the texts in `source`; `answers` gets its outputs."""
    given = [str(work.root), work.model, work.task, json.dumps(work.params), threads, source, answers, work.device]
    with subprocess.Popen(
        [sys.executable, "-m", "bench.alone", *map(str, given)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=_environ(), cwd=_ROOT,
    ) as process:  # fmt: skip
        try:
            yield Alone(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


class Ran:
    """One job: seconds from its creation to its end, of the upload before it, and of all processes' CPU."""

    def __init__(self, job: Job, upload: float, cpu: float) -> None:
        assert job.created_at is not None
        assert job.finished_at is not None
        self.job, self.upload, self.cpu = job, upload, cpu
        self.wall = (job.finished_at - job.created_at).total_seconds()


class Server:
    """A running `corpusmill up` with one worker."""

    def __init__(self, process: subprocess.Popen[str], url: str, work: Work) -> None:
        self.url = url
        self._process = psutil.Process(process.pid)
        self._work = work

    def run(self, client: Client, texts: Sequence[str]) -> Ran:
        """The texts as a corpus, and a job over it. Raises RuntimeError where the job does not complete."""
        started = time.perf_counter()
        corpus = client.upload([{"text": text} for text in texts]).wait(_READ_SECONDS)
        upload = time.perf_counter() - started
        before = self._cpu()
        job = client.submit(self._work.task, corpus, model=self._work.model, params=self._work.params).wait()
        if job.status != "completed":
            raise RuntimeError(f"the job ended as {job.status}: {job.error}")
        return Ran(job, upload, sum(seconds - before.get(pid, 0.0) for pid, seconds in self._cpu().items()))

    def _cpu(self) -> dict[int, float]:
        """CPU seconds so far of each of the server's processes, by process id."""
        found = {}
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            found[process.pid] = float(times.user + times.system)
        return found


@contextmanager
def server(work: Work) -> Iterator[Server]:
    """The whole system in a directory of its own, ready, with the models of the work's root."""
    data = str(work.root / ".data")
    command = ["-m", "cli", "up", "--port", "0", "--data", data, "--device", work.device, "--workers", "1"]
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=_ROOT,
        env=_environ() | {"CORPUSMILL_MODELS_ROOT": str(work.root)},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            url = next((line.split()[1] for line in process.stdout if line.startswith("ready ")), None)
            if url is None:
                raise RuntimeError("the server did not become ready")
            yield Server(process, url, work)
        finally:
            process.send_signal(signal.SIGTERM)


def _environ() -> dict[str, str]:
    """This environment without the bounds on threads, and without settings of the service."""
    return {
        name: value for name, value in os.environ.items() if name not in _THREADS and not name.startswith("CORPUSMILL_")
    }
