"""An upload of two gigabytes leaves the API small: what comes off the wire goes to the disk in pieces.

Peaks are the kernel's own (`VmHWM` of /proc/PID/status), so nothing is missed between two looks.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from .stack import Stack, started

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc, where Linux shows peaks of memory"),
]

#: Bytes of resident memory that no process of the API may reach.
MOST = 300_000_000
SIZE = 2_000_000_000
#: As a part of a form; still far more than the API might hold.
FORM_SIZE = 600_000_000
BOUNDARY = "part-of-a-form"


def piece(number: int) -> bytes:
    """About 4 MB of JSON lines: documents of 1 MiB, of 2 KB and of 200 bytes, with a reference and another field."""
    draw = random.Random(number)
    words = [f"word{draw.randrange(10_000)}" for _ in range(400)]
    lines = []
    for size, count in ((1 << 20, 1), (2_000, 500), (200, 6_000)):
        text = " ".join(words)[:size] if size < 3_000 else (" ".join(words) * (size // 3_000))[:size]
        lines += [json.dumps({"text": f"{k} {text}", "reference": "a", "source": "made"}) for k in range(count)]
    return ("\n".join(lines) + "\n").encode()


class Body:
    """JSON lines of at least so many bytes, made while they are sent; knows how much was."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pieces = [piece(number) for number in range(8)]
        self.sent = self.documents = 0

    def __iter__(self) -> Iterator[bytes]:
        lines = [part.count(b"\n") for part in self._pieces]
        number = 0
        while self.sent < self._size:
            part = self._pieces[number % len(self._pieces)]
            self.documents += lines[number % len(self._pieces)]
            self.sent += len(part)
            number += 1
            yield part


class Form(Body):
    """The same as the part `file` of a form."""

    def __iter__(self) -> Iterator[bytes]:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="large.jsonl"\r\n\r\n'
        yield head.encode()
        yield from super().__iter__()
        yield f"\r\n--{BOUNDARY}--\r\n".encode()


class Peaks:
    """The peak resident memory of each process of the API, in bytes, read again and again while they live."""

    def __init__(self, stack: Stack) -> None:
        self.by_name: dict[str, int] = {}
        self._stack = stack
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            for process in self._stack.processes("api"):
                with suppress(psutil.NoSuchProcess, OSError, KeyError):  # it ended while it was looked at
                    name = self._name(process)
                    self.by_name[name] = max(self.by_name.get(name, 0), peak(process.pid))

    def _name(self, process: psutil.Process) -> str:
        if "db.ingest" in process.cmdline():
            return "ingest"
        return "parent" if process.ppid() == self._stack.process.pid else "api"


def peak(pid: int) -> int:
    """VmHWM in bytes. Raises KeyError of a process that has ended and is not yet forgotten."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize(("kind", "size"), [(Body, SIZE), (Form, FORM_SIZE)], ids=["chunked", "form"])
def test_a_large_upload_leaves_every_process_of_the_api_small(
    kind: type[Body], size: int, tmp_path: Path, record_property: Any
) -> None:
    body = kind(size)
    headers = {"Content-Type": "application/x-ndjson"}
    if kind is Form:
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    with started(tmp_path) as stack:
        with Peaks(stack) as peaks:
            response = stack.http.post("/api/v1/corpora", content=iter(body), headers=headers, timeout=900.0)
            assert response.status_code == 201, response.text
            corpus = stack.ready(response.json(), seconds=900)
        assert (corpus["status"], corpus["bytes"]) == ("ready", body.sent)
        assert (corpus["documents"], corpus["invalid"]) == (body.documents, 0)
        assert list((stack.data_dir / "uploads").iterdir()) == []
    record_property("peaks", peaks.by_name)
    print({name: f"{size / 1e6:.0f} MB" for name, size in sorted(peaks.by_name.items())})
    assert set(peaks.by_name) == {"parent", "api", "ingest"}
    assert all(size < MOST for size in peaks.by_name.values()), peaks.by_name
