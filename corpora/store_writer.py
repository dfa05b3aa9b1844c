"""Writing a corpus: aside, flushed to the disk, and renamed when whole; or nothing at all.

Knows the store's files (see `corpora.store`) and what is left of a writer that died. Must not know formats of uploads.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

from corpora.disk import full_disk_refused, synced
from corpora.formats import Upload
from corpora.options import Options
from corpora.store import INDEX_TYPE, SIZE_TYPE
from corpora.store_lines import document_line, error_line
from corpora.summary import IngestSummary, write_summary
from corpusmill.documents import Document, IngestError
from corpusmill.errors import Conflict

#: How many errors, names of fields, and characters of these names are kept: a corpus may be made of nothing but them.
MAX_ERRORS = 1_000_000
MAX_FIELDS = 1_000
MAX_FIELD_CHARACTERS = 64 << 10
_PARTIAL = ".partial-"
_HELD_LINES = 4096
_HELD_BYTES = 1 << 20
_LARGEST_SIZE = int(np.iinfo(SIZE_TYPE).max)


class _Lines:
    """A file of lines and the index of where they begin; holds at most a block of either."""

    def __init__(self, directory: Path, name: str) -> None:
        self.file: IO[bytes] = (directory / f"{name}.jsonl").open("xb")
        self._index: IO[bytes] = (directory / f"{name}.index").open("xb")
        self._held: list[bytes] = []
        self._begins = [0]
        self._written = self._end = 0

    def add(self, line: str) -> None:
        raw = line.encode()
        self._held.append(raw)
        self._end += len(raw)
        self._begins.append(self._end)
        if len(self._held) >= _HELD_LINES or self._end - self._written >= _HELD_BYTES:
            self.flush()

    def flush(self) -> None:
        self.file.write(b"".join(self._held))
        self._index.write(np.asarray(self._begins, dtype=INDEX_TYPE).tobytes())
        self._held.clear()
        self._begins.clear()
        self._written = self._end

    def files(self) -> tuple[IO[bytes], IO[bytes]]:
        return self.file, self._index


class StoreWriter:
    """Writes the corpus that shall be at `target`; a context manager that leaves nothing unless `finish` was reached.

    Raises Conflict where there is something at `target` already, StorageFull where the disk is full, and FileNotFoundError
    where the directory is not there in which `target` shall be: a file system may not be mounted.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._refuse_existing()
        self._partial = target.with_name(f"{target.name}{_PARTIAL}{secrets.token_hex(8)}")
        with full_disk_refused():
            self._partial.mkdir()
        try:
            with full_disk_refused():
                self._documents = _Lines(self._partial, "documents")
                self._errors = _Lines(self._partial, "errors")
                self._sizes: IO[bytes] = (self._partial / "sizes.bin").open("xb")
        except BaseException:
            shutil.rmtree(self._partial)
            raise
        # Held while this process lives, so that `remove_partials` can tell a writer at work from one that died.
        fcntl.flock(self._documents.file, fcntl.LOCK_EX)
        self._held_sizes: list[int] = []
        self._fields: dict[str, None] = {}
        self._field_characters = 0
        self._more_fields = False
        self._open = True
        self.documents = self.invalid = self.text_bytes = self.references = self.text_pairs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def add(self, document: Document) -> None:
        """Append a document, whose position must be the next.

        Raises StorageFull, and ValueError for another position and for what JSON or UTF-8 cannot hold.
        """
        if document.position != self.documents:
            raise ValueError(f"position {document.position} where {self.documents} is next")
        with full_disk_refused():
            self._documents.add(document_line(document))
            size = _utf8_size(document.text)
            if document.text_pair is not None:
                size += _utf8_size(document.text_pair)
                self.text_pairs += 1
            self._held_sizes.append(min(size, _LARGEST_SIZE))
            if len(self._held_sizes) >= _HELD_LINES:
                self._flush_sizes()
        self.documents += 1
        self.text_bytes += size
        self.references += document.reference is not None
        if not self._more_fields and not document.fields.keys() <= self._fields.keys():
            self._see(document.fields)

    def add_error(self, error: IngestError) -> None:
        """Append an ingest error; beyond the first `MAX_ERRORS` they are only counted. Raises StorageFull."""
        if self.invalid < MAX_ERRORS:
            with full_disk_refused():
                self._errors.add(error_line(error))
        self.invalid += 1

    def finish(
        self, upload: Upload | None = None, *, size: int | None = None, options: Options | None = None
    ) -> IngestSummary:
        """Put the corpus at its place, whole and on the disk. Raises StorageFull, and Conflict where something is
        there.

        `upload`, `size` (bytes as received) and `options` say what it was made from, where it was made from a file.
        """
        summary = IngestSummary(
            documents=self.documents,
            invalid=self.invalid,
            errors_kept=min(self.invalid, MAX_ERRORS),
            text_bytes=self.text_bytes,
            references=self.references,
            text_pairs=self.text_pairs,
            fields=tuple(self._fields),
            more_fields=self._more_fields,
            bytes=size,
            format=upload.format if upload else None,
            encoding=upload.encoding if upload else None,
            options=options or Options(),
        )
        with full_disk_refused():
            self._documents.flush()
            self._errors.flush()
            self._flush_sizes()
            for file in self._files():
                file.flush()
                os.fsync(file.fileno())
            write_summary(summary, self._partial / "corpus.json")
            synced(self._partial / "corpus.json")
            synced(self._partial)
            self._refuse_existing()
            try:
                self._partial.rename(self.target)
            except OSError:
                self._refuse_existing()  # put there since we looked
                raise
            synced(self.target.parent)
        self._close()
        return summary

    def abort(self) -> None:
        """Remove what was written, unless it is finished; may be called again."""
        if self._open:
            self._close()
            shutil.rmtree(self._partial)

    def _close(self) -> None:
        self._open = False
        for file in self._files():
            # A full disk refuses what is still buffered; it is about to be removed.
            with suppress(OSError):
                file.close()

    def _files(self) -> tuple[IO[bytes], ...]:
        return (*self._documents.files(), *self._errors.files(), self._sizes)

    def _flush_sizes(self) -> None:
        self._sizes.write(np.asarray(self._held_sizes, dtype=SIZE_TYPE).tobytes())
        self._held_sizes.clear()

    def _see(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._fields:
                self._field_characters += len(name)
                if len(self._fields) >= MAX_FIELDS or self._field_characters > MAX_FIELD_CHARACTERS:
                    self._more_fields = True
                    return
                self._fields[name] = None

    def _refuse_existing(self) -> None:
        if self.target.exists():
            raise Conflict("A corpus of that id is already stored.")


def remove_store(path: Path) -> None:
    """Remove the corpus at `path`, which is gone for readers at once; nothing happens where there is none.

    What an interruption leaves is found by `remove_partials`.
    """
    aside = path.with_name(f"{path.name}{_PARTIAL}{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        shutil.rmtree(aside)


def remove_partials(parent: Path, older_than: float = 3600.0) -> int:
    """Remove what writers and removers that died left in `parent`, untouched for `older_than` seconds; how many."""
    removed = 0
    for partial in parent.glob(f"*{_PARTIAL}*"):
        # Another process may remove the same at the same time.
        with suppress(FileNotFoundError):
            newest = max(path.stat().st_mtime for path in (partial, *partial.iterdir()))
            if time.time() - newest >= older_than and not _at_work(partial):
                shutil.rmtree(partial)
                removed += 1
    return removed


def _at_work(partial: Path) -> bool:
    with suppress(FileNotFoundError), (partial / "documents.jsonl").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _utf8_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
