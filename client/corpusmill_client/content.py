"""What an upload sends: formats, files, streams and documents made into JSON Lines, read in blocks.

Knows media types and bytes. Must not know HTTP libraries, jobs or addresses. Memory is one block, whatever the source.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import IO, Any

from corpusmill_client.errors import CorpusmillError

Document = str | Mapping[str, Any]
#: Called with the bytes sent and the bytes in all (None where that is not known).
UploadProgress = Callable[[int, int | None], object]

BLOCK = 1 << 18
MEDIA = {
    "jsonl": "application/x-ndjson",
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "parquet": "application/vnd.apache.parquet",
    "txt": "text/plain",
    "zip": "application/zip",
}
ENCODINGS = {"gz": "gzip", "zst": "zstd"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Something to upload. `blocks` starts reading it; `again` says that it may be started more than once.

    `media` is its Content-Type, `encoding` its Content-Encoding, `size` its length in bytes where it is known.
    """

    media: str
    encoding: str | None = None
    name: str | None = None
    size: int | None = None
    again: bool = False
    blocks: Callable[[], Iterator[bytes]]

    @property
    def headers(self) -> dict[str, str]:
        headers = {"Content-Type": self.media}
        if self.encoding:
            headers["Content-Encoding"] = self.encoding
        if self.size is not None:
            headers["Content-Length"] = str(self.size)
        return headers


class UploadBody:
    """One sending of a Content; see `transport.Body`."""

    def __init__(self, content: Content, progress: UploadProgress | None) -> None:
        self.spent = False
        self._content = content
        self._progress = progress

    def __iter__(self) -> Iterator[bytes]:
        sent, size = 0, self._content.size
        for block in self._content.blocks():
            sent += len(block)
            # Set before the last block is handed on: from then on the server may have all of it.
            self.spent = not self._content.again or (size is not None and sent >= size)
            yield block
            if self._progress:
                self._progress(sent, size)
        self.spent = True


def format_of(name: str) -> tuple[str, str | None]:
    """The media type and the encoding that a file name (`reviews.csv.gz`) or a format's name (`jsonl`) stands for.

    Raises ValueError naming the known ones.
    """
    parts = Path(name).name.lower().split(".")
    encoding = ENCODINGS.get(parts[-1])
    extension = parts[-2] if encoding and len(parts) > 1 else parts[-1]
    if extension not in MEDIA:
        known = ", ".join(f".{each}" for each in MEDIA)
        hint = "Say it with format=… (--format)."
        if extension == "json":
            hint = "Where each line holds an object, it is JSON Lines: say so with format='jsonl' (--format jsonl)."
        raise ValueError(
            f"The format of {name!r} is not known from its name. Known: {known}, each also with .gz or .zst. {hint}"
        )
    return MEDIA[extension], encoding


def file_content(path: Path, format: str | None = None) -> Content:
    """A file's content. Raises OSError where it cannot be read and ValueError where its format is not known."""
    media, encoding = format_of(format or path.name)
    if not path.exists():
        hint = "No such file (a corpus id starts with corpus_; texts themselves go into a list)"
        raise FileNotFoundError(errno.ENOENT, hint, str(path))
    # A pipe or device has no size, and can be opened only once.
    plain = path.is_file()
    if plain or path.is_dir():
        path.open("rb").close()  # what cannot be read is refused before anything is sent
    size = path.stat().st_size
    return Content(
        media=media,
        encoding=encoding,
        name=path.name,
        size=size if plain else None,
        again=plain,
        blocks=lambda: _file_blocks(path, size if plain else None),
    )


def _file_blocks(path: Path, size: int | None) -> Iterator[bytes]:
    left = size
    with path.open("rb") as file:
        while left is None or left > 0:
            block = file.read(BLOCK if left is None else min(BLOCK, left))
            if not block and left is None:
                return
            if not block:
                raise CorpusmillError(f"{path} became shorter while it was being uploaded.", code="source_changed")
            left = left - len(block) if left is not None else None
            yield block


def stream_content(file: IO[Any], format: str | None = None) -> Content:
    """The content of an open file, from where it stands; it can be sent only once."""
    name = getattr(file, "name", None)
    name = Path(name).name if isinstance(name, str) else None
    media, encoding = format_of(format or name or "<a stream without a name>")
    return Content(media=media, encoding=encoding, name=name, blocks=lambda: _stream_blocks(file))


def _stream_blocks(file: IO[Any]) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block.encode() if isinstance(block, str) else block


def iterable_content(items: Iterable[Any], format: str | None = None, text_field: str | None = None) -> Content:
    """The content of an iterable: documents (texts or mappings) become JSON Lines; blocks of bytes need a `format`."""
    refuse_frame(items)
    again = isinstance(items, list | tuple)
    iterator = iter(items)
    first = list(islice(iterator, 1))
    rest = items if again else chain(first, iterator)
    if first and isinstance(first[0], bytes | bytearray | memoryview):
        media, encoding = format_of(format or "<blocks of bytes>")
        return Content(media=media, encoding=encoding, again=again, blocks=lambda: (bytes(block) for block in rest))
    return Content(media=MEDIA["jsonl"], again=again, blocks=lambda: json_lines(rest, text_field or "text"))


def json_lines(documents: Iterable[Document], text_field: str = "text") -> Iterator[bytes]:
    """JSON Lines in blocks; a text alone becomes a document with the one field `text_field`.

    Raises TypeError or ValueError naming the first document that JSON cannot hold.
    """
    block = bytearray()
    for position, document in enumerate(documents):
        block += _line({text_field: document} if isinstance(document, str) else document, position)
        if len(block) >= BLOCK:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def _line(document: Mapping[str, Any], position: int) -> bytes:
    if not isinstance(document, Mapping):
        raise TypeError(f"Document {position} is a {type(document).__name__}: a text (str) or a mapping is needed.")
    try:
        text = json.dumps(dict(document), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise type(error)(f"Document {position} cannot be written as JSON: {error}") from error
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair: JSON's escape can say it, UTF-8 cannot
        return json.dumps(dict(document), allow_nan=False).encode() + b"\n"


def refuse_frame(items: Any) -> None:
    """Raises TypeError for a data frame, whose iteration would give the names of its columns."""
    if hasattr(items, "columns"):
        raise TypeError(
            "A data frame is no list of documents: give frame.to_dict('records') (polars: frame.to_dicts())."
        )


def content_of(source: Any, format: str | None = None, text_field: str | None = None) -> Content:
    """The content of a path, an open file, or an iterable. Raises TypeError, ValueError or OSError, saying why."""
    if isinstance(source, str | PathLike):
        return file_content(Path(source), format)
    if hasattr(source, "read"):
        return stream_content(source, format)
    if isinstance(source, Mapping | bytes) or not isinstance(source, Iterable):
        raise TypeError(
            f"A {type(source).__name__} is no source: give a path, an open file, or an iterable of documents."
        )
    return iterable_content(source, format, text_field)
