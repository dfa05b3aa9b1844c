"""A corpus on disk, read from any position without what precedes it.

A directory holds `documents.jsonl` and `errors.jsonl` (a line each), `documents.index` and `errors.index` (where lines
begin, and where the last ends: uint64, little endian), `sizes.bin` (bytes of text and text pair of each document:
uint32, little endian) and `corpus.json` (see `corpora.summary`). It never changes once it is there; references that are
attached later are further files beside these (`corpora.references`).
Knows files. Must not know formats of uploads, databases or jobs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from corpora import numbers
from corpora.store_lines import document_from, error_from
from corpora.summary import IngestSummary, read_summary
from corpusmill.documents import Document, IngestError
from corpusmill.errors import CorpusDamaged, NotFound

INDEX_TYPE = np.dtype("<u8")
SIZE_TYPE = np.dtype("<u4")
#: Bytes of lines read at once, unless one line has more.
_AT_ONCE = 1 << 20
_NUMBERS_AT_ONCE = 1 << 16


class Store:
    """The corpus in a directory. Cheap to make (nothing stays open), safe to share between threads and processes.

    Raises NotFound where there is none, CorpusDamaged where its files do not agree with each other or hold what nobody
    wrote. An OSError of any other kind is of the machine, which may well read them in a moment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.summary: IngestSummary = read_summary(path / "corpus.json")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _gone() from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged("corpus.json") from error
        self._index = _require(path / "documents.index", INDEX_TYPE, self.summary.documents + 1)
        self._sizes = _require(path / "sizes.bin", SIZE_TYPE, self.summary.documents)

    def __len__(self) -> int:
        return self.summary.documents

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the documents' other fields, in the order of first sight."""
        return self.summary.fields

    @property
    def total_text_bytes(self) -> int:
        """UTF-8 bytes of all texts and text pairs."""
        return self.summary.text_bytes

    def text_sizes(self) -> Iterator[int]:
        """UTF-8 bytes of text and text pair of each document, in order. Raises CorpusDamaged."""
        with _opened(self._sizes) as file:
            for start in range(0, len(self), _NUMBERS_AT_ONCE):
                stop = min(start + _NUMBERS_AT_ONCE, len(self))
                yield from _block(self._sizes, file, SIZE_TYPE, start, stop).tolist()

    def documents(self, start: int = 0, stop: int | None = None) -> Iterator[Document]:
        """The documents at positions `start` (included) to `stop` (excluded; None: the end), read as they are used. Raises
        CorpusDamaged."""
        stop = len(self) if stop is None else min(stop, len(self))
        lines = _lines(self.path / "documents.jsonl", self._index, max(start, 0), stop)
        for position, line in enumerate(lines, max(start, 0)):
            try:
                document = document_from(line, position)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise _damaged("documents.jsonl") from error
            yield document

    def document(self, position: int) -> Document:
        """The document at a position. Raises NotFound where there is none, and CorpusDamaged."""
        if not 0 <= position < len(self):
            raise NotFound(f"The corpus has {len(self)} documents; there is none at position {position}.")
        return next(self.documents(position, position + 1))

    def errors(self, start: int = 0, limit: int = 100) -> list[IngestError]:
        """Up to `limit` ingest errors in the order of the upload, from the one numbered `start` (from 0) on. Raises
        CorpusDamaged."""
        kept = self.summary.errors_kept
        index = _require(self.path / "errors.index", INDEX_TYPE, kept + 1)
        first = max(start, 0)
        lines = list(_lines(self.path / "errors.jsonl", index, first, min(first + limit, kept)))
        try:
            return [error_from(line) for line in lines]
        except (ValueError, TypeError) as error:
            raise _damaged("errors.jsonl") from error


def _lines(path: Path, index: Path, start: int, stop: int) -> Iterator[bytes]:
    """The lines from `start` to `stop`, read in blocks of about `_AT_ONCE` bytes; `index` says where they begin."""
    if start >= stop:
        return
    with _opened(index) as begins, _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        for first in range(start, stop, _NUMBERS_AT_ONCE):
            at = _block(index, begins, INDEX_TYPE, first, min(first + _NUMBERS_AT_ONCE, stop) + 1)
            yield from _between(path, file, size, at)


def _between(path: Path, file: IO[bytes], size: int, at: NDArray[np.uint64]) -> Iterator[bytes]:
    """The lines of a file of `size` bytes that begin at all of these places but the last, where they end."""
    if int(at[0]) > size:
        raise _damaged(path.name)
    file.seek(int(at[0]))
    start, stop = 0, len(at) - 1
    while start < stop:
        begin = int(at[start])
        fitting = int(np.searchsorted(at[start + 1 :], np.uint64(begin + _AT_ONCE), side="right"))
        end = start + max(fitting, 1)
        if not begin < int(at[end]) <= size:  # a file that is cut, or an index that points anywhere
            raise _damaged(path.name)
        lines = file.read(int(at[end]) - begin).split(b"\n")
        if len(lines) != end - start + 1 or lines[-1]:
            raise _damaged(path.name)
        yield from lines[:-1]
        start = end


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise _missing(path) from error


def _block(path: Path, file: IO[bytes], kind: np.dtype[Any], start: int, stop: int) -> NDArray[Any]:
    try:
        return numbers.block(file, kind, start, stop)
    except ValueError as error:
        raise _damaged(path.name) from error


def _require(path: Path, kind: np.dtype[Any], count: int) -> Path:
    """A file that must hold so many numbers."""
    try:
        if numbers.count(path, kind) == count:
            return path
    except FileNotFoundError as error:
        raise _missing(path) from error
    except ValueError as error:
        raise _damaged(path.name) from error
    raise _damaged(path.name)


def _missing(path: Path) -> CorpusDamaged | NotFound:
    """A corpus is removed as a whole: what is missing alone is damage."""
    return _damaged(path.name) if path.with_name("corpus.json").exists() else _gone()


def _gone() -> NotFound:
    return NotFound("The corpus's files are not there; it may have been deleted.")


def _damaged(name: str) -> CorpusDamaged:
    return CorpusDamaged(f"The corpus's file {name} is damaged or missing; upload the corpus again.")
