"""One file for each run below a configured folder: written aside, forced to the disk, renamed.

Knows paths and when a file is whole. Must not know what the columns mean (`rows`) nor how a format is laid out
(`corpora.label_files`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from corpora.label_files import encoded
from corpusmill.errors import PlaceFault, PlaceUnavailable
from corpusmill.places import FolderPlace
from corpusmill.schedules import FilesSink
from pipeline.places import aside, inside
from pipeline.sinks import Delivered
from pipeline.sinks.rows import COLUMNS, gone_row, row_of


class FileWriter:
    """A sink of type `files`. The file has the documents of its run, those that are gone with the status `gone`; delivered
    again it is the same file. A run without documents has one too: that nothing was new is also news."""

    def __init__(self, definition: FilesSink, place: FolderPlace, *, run: str, date: str) -> None:
        if not place.path.is_dir():
            raise PlaceUnavailable("The configured folder is not there.")
        named = definition.path.replace("{date}", date).replace("{run}", run)
        self._target = inside(place, named)
        self._format = definition.format
        self._run = run
        if self._target == place.path.resolve() or self._target.is_dir():
            raise PlaceFault(f"{named!r} is a folder: name a file below the configured folder.")

    def deliver(self, rows: Iterable[Delivered], gone: Iterable[str]) -> None:
        """Write the file whole, or leave what was there."""
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            part = aside(self._target)
            try:
                with part.open("wb") as file:
                    for block in encoded(self._format, COLUMNS_OF_FILES, self._rows(rows, gone)):
                        file.write(block)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(self._target)
            finally:
                with suppress(FileNotFoundError):
                    part.unlink()
            _force(self._target.parent)
        except PermissionError as error:
            raise PlaceFault(f"The file {self._target.name} may not be written here: {error.strerror}.") from error
        except OSError as error:
            raise PlaceUnavailable(f"The file {self._target.name} cannot be written: {error.strerror}.") from error

    def _rows(self, rows: Iterable[Delivered], gone: Iterable[str]) -> Iterator[dict[str, Any]]:
        for row in rows:
            yield row_of(row)
        for document_id in gone:
            yield gone_row(document_id, self._run)


COLUMNS_OF_FILES = tuple((column.name, column.kind) for column in COLUMNS)


def _force(folder: Path) -> None:
    """A name is on the disk once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
