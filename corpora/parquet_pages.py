"""How much memory a Parquet file would take, read off its page headers before any page is decoded.

A Parquet file's footer is its writer's word; the headers of its pages are what Arrow allocates by. From them follows
how many rows can be decoded at once within `MEMORY`, and whether a file can be read within it at all.
Source: https://github.com/apache/parquet-format (PageHeader, FileMetaData in parquet.thrift).
Knows the file's layout. Must not know values or documents.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from corpora.thrift import Malformed, Thrift
from corpusmill.errors import InvalidRequest, TooLarge

#: Bytes that the pages under way may take at worst, over all columns, and what is decoded from them beyond `DECODED`.
MEMORY = 512 << 20
DECODED = 32 << 20
MAX_ROWS = 2048
MAX_FOOTER = 16 << 20
MAX_LEAVES = 1000
MAX_SCHEMA_DEPTH = 32
#: Arrow keeps two levels of 16 bits and an index of 32 for each value of a repeated column.
_LEVELS = 8
#: Encodings: DELTA_BYTE_ARRAY; PLAIN_DICTIONARY and RLE_DICTIONARY.
_DELTA_BYTE_ARRAY = 7
_INDEXED = {2, 8}
_DICTIONARY_PAGE = 2
_HEADER = 16 << 10
_MAX_HEADER = 1 << 20
_SMALLER = "Write it again with smaller row groups and pages (pyarrow: row_group_size=100_000)."


def damaged(detail: str) -> InvalidRequest:
    """The refusal of a file that is not, or no longer, Parquet."""
    return InvalidRequest(f"The Parquet file cannot be read: {detail}")


def check_footer(file: IO[bytes], size: int) -> None:
    """Refuse footers and schemas so large or deep that Arrow should not be asked to build them.

    Raises InvalidRequest where there is no footer, TooLarge where it is too large.
    """
    file.seek(max(0, size - 8))
    tail = file.read(8)
    if size < 12 or tail[4:] != b"PAR1":
        raise damaged("it does not end as one (or it is encrypted).")
    (length,) = struct.unpack("<I", tail[:4])
    if length > size - 8:
        raise damaged("its footer is cut short.")
    if length > MAX_FOOTER:
        raise TooLarge(f"The Parquet file's footer has {length} bytes; at most {MAX_FOOTER} are read. {_SMALLER}")
    file.seek(size - 8 - length)
    try:
        schema = Thrift(file.read(length)).struct(upto=2)[2]
        _check_schema([int(element.get(5) or 0) for element in schema])
    except (Malformed, KeyError, AttributeError, TypeError, ValueError) as error:
        raise damaged("its schema is malformed.") from error


def _check_schema(children: list[int]) -> None:
    """Depth and leaves of a schema whose elements, depth first, have so many children each."""
    open_: list[int] = []
    leaves = 0
    for count in children:
        while open_ and open_[-1] == 0:
            open_.pop()
        if open_:
            open_[-1] -= 1
        if count:
            open_.append(count)
        leaves += not count
        if len(open_) > MAX_SCHEMA_DEPTH or leaves > MAX_LEAVES:
            raise TooLarge(
                f"The Parquet file nests deeper than {MAX_SCHEMA_DEPTH} levels or has more than {MAX_LEAVES} columns."
            )


@dataclass(frozen=True, slots=True)
class Leaf:
    """A column as it is stored: the width of a value where that is fixed (else 0), whether a row may have several
    values, and whether Arrow is to keep it as a dictionary and indices."""

    width: int
    repeated: bool
    as_dictionary: bool


@dataclass(slots=True)
class Chunk:
    """What the page headers of a column chunk say; sizes in bytes, before or after unpacking, whichever is more.

    `density` is the most that a value takes on a page, `dictionary` and `entries` are the dictionary's size and
    length, and `longest` is the most that a value may take that is only referred to: by an index into the dictionary,
    or as the same as the one before. `indexed` says whether all data pages, `indexed_first` whether the first, hold
    indices; `repeating` whether there are pages of the other kind.
    """

    largest: int = 0
    total: int = 0
    values: int = 0
    density: float = 0.0
    dictionary: int = 0
    entries: int = 0
    longest: int = 0
    indexed: bool = True
    indexed_first: bool = False
    repeating: bool = False


def chunks_of(file: IO[bytes], size: int, metadata: Any) -> list[list[Chunk]]:
    """The column chunks of each row group. Raises InvalidRequest where they are not where the footer says."""
    left = size
    groups = []
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        columns = [group.column(leaf) for leaf in range(metadata.num_columns)]
        # Chunks that share bytes would have them read over and over.
        left -= sum(column.total_compressed_size for column in columns)
        if left < 0:
            raise damaged("its column chunks overlap.")
        groups.append([_chunk(_headers(file, size, column)) for column in columns])
    return groups


def rows_at_once(chunks: list[Chunk], leaves: Sequence[Leaf]) -> int:
    """How many rows of a row group can be decoded at once within `DECODED` bytes, from 1 to `MAX_ROWS`.

    Raises TooLarge where its pages do not fit `MEMORY`.
    """
    held = 0
    width = 1.0
    for chunk, leaf in zip(chunks, leaves, strict=True):
        value = max(leaf.width, 0 if leaf.as_dictionary else chunk.longest)
        # Rows at once touch whole pages, which `density` bounds, and a part of one at either end.
        held += 3 * chunk.largest + 2 * chunk.dictionary
        width += max(chunk.density, value)
        if leaf.repeated:
            # A single row may hold all values of a chunk.
            held += chunk.total + chunk.values * (_LEVELS + value)
        if leaf.as_dictionary and not chunk.indexed:
            # Arrow then collects the distinct values of the whole chunk.
            held += 2 * chunk.total
    if held > MEMORY:
        raise TooLarge(f"The pages of a row group of the Parquet file take more than {MEMORY} bytes. {_SMALLER}")
    return max(min(MAX_ROWS, int(DECODED / width)), 1)


def _chunk(headers: Iterator[dict[int, Any]]) -> Chunk:
    chunk = Chunk()
    pages = 0
    for header in headers:
        size = max(header[2], header[3])
        if header[1] == _DICTIONARY_PAGE:
            chunk.dictionary += size
            chunk.entries += _count(header.get(7), 1)
            continue
        data = header.get(5) or header.get(8)
        values = _count(data, 1)
        encoding = _count(data, 2 if 5 in header else 4)
        indexed = encoding in _INDEXED
        pages += 1
        chunk.indexed_first = indexed and values > 0 if pages == 1 else chunk.indexed_first
        chunk.indexed = chunk.indexed and indexed
        chunk.largest = max(chunk.largest, size)
        chunk.values += values
        chunk.total += size
        chunk.density = max(chunk.density, size / max(values, 1))
        if encoding == _DELTA_BYTE_ARRAY:
            chunk.repeating = True
            chunk.longest = max(chunk.longest, size)
    chunk.longest = max(chunk.longest, chunk.dictionary)
    return chunk


def _count(header: Any, field: int) -> int:
    value = header.get(field) if isinstance(header, dict) else None
    if not isinstance(value, int) or value < 0:
        raise damaged("a page's header is malformed.")
    return value


def _headers(file: IO[bytes], size: int, chunk: Any) -> Iterator[dict[int, Any]]:
    """The page headers of a column chunk, in the range from which Arrow reads it."""
    start = int(chunk.data_page_offset)
    if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < start:
        start = int(chunk.dictionary_page_offset)
    end = start + int(chunk.total_compressed_size)
    if start < 4 or end > size or end < start:
        raise damaged("its column chunks are not where the footer says.")
    while start < end:
        header, length = _header(file, start, end)
        if min(header[2], header[3]) < 0:
            raise damaged("a page's header is malformed.")
        yield header
        start += length + header[3]


def _header(file: IO[bytes], start: int, end: int) -> tuple[dict[int, Any], int]:
    """The page header at `start`, and its length; longer ones (with statistics) are read in a second attempt."""
    for most in (_HEADER, _MAX_HEADER):
        file.seek(start)
        reader = Thrift(file.read(min(most, end - start)))
        try:
            header = reader.struct()
        except Malformed:
            continue
        if not all(isinstance(header.get(field), int) for field in (1, 2, 3)):
            break
        return header, reader.position
    raise damaged("a page's header is malformed.")
