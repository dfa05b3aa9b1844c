"""Exports: formats, writing aside and renaming, and rows as dictionaries.

Knows bytes and files. Must not know jobs. Memory is one block or one line, whatever the job.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from corpusmill_client.errors import ConnectionFailed
from corpusmill_client.transport import backoff
from corpusmill_client.views import sentence_of

FORMATS = ("jsonl", "csv", "parquet")
#: Called with the bytes received so far.
ExportProgress = Callable[[int], object]
TRIES = 3


def export_format(target: str, given: str | None = None) -> str:
    """The export format that `given` or a file name's extension says. Raises ValueError naming the known ones."""
    wanted = (given or Path(target).suffix.removeprefix(".") or target).lower()
    wanted = "jsonl" if wanted == "ndjson" else wanted
    if wanted not in FORMATS:
        raise ValueError(
            f"{given or target!r} names no export format: end the file's name with .jsonl, .csv or .parquet."
        )
    return wanted


def save(blocks: Callable[[], Iterable[bytes]], target: Path, progress: ExportProgress | None) -> None:
    """Writes `blocks` to a file beside `target` and renames it when it is whole; `target` is never half a file.

    Starts again where the connection breaks off; `blocks` is called for each try. Raises OSError, and what it raises.
    """
    for attempt in range(TRIES):
        aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            _write(blocks(), aside, progress)
            aside.replace(target)
        except ConnectionFailed:
            if attempt == TRIES - 1:
                raise
            time.sleep(backoff(attempt))
        else:
            return
        finally:
            aside.unlink(missing_ok=True)


def _write(blocks: Iterable[bytes], path: Path, progress: ExportProgress | None) -> None:
    received = 0
    with path.open("xb") as file:
        for block in blocks:
            file.write(block)
            received += len(block)
            if progress:
                progress(received)
        file.flush()
        os.fsync(file.fileno())


def rows_of(blocks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The objects of JSON Lines that arrive in blocks."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from (json.loads(line) for line in lines if line.strip())
    if rest.strip():
        yield json.loads(rest)


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """An exported row as columns: `output` gives its fields (`label`, `summary`, …), `error` becomes a sentence.

    A field of the document keeps its name; an output field of the same name is called `output_…`.
    """
    columns = {name: value for name, value in row.items() if name not in {"output", "error"}}
    output = row.get("output")
    if isinstance(output, Mapping):
        columns |= {f"output_{name}" if name in columns else name: value for name, value in output.items()}
    elif output is not None:
        columns["output"] = output
    if "error" in row:
        columns["error"] = sentence_of(row["error"])
    return columns
