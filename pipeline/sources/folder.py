"""Files below a configured folder as documents: new and changed ones, or all of them.

Knows names, patterns and what makes a file another one. Must not know formats: the readers of `corpora` do.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from corpora import Format, Limits, Options, Upload, read
from corpora.formats import of_name
from corpusmill.documents import Document
from corpusmill.errors import CorpusmillError, PlaceFault, PlaceUnavailable
from corpusmill.places import FolderPlace
from corpusmill.schedules import FolderSource
from corpusmill.settings import Settings
from pipeline.sources import SourceDocument
from pipeline.sources.patterns import compiled

log = structlog.get_logger(__name__)

#: A file that was written so short a time ago may be written again within one tick of its clock: it is looked at again.
_SETTLED_SECONDS = 2.0
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class File:
    """A file by its path below the folder, with `/`; its size in bytes and its time of change in nanoseconds."""

    name: str
    path: Path
    size: int
    changed: int

    @property
    def order(self) -> tuple[int, str]:
        """The latest first: of two documents with one id, that of the later file counts."""
        return (-self.changed, self.name)


class FolderReader:
    """A source of type `folder`.

    To append is to read the files that are new, and those that changed: of another size or time than when they were last
    read, and with other bytes. To mirror is to read all of them each time.
    """

    def __init__(self, definition: FolderSource, place: FolderPlace, settings: Settings) -> None:
        self._root = place.path
        self._matches = compiled(definition.pattern)
        limits = Limits(
            max_upload_bytes=settings.max_upload_bytes, max_document_bytes=settings.max_document_bytes,
            max_expansion=settings.max_expansion, parquet_seconds=settings.parquet_seconds,
        )  # fmt: skip
        self._options = Options(
            text_field=definition.text_field, text_pair_field=definition.text_pair_field, id_field=definition.id_field,
            reference_field=definition.reference_field or "reference", limits=limits,
        )  # fmt: skip
        self._no_references = definition.reference_field is None
        self._mirror = definition.sync == "mirror"
        self._damaged = False
        self.unusable = 0
        self._files: dict[str, list[Any]] = {}

    @property
    def complete(self) -> bool:
        """To mirror, unless a line could not be read: nobody knows which document it was."""
        return self._mirror and not self._damaged

    def read(self, since: Mapping[str, Any] | None) -> Iterator[SourceDocument]:
        """The documents of the files that are to be read.

        To mirror, a file that cannot be read as a whole raises PlaceFault: without it, its documents would look as if they
        had been deleted. To append, it is counted, logged, and tried again by the next run.
        """
        before: Mapping[str, Any] = (since or {}).get("files", {})
        self.unusable = 0
        self._damaged = False
        self._files = {}
        for file in sorted(self._listed(), key=lambda file: file.order):
            then = None if self._mirror else before.get(file.name)
            if then is not None and [file.size, file.changed] == then[:2]:
                self._files[file.name] = list(then)
                continue
            digest = None if self._mirror else _digest(file.path)
            if then is not None and digest == then[2]:
                self._files[file.name] = [file.size, file.changed, digest]
                continue
            yield from self._read(file, digest)

    def _read(self, file: File, digest: str | None) -> Iterator[SourceDocument]:
        try:
            yield from self._documents(file)
        except (CorpusmillError, OSError) as error:
            if self._mirror:
                raise PlaceFault(f"The file {file.name} cannot be read: {error}") from error
            log.warning("file not read", file=file.name, why=str(error))
            self.unusable += 1
            return
        if not self._mirror and _is_settled(file):
            self._files[file.name] = [file.size, file.changed, digest]

    def _documents(self, file: File) -> Iterator[SourceDocument]:
        kind, encoding = of_name(file.name)
        if kind is None:
            log.warning("file of no known format", file=file.name)
            self.unusable += 1
            return
        if kind is Format.TEXT:
            yield from self._whole(file, Upload(kind, encoding))
            return
        for item in read(file.path, Upload(kind, encoding), self._options):
            if isinstance(item, Document):
                # one without an id of its own has its position, which another file's has too
                own = item.id != str(item.position)
                fields, reference = {**item.fields, "file": file.name}, item.reference
                if self._no_references and reference is not None:
                    fields["reference"], reference = reference, None
                yield SourceDocument(
                    id=item.id if own else f"{file.name}#{item.position}", text=item.text, text_pair=item.text_pair,
                    reference=reference, fields=fields,
                )  # fmt: skip
            else:
                self._leave_out()

    def _whole(self, file: File, upload: Upload) -> Iterator[SourceDocument]:
        """A text file is one document, as it is in an archive; its id is its path."""
        lines = []
        for item in read(file.path, upload, self._options):
            if not isinstance(item, Document):
                self._leave_out()
                return
            lines.append(item.text)
        text = "\n".join(lines)
        if len(text.encode()) > self._options.limits.max_document_bytes:
            self._leave_out()
            return
        yield SourceDocument(id=file.name, text=text, fields={"file": file.name})

    def _leave_out(self) -> None:
        self.unusable += 1
        self._damaged = True

    def _listed(self) -> Iterator[File]:
        """The files that the pattern means, none of them outside the folder, hidden or half written."""
        root = self._root.resolve()
        if not root.is_dir():
            raise PlaceUnavailable("The configured folder is not there.")
        for folder, folders, names in os.walk(root, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(folder) / name
                below = path.relative_to(root).as_posix()
                if name.startswith(".") or not self._matches(below):
                    continue
                # a link may point to a file, as long as that is below the folder as well
                real = path.resolve()
                if not real.is_relative_to(root) or not real.is_file():
                    continue
                stat = real.stat()
                yield File(below, real, stat.st_size, stat.st_mtime_ns)

    def position(self) -> Mapping[str, Any]:
        """Of each file that was read, or is as it was: size, time of change and hash."""
        return {} if self._mirror else {"files": self._files}


def _is_settled(file: File) -> bool:
    """Whether the file is still the one that was read, and will have another time of change when it is written again."""
    try:
        stat = file.path.stat()
    except FileNotFoundError:
        return False
    same = (stat.st_size, stat.st_mtime_ns) == (file.size, file.changed)
    return same and time.time() - stat.st_mtime > _SETTLED_SECONDS


def _digest(path: Path) -> str | None:
    """The hash of a file's bytes; None where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()[:32]


def _raise(error: OSError) -> None:
    raise PlaceUnavailable(f"A folder cannot be listed: {error.strerror}.") from error
