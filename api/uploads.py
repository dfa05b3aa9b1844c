"""Takes a file of any size off the wire onto the disk, in pieces.

Knows bodies: plain, chunked, multipart. Must not know what is in the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flask import Request
from werkzeug.exceptions import BadRequest
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from corpora.disk import full_disk_refused, synced
from corpusmill.errors import InvalidRequest, TooLarge

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A file that is about to come: what is said of it, and its bytes in pieces, to be read once."""

    content_type: str
    filename: str | None
    encoding: str
    pieces: Iterator[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A file on disk: its size in bytes and its SHA-256, as it was received."""

    bytes: int
    sha256: str


def incoming(request: Request, *, most: int) -> Incoming:
    """The file in a request's body, or in the part `file` of a multipart body.

    Raises TooLarge where more than `most` bytes are announced, InvalidRequest where a multipart body has no such part.
    """
    if request.content_length is not None and request.content_length > most:
        raise TooLarge(f"The upload has {request.content_length} bytes; CORPUSMILL_MAX_UPLOAD_BYTES allows {most}.")
    request.max_content_length = most
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    content_type, filename = request.headers.get("Content-Type", ""), None
    media_type, options = parse_options_header(content_type)
    if media_type == "multipart/form-data":
        if not options.get("boundary"):
            raise InvalidRequest("The multipart body names no boundary in its Content-Type.")
        content_type, filename, pieces = _part(request, options["boundary"].encode())
    else:
        pieces = _plain(request)
    return Incoming(
        content_type=content_type, filename=filename, pieces=pieces, encoding="" if encoding == "identity" else encoding
    )


def receive(file: Incoming, path: Path, *, most: int) -> Received:
    """Write a file to `path`, which exists only once it is whole and on the disk, in a directory that is there.

    Raises TooLarge beyond `most` bytes, StorageFull.
    """
    partial = path.with_suffix(".part")
    digest, size = hashlib.sha256(), 0
    try:
        with full_disk_refused(), partial.open("wb") as stored:
            for piece in file.pieces:
                size += len(piece)
                if size > most:
                    raise TooLarge(f"The upload is longer than CORPUSMILL_MAX_UPLOAD_BYTES allows ({most}).")
                digest.update(piece)
                stored.write(piece)
            stored.flush()
            os.fsync(stored.fileno())
        partial.rename(path)
        synced(path.parent)
    finally:
        partial.unlink(missing_ok=True)
    return Received(bytes=size, sha256=digest.hexdigest())


def _plain(request: Request) -> Iterator[bytes]:
    while piece := request.stream.read(_PIECE):
        yield piece


def _part(request: Request, boundary: bytes) -> tuple[str, str | None, Iterator[bytes]]:
    """The part named `file` of a multipart body; other parts are passed over."""
    decoder = MultipartDecoder(boundary)
    events = _events(request, decoder)
    for event in events:
        if isinstance(event, (File, Field)) and event.name == "file":
            filename = event.filename if isinstance(event, File) else None
            content_type = event.headers.get("Content-Type", "")

            def pieces() -> Iterator[bytes]:
                for event in events:
                    if isinstance(event, Data):
                        yield event.data
                        if event.more_data:
                            continue
                    break
                for _ in events:  # the rest is read, so that the connection can be used again
                    pass

            return content_type, filename, pieces()
    raise InvalidRequest("The multipart body has no part named `file`.")


def _events(request: Request, decoder: MultipartDecoder) -> Iterator[File | Field | Data | Epilogue]:
    try:
        while True:
            event = decoder.next_event()
            if isinstance(event, NeedData):
                decoder.receive_data(request.stream.read(_PIECE) or None)
            elif isinstance(event, Epilogue):
                return
            elif isinstance(event, (File, Field, Data)):
                yield event
    except ValueError as error:
        raise BadRequest("The multipart body is not well-formed.") from error
