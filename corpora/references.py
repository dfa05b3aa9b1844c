"""References that were attached to a corpus after its upload: one version of them, on disk beside the documents.

A version is two files in the corpus's directory: `NAME.jsonl` (a reference a line, by position) and `NAME.index` (for each
its position and where its line begins, and one pair more for the end: uint64, little endian). They never change.
Knows these files. Must not know which version is in force (`db.references` does) or how one is made
(`corpora.reference_intake`).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from corpora import numbers
from corpora.disk import full_disk_refused
from corpusmill.documents import Document, Reference
from corpusmill.errors import CorpusDamaged, NotFound

#: How the names of versions begin, as ids do.
PREFIX = "references"
_NUMBER = np.dtype("<u8")
_END = (1 << 64) - 1
_AT_ONCE = 1_000
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class References:
    """One version of a corpus's references, read from any position. Raises NotFound where its files are not there, and
    CorpusDamaged where they hold what nobody wrote."""

    def __init__(self, directory: Path, name: str) -> None:
        self._lines, self._index = files_of(directory, name)
        try:
            pairs, rest = divmod(numbers.count(self._index, _NUMBER), 2)
            if rest or not pairs:
                raise _damaged()
            with self._index.open("rb") as index:
                end = int(_pairs(index, pairs - 1, pairs)[0, 1])
            size = self._lines.stat().st_size
        except FileNotFoundError as error:
            raise _gone() from error
        except ValueError as error:  # an index that is cut
            raise _damaged() from error
        if end != size:
            raise _damaged()
        self._count, self._end = pairs - 1, end

    def __len__(self) -> int:
        """How many documents have one."""
        return self._count

    def between(self, start: int, stop: int | None = None) -> Iterator[tuple[int, Reference]]:
        """(position, reference) of the documents from `start` to `stop` (excluded) that have one, by position."""
        try:
            opened = self._index.open("rb")
        except FileNotFoundError as error:
            raise _gone() from error
        with opened as index:

            def position(number: int) -> int:
                return int(_pairs(index, number, number + 1)[0, 0])

            first = bisect_left(range(len(self)), start, key=position)
            last = len(self) if stop is None else bisect_left(range(len(self)), stop, first, key=position)
            try:
                lines = self._lines.open("rb")
            except FileNotFoundError as error:
                raise _gone() from error
            with lines as file:
                for low in range(first, last, _AT_ONCE):
                    yield from self._some(file, _pairs(index, low, min(low + _AT_ONCE, last) + 1))

    def _some(self, file: IO[bytes], pairs: NDArray[np.uint64]) -> Iterator[tuple[int, Reference]]:
        """Those of all pairs but the last, with which they end."""
        begin, end = int(pairs[0, 1]), int(pairs[-1, 1])
        if not begin < end <= self._end:
            raise _damaged()
        file.seek(begin)
        lines = file.read(end - begin).split(b"\n")
        if len(lines) != len(pairs):
            raise _damaged()
        for position, line in zip(pairs[:-1, 0].tolist(), lines[:-1], strict=True):
            try:
                reference = json.loads(line)
            except ValueError as error:
                raise _damaged() from error
            yield position, reference

    def attached(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Documents, given by position, with these references in the place of those that they came with."""
        remaining = iter(documents)
        while block := list(islice(remaining, _AT_ONCE)):
            found = dict(self.between(block[0].position, block[-1].position + 1))
            for document in block:
                yield replace(document, reference=found.get(document.position))


def _pairs(index: IO[bytes], start: int, stop: int) -> NDArray[np.uint64]:
    """(position, where its line begins) of the references from `start` to `stop` (excluded)."""
    try:
        return numbers.block(index, _NUMBER, 2 * start, 2 * stop).reshape(-1, 2)
    except ValueError as error:
        raise _damaged() from error


def _damaged() -> CorpusDamaged:
    return CorpusDamaged("A file of these references is damaged; attach them again.")


def _gone() -> NotFound:
    return NotFound("The files of these references are not there; the corpus may have been deleted.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How many documents have a reference in a version that was written, and the SHA-256 of its lines and positions."""

    documents: int
    sha256: str


def write_references(found: Iterable[tuple[int, Reference]], directory: Path, name: str, *, scratch: Path) -> Written:
    """Write a version beside a corpus's documents, where its files appear whole.

    `found` are (position, reference) by position; `scratch` is a directory on the same disk. Raises StorageFull, and
    NotFound where the corpus has gone.
    """
    digest, count, end = hashlib.sha256(), 0, 0
    aside = files_of(scratch, name)
    try:
        with full_disk_refused(), aside[0].open("wb") as lines, aside[1].open("wb") as index:
            for position, reference in found:
                line = _ENCODER.encode(reference).encode() + b"\n"
                pair = np.array([position, end], dtype=_NUMBER).tobytes()
                digest.update(pair)
                digest.update(line)
                index.write(pair)
                lines.write(line)
                count, end = count + 1, end + len(line)
            index.write(np.array([_END, end], dtype=_NUMBER).tobytes())
            for file in (lines, index):
                file.flush()
                os.fsync(file.fileno())
        try:
            for source, target in zip(aside, files_of(directory, name), strict=True):
                source.rename(target)
        except FileNotFoundError as error:
            raise NotFound("The corpus was deleted meanwhile.") from error
    finally:
        for path in aside:
            path.unlink(missing_ok=True)
    return Written(documents=count, sha256=digest.hexdigest())


def remove_references(directory: Path, name: str) -> None:
    """Remove a version that nobody was told of."""
    for path in files_of(directory, name):
        path.unlink(missing_ok=True)


def remove_other_references(directory: Path, name: str, *, older: float) -> None:
    """Remove all versions but one whose files are older than so many seconds."""
    for path in directory.glob(f"{PREFIX}_*"):
        with suppress(FileNotFoundError):  # others remove it too
            if path.stem != name and time.time() - path.stat().st_mtime > older:
                path.unlink()


def files_of(directory: Path, name: str) -> tuple[Path, Path]:
    """The two files of a version: its lines and their index."""
    return directory / f"{name}.jsonl", directory / f"{name}.index"
