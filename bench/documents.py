"""A million documents through the whole system: how long, how much memory, and whether everything agrees.

    python -m bench documents [--documents 1000000]

Starts `corpusmill up` in a temporary directory, uploads a JSONL file of about 200 bytes a line, runs the echo model over it
and exports the results. The peak of each program's resident memory is the kernel's own (`VmHWM`), read once a second while
the program lives; that of the broker's data is the greatest that it said.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import psutil
import redis
from corpusmill_client import Client


def line(number: int) -> bytes:
    """A document of about 200 bytes with a reference that the echo model meets in one of four cases."""
    text = f"Document {number}: " + hashlib.sha256(str(number).encode()).hexdigest() * 2
    return json.dumps({"id": f"d{number}", "text": text, "reference": str(number % 4)}).encode() + b"\n"


class Watch:
    """Peaks of resident memory by program, in MB."""

    def __init__(self, supervisor: int, socket: Path) -> None:
        self.peaks: dict[str, float] = {}
        self._supervisor = psutil.Process(supervisor)
        self._socket = socket
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        with redis.Redis(unix_socket_path=str(self._socket)) as broker:
            while not self._ended.wait(1.0):
                used = broker.info("memory")["used_memory"]
                self._note("broker used_memory", used)
                for process in self._supervisor.children(recursive=True):
                    # What ended while it was looked at has no command line any more, or no memory.
                    with suppress(psutil.NoSuchProcess, OSError, KeyError):
                        self._note(self._name(process), _peak(process.pid))

    def _name(self, process: psutil.Process) -> str:
        if "db.ingest" in process.cmdline():
            return "ingest"
        line = [process, *process.parents()]
        program = line[line.index(self._supervisor) - 1]
        name = next((word for word in ("api", "worker", "sweep") if word in program.cmdline()), "broker")
        return name if process == program else f"{name} child"

    def _note(self, name: str, size: int) -> None:
        self.peaks[name] = max(self.peaks.get(name, 0.0), size / 1e6)


def _peak(pid: int) -> int:
    """The most resident memory that a process has had, in bytes. Raises OSError or KeyError of one that has ended."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def main(arguments: list[str]) -> int:
    """Measure and print; raises SystemExit where the figures do not agree."""
    parser = argparse.ArgumentParser(
        prog="python -m bench documents", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=1_000_000)
    count = parser.parse_args(arguments).documents
    with tempfile.TemporaryDirectory(prefix="corpusmill-bench-") as folder:
        source = Path(folder) / "documents.jsonl"
        with source.open("wb") as file:
            file.writelines(line(number) for number in range(count))
        data = Path(folder) / "data"
        command = [sys.executable, "-m", "cli", "up", "--port", "0", "--data", str(data), "--device", "cpu"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                url = next(text.split()[1] for text in server.stdout if text.startswith("ready "))
                run(url, source, count, Watch(server.pid, data / "broker" / "valkey.sock"))
            finally:
                server.send_signal(signal.SIGTERM)
    return 0


def run(url: str, source: Path, count: int, watch: Watch) -> None:
    """Upload, run, export and compare; prints the figures as JSON."""
    clock = time.perf_counter
    marks = [clock()]
    with Client(url) as client:
        corpus = client.upload(source).wait()
        marks.append(clock())
        job = client.submit("classification", corpus, model="echo").wait()
        marks.append(clock())
        exported = right = 0
        for position, text in enumerate(_lines(job.stream("jsonl"))):
            row = json.loads(text)
            right += row["position"] == position and row["output"]["label"] == str(crc32(row["text"].encode()) % 4)
            exported += 1
        marks.append(clock())
        metrics = job.metrics()
    watch.stop()
    accuracy = metrics["accuracy"]
    figures = {
        "documents": count, "bytes": source.stat().st_size, "status": job.data["status"], "counts": job.data["counts"],
        "exported": exported, "exported_right": right, "evaluated": accuracy.n,
        "seconds": {
            name: round(b - a, 1) for name, (a, b) in zip(("upload", "run", "export"), pairwise(marks), strict=True)
        },
        "peak_megabytes": {name: round(value, 1) for name, value in sorted(watch.peaks.items())},
    }  # fmt: skip
    print(json.dumps(figures, indent=2))
    if not count == exported == right == accuracy.n == job.data["counts"]["succeeded"]:
        raise SystemExit("the figures do not agree")


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest
