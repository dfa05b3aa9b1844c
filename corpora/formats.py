"""Which format and encoding an upload has, from what its sender says of it.

Knows media types and file endings. Must not read the upload itself: nothing is guessed from bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from corpusmill.errors import UnsupportedFormat


class Format(StrEnum):
    """How documents are laid out in a file."""

    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"
    TEXT = "text"
    ZIP = "zip"


class Encoding(StrEnum):
    """How a file is compressed as a whole."""

    GZIP = "gzip"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True)
class Upload:
    """The format of an upload and, where it is compressed as a whole, how."""

    format: Format
    encoding: Encoding | None = None


MEDIA_TYPES = {
    "application/x-ndjson": Format.JSONL,
    "application/ndjson": Format.JSONL,
    "application/jsonl": Format.JSONL,
    "application/x-jsonlines": Format.JSONL,
    "application/json-lines": Format.JSONL,
    "text/csv": Format.CSV,
    "application/csv": Format.CSV,
    "text/tab-separated-values": Format.TSV,
    "application/vnd.apache.parquet": Format.PARQUET,
    "application/x-parquet": Format.PARQUET,
    "text/plain": Format.TEXT,
    "application/zip": Format.ZIP,
    "application/x-zip-compressed": Format.ZIP,
}
ENDINGS = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".jsonlines": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".tab": Format.TSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".txt": Format.TEXT,
    ".text": Format.TEXT,
    ".zip": Format.ZIP,
}
ENCODINGS = {"gzip": Encoding.GZIP, "x-gzip": Encoding.GZIP, "zstd": Encoding.ZSTD}
ENCODING_ENDINGS = {".gz": Encoding.GZIP, ".gzip": Encoding.GZIP, ".zst": Encoding.ZSTD, ".zstd": Encoding.ZSTD}
#: Media types that name a compression and leave the format to the file's name.
_WRAPPERS = {
    "application/gzip": Encoding.GZIP,
    "application/x-gzip": Encoding.GZIP,
    "application/zstd": Encoding.ZSTD,
    "application/x-zstd": Encoding.ZSTD,
}
#: Media types that senders put on files they do not know: curl's and the browsers' defaults, and Windows' name for CSV.
#: A file name that says more is believed instead.
_VAGUE = {
    "",
    "application/octet-stream",
    "binary/octet-stream",
    "application/x-www-form-urlencoded",
    "application/vnd.ms-excel",
    "text/plain",
}
_CHARSETS = {"utf-8", "utf8", "utf-8-sig", "us-ascii", "ascii"}


def upload_of(content_type: str | None, content_encoding: str | None = None, filename: str | None = None) -> Upload:
    """The format and encoding of an upload, from its Content-Type, Content-Encoding and file name, each where given.

    A media type that says something wins over the file name; a Content-Encoding wins over a `.gz` or `.zst` ending.
    Raises UnsupportedFormat, naming what would be accepted, where these say nothing or something unknown.
    """
    media_type, charset = _parsed(content_type or "")
    if charset and charset not in _CHARSETS:
        raise UnsupportedFormat(f"Text must be UTF-8, not {charset[:40]!r}; convert the file and send it again.")
    named, named_encoding = of_name(filename or "")
    encoding = _encoding(content_encoding or "") or _WRAPPERS.get(media_type) or named_encoding
    if named and (media_type in _VAGUE or media_type in _WRAPPERS):
        return Upload(named, encoding)
    known = MEDIA_TYPES.get(media_type)
    if known is None:
        raise UnsupportedFormat(_unknown(media_type, filename))
    return Upload(known, encoding)


def of_name(filename: str) -> tuple[Format | None, Encoding | None]:
    """The format and encoding that a file name's ending stands for; the name is never used as a path."""
    endings = [ending.lower() for ending in PurePosixPath(filename.replace("\\", "/")).suffixes[-2:]]
    encoding = ENCODING_ENDINGS.get(endings[-1]) if endings else None
    if encoding:
        endings.pop()
    return (ENDINGS.get(endings[-1]) if endings else None), encoding


def _parsed(content_type: str) -> tuple[str, str]:
    """The media type and the charset of a Content-Type, in lower case."""
    media_type, *parameters = content_type.split(";")
    charset = ""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"').lower()
    return media_type.strip().lower(), charset


def _encoding(content_encoding: str) -> Encoding | None:
    name = content_encoding.strip().lower()
    if name in {"", "identity"}:
        return None
    if name not in ENCODINGS:
        raise UnsupportedFormat(f"Content-Encoding must be gzip or zstd, not {name[:40]!r}.")
    return ENCODINGS[name]


def _unknown(media_type: str, filename: str | None) -> str:
    said = f"Content-Type {media_type[:80]!r}" if media_type else "No Content-Type"
    if filename:
        said += f" and file name {filename[:80]!r}"
    return (
        f"{said} {'do' if filename else 'does'} not name a format that can be read. Send one of "
        "application/x-ndjson (JSON lines), text/csv, text/tab-separated-values, application/vnd.apache.parquet, "
        "text/plain (a document a line) or application/zip, or a file whose name ends "
        f"in {' '.join(ENDINGS)} (with .gz or .zst added where it is compressed)."
    )
