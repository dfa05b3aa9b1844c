"""An upload in any format and encoding, read as documents and errors.

Knows which reader a format has. Must not know where documents go.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, BinaryIO

from corpora.archive import Member, members
from corpora.delimited import read_delimited
from corpora.formats import Format, Upload
from corpora.jsonl import read_jsonl
from corpora.options import Options
from corpora.parquet_child import read_parquet_apart
from corpora.plain import read_text, read_whole
from corpora.records import shown
from corpora.streams import Budget, Counted, Metered, Reads, decoded, spooled
from corpusmill.documents import Document, IngestError
from corpusmill.errors import InvalidRequest

Item = Document | IngestError


def read(raw: Path | BinaryIO, upload: Upload, options: Options, scratch: Path | None = None) -> Iterator[Item]:
    """Documents and errors of an upload, in order, in bounded memory; positions count the documents from 0.

    `raw` is a path, or a binary stream at its start, which stays open. Parquet and ZIP that are compressed as a whole,
    or come from a stream that cannot seek (Parquet: that is no file), pass through a temporary file in `scratch`.
    Raises TooLarge, InvalidRequest and UnsupportedFormat where the upload cannot be used as a whole, StorageFull where
    there is no room for the temporary file; all of them while it is read.
    """
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(raw.open("rb")) if isinstance(raw, Path) else raw
        if upload.format not in (Format.PARQUET, Format.ZIP):
            counted = Counted(file)
            budget = Budget(options.limits, lambda: counted.given)
            source = Metered(decoded(counted, upload.encoding), budget)
            yield from _streamed(source, upload.format, options, 0)
            return
        if upload.encoding is None and (file.seekable() if upload.format is Format.ZIP else _is_a_file(file)):
            size = file.seek(0, 2)
            budget = Budget(options.limits, lambda: size)
            file.seek(0)
        else:
            counted = Counted(file)
            budget = Budget(options.limits, lambda: counted.given)
            source = Metered(decoded(counted, upload.encoding), budget)
            file = stack.enter_context(spooled(source, scratch))
        if upload.format is Format.PARQUET:
            yield from read_parquet_apart(file, budget, options, 0)
        else:
            yield from _archived(file, budget, options, scratch)


def _streamed(source: Reads, format_: Format, options: Options, start: int) -> Iterator[Item]:
    if format_ is Format.JSONL:
        return read_jsonl(source, options, start)
    if format_ is Format.TEXT:
        return read_text(source, options, start)
    return read_delimited(source, "," if format_ is Format.CSV else "\t", options, start)


def _is_a_file(stream: IO[bytes]) -> bool:
    """Whether a stream is a file of the operating system, which can seek and be handed to a child."""
    return isinstance(stream, io.BufferedReader | io.FileIO) and stream.seekable()


def _archived(file: IO[bytes], budget: Budget, options: Options, scratch: Path | None) -> Iterator[Item]:
    position = 0
    for member in members(file):
        with ExitStack() as stack:
            try:
                for item in _member(member, stack, budget, options, position, scratch):
                    if isinstance(item, Document):
                        position += 1
                        yield item
                    else:
                        yield replace(item, message=f"In {shown(member.name)}: {item.message}")
            except InvalidRequest as error:
                raise InvalidRequest(f"In {shown(member.name)}: {error}", *error.faults) from error


def _member(  # noqa: PLR0917
    member: Member, stack: ExitStack, budget: Budget, options: Options, start: int, scratch: Path | None
) -> Iterator[Item]:
    source = Metered(member.source, budget)
    if member.format is Format.TEXT:
        return iter([read_whole(source, member.name, options, start)])
    if member.format is Format.PARQUET:
        return read_parquet_apart(stack.enter_context(spooled(source, scratch)), budget, options, start)
    return _streamed(source, member.format, options, start)
