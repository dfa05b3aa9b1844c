"""ZIP archives: which members there are, and their bytes.

Knows what makes an archive unsafe to open. Must not know what members hold, nor write anything under a member's name:
names are data.
"""

from __future__ import annotations

import errno
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from corpora.formats import Format, of_name
from corpora.records import shown
from corpora.streams import Reads
from corpusmill.errors import InvalidRequest, TooLarge, UnsupportedFormat

MAX_MEMBERS = 100_000
#: The largest directory that is read; `zipfile` reads it at once and keeps an object for each entry.
MAX_DIRECTORY = 16 << 20
_ENCRYPTED = 1


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive: its name there, which is data and no path, its format and its bytes."""

    name: str
    format: Format
    source: Reads


class _Bounded:
    """A file of which no more than `MAX_DIRECTORY` bytes are read at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell
        self.seekable = file.seekable

    def read(self, size: int = -1, /) -> bytes:
        data = b"" if size > MAX_DIRECTORY else self._file.read(size if size >= 0 else MAX_DIRECTORY + 1)
        if max(size, len(data)) > MAX_DIRECTORY:
            raise TooLarge(f"The ZIP archive's directory has more than {MAX_DIRECTORY} bytes. {_FEWER}")
        return data


_FEWER = "Put the documents into fewer files, as JSON lines or CSV."


class _Unpacked:
    """A member's bytes; reading raises InvalidRequest where they are damaged."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name

    def read(self, size: int, /) -> bytes:
        try:
            return self._file.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise InvalidRequest(f"The member {self._name!r} of the ZIP archive is damaged: {error}") from error


def members(file: IO[bytes]) -> Iterator[Member]:
    """The files of an archive in the order of their names, each to be read before the next is asked for.

    Directories and what macOS adds (`__MACOSX/`, `.DS_Store`) are passed over. Raises InvalidRequest for a damaged or
    encrypted archive, UnsupportedFormat for members of no known format, archives and packed files among them, TooLarge for
    too many members, and OSError where the machine cannot read them.
    """
    with _damage_refused():
        archive = zipfile.ZipFile(_Bounded(file))
    with archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir() and not _is_clutter(entry.filename)]
        if len(entries) > MAX_MEMBERS:
            raise TooLarge(f"The ZIP archive has {len(entries)} members; at most {MAX_MEMBERS} are read. {_FEWER}")
        formats = [_format(entry) for entry in entries]
        for entry, kind in sorted(zip(entries, formats, strict=True), key=lambda pair: pair[0].filename):
            name = shown(entry.filename)
            with _damage_refused(), archive.open(entry) as opened:
                source = _Unpacked(opened, name)
                yield Member(entry.filename, kind, source)


def _format(entry: zipfile.ZipInfo) -> Format:
    name = shown(entry.filename)
    if entry.flag_bits & _ENCRYPTED:
        raise InvalidRequest(f"The member {name!r} of the ZIP archive is encrypted; send it without a password.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsupportedFormat(f"The member {name!r} of the ZIP archive is packed by another method than deflate.")
    kind, encoding = of_name(entry.filename)
    if kind is Format.ZIP or encoding:
        raise UnsupportedFormat(f"The member {name!r} of the ZIP archive is packed itself; put it in unpacked.")
    if kind is None:
        raise UnsupportedFormat(
            f"The member {name!r} of the ZIP archive has no known format; its members must end in "
            ".jsonl .ndjson .csv .tsv .parquet or .txt."
        )
    return kind


def _is_clutter(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rsplit("/", 1)[-1] == ".DS_Store"


@contextmanager
def _damage_refused() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OSError) as error:
        # `zipfile` calls a disk that fails a file that is no archive; an offset that points nowhere is EINVAL, and damage.
        for cause in (error, error.__context__):
            if isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL):
                raise cause from None
        raise InvalidRequest(f"The ZIP archive cannot be opened: {error}") from error
