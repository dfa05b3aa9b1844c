"""Parquet read in a process of its own: Arrow ends its process on some damaged files, and takes what memory it is told to.

Knows how a file goes over and how items and refusals come back. Must not know formats beyond that it is Parquet.

The child gets the file as its standard input and writes lines: a document or an error as in the store, a refusal with `!`
before it, and, where it came to the end, `.` with the bytes it spent. Anything else means that it died.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from corpora.options import Limits, Options
from corpora.store_lines import document_from, document_line, error_from, error_line
from corpora.streams import Budget
from corpusmill.documents import Document, IngestError
from corpusmill.errors import CorpusmillError, FieldFault, InvalidRequest, TooLarge

#: Address space of the child: what Arrow and Python map, and twice what `parquet_pages` admits.
ADDRESS_SPACE = 4 << 30
_ROOT = str(Path(__file__).parents[1])


def read_parquet_apart(
    file: IO[bytes], budget: Budget, options: Options, start: int = 0
) -> Iterator[Document | IngestError]:
    """What `parquet.read_parquet` gives and raises, for a file of the operating system; a crash is an InvalidRequest."""
    request = {"options": asdict(options), "start": start, "spent": budget.spent, "received": budget.received()}
    path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "corpora.parquet_child", json.dumps(request)]
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(
            command, stdin=file, stdout=subprocess.PIPE, stderr=complaints, env={**os.environ, "PYTHONPATH": path}
        )
        try:
            assert child.stdout is not None
            yield from _items(child.stdout, budget, start)
        finally:
            child.kill()
            child.communicate()
