"""Parquet read in a process of its own: Arrow ends its process on some damaged files, and maps much memory.

Knows how a file goes over and how items and refusals come back. Must not know what is in the file.

The child has the file as its standard input, and writes lines: a document or an error as in the store, a refusal with
`!` before it, and, where it came to the end, `.` with the bytes that it spent. Without either of these it died: of the
file, or because somebody killed it, or because it could not run.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NoReturn

from corpora.options import Limits, Options
from corpora.store_lines import document_from, document_line, error_from, error_line
from corpora.streams import Budget
from corpusmill.documents import Document, IngestError
from corpusmill.errors import CorpusmillError, FieldFault, InvalidRequest, TooLarge

#: Address space of the child: what Arrow and Python map at rest, and several times what `parquet_pages` admits.
ADDRESS_SPACE = 4 << 30
#: What the code that reads a damaged file dies of. Any other signal somebody sent: a supervisor, or a system that is out of
#: memory.
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
_ROOT = str(Path(__file__).parents[1])


class ReaderKilled(OSError):
    """The process that read the file was killed by others; whoever waited for it counts as killed."""


def read_parquet_apart(
    file: IO[bytes], budget: Budget, options: Options, start: int = 0
) -> Iterator[Document | IngestError]:
    """What `parquet.read_parquet` gives and raises; `file` must be one of the operating system's.

    Raises InvalidRequest too where the child died of the file, and TooLarge where it took too long over it; ReaderKilled
    where others killed it, CorpusmillError where it failed over the file as nobody foresaw, and OSError where it could not
    run.
    """
    request = {"options": asdict(options), "start": start, "spent": budget.spent, "received": budget.received()}
    path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(
            [sys.executable, "-m", "corpora.parquet_child", json.dumps(request)],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            yield from _items(child, budget, start, complaints, options.limits.parquet_seconds)
        finally:
            child.kill()
            child.communicate()


def _items(
    child: subprocess.Popen[bytes], budget: Budget, position: int, complaints: IO[bytes], seconds: int
) -> Iterator[Document | IngestError]:
    assert child.stdout is not None
    for line in child.stdout:
        if not line.endswith(b"\n"):  # it died over it
            break
        if line.startswith(b"{"):
            yield document_from(line, position)
            position += 1
        elif line.startswith(b"["):
            yield error_from(line)
        elif line.startswith(b"!"):
            _refuse(*json.loads(line[1:]))
        else:
            budget.spend(int(line[1:]) - budget.spent)
            return
    if child.wait() == -signal.SIGXCPU:
        raise TooLarge(
            f"The Parquet file takes more than {seconds} s of processor time to read (CORPUSMILL_PARQUET_SECONDS). Write it "
            "again, in several files where it is very large."
        )
    if -child.returncode in _CRASHES:
        raise InvalidRequest("The Parquet file cannot be read: its reader could not survive it. Write it again.")
    if child.returncode < 0:
        raise ReaderKilled(f"The reader of a Parquet file was killed by {_name(-child.returncode)}.")
    complaints.seek(0)
    last = complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
    raise OSError(f"The reader of Parquet files could not run: {last}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # of real time
        return f"signal {number}"


def _refuse(code: str, message: str, faults: list[list[str]]) -> NoReturn:
    if code == TooLarge.code:
        raise TooLarge(message)
    if code == CorpusmillError.code:
        raise CorpusmillError(message)
    raise InvalidRequest(message, *(FieldFault(*fault) for fault in faults))


def _bound(what: int, limit: int) -> None:
    """Limit this process, no further than it is limited already; beyond RLIMIT_CPU the kernel sends SIGXCPU."""
    _, most = resource.getrlimit(what)
    resource.setrlimit(what, (min(most, limit) if most >= 0 else limit, most))


def main(request: dict[str, Any]) -> None:
    """The child: read the file at standard input, write items to standard output."""
    from corpora.parquet import read_parquet

    _bound(resource.RLIMIT_AS, ADDRESS_SPACE)
    options = Options(**request["options"] | {"limits": Limits(**request["options"]["limits"])})
    _bound(resource.RLIMIT_CPU, options.limits.parquet_seconds)
    _bound(resource.RLIMIT_CORE, 0)
    received = request["received"]
    budget = Budget(options.limits, lambda: received, request["spent"])
    with os.fdopen(0, "rb") as file, os.fdopen(1, "w", encoding="utf-8", buffering=1 << 20) as out:
        try:
            for item in read_parquet(file, budget, options, request["start"]):
                out.write(document_line(item) if isinstance(item, Document) else error_line(item))
            out.write(f".{budget.spent}\n")
        except (InvalidRequest, TooLarge) as error:
            faults = [[fault.pointer, fault.message] for fault in getattr(error, "faults", ())]
            out.write("!" + json.dumps([error.code, str(error), faults]) + "\n")
        except MemoryError:
            message = "The Parquet file takes more memory than a reader has. Write it again with smaller row groups."
            out.write("!" + json.dumps([TooLarge.code, message, []]) + "\n")
        except OSError:
            raise  # the machine's
        except Exception as error:  # noqa: BLE001 — without what it says: that may quote the upload
            place = traceback.extract_tb(error.__traceback__)[-1]
            message = (
                f"The reader of Parquet files failed with {type(error).__name__} "
                f"({Path(place.filename).name}:{place.lineno})."
            )
            out.write("!" + json.dumps([CorpusmillError.code, message, []]) + "\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
