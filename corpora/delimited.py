"""CSV (RFC 4180) and TSV: a header line, then a record a line, or over several where quoted cells hold line ends.

Knows quoting and what becomes of the lines after a quotation mark that is never closed. Must not know the store.
A malformed record costs its own line and no other, as far as that can be known: the lines that an unclosed quotation
mark swallowed are read again. In TSV, which many write without any quoting, a line that is not well quoted is taken
literally.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

from corpora.jsonl import bad_encoding, too_long
from corpora.lines import Line, Overlong, universal_lines
from corpora.options import Options
from corpora.records import check_columns, document_of, fault, shown
from corpora.streams import Reads
from corpora.values import REPLACEMENT
from corpusmill.documents import Document, IngestError
from corpusmill.errors import InvalidRequest

#: How many bytes of lines are read again, in all, after quotation marks that were never closed.
REREAD_BUDGET = 64 << 20


class _TooLong(Exception):
    """The record under way exceeds the limit; `open` says whether it goes on in the next line."""

    def __init__(self, open_: bool) -> None:
        super().__init__()
        self.open = open_


class _Unclosed(Exception):
    """A quoted cell would go on in the next line, where that is no longer allowed."""


class _Feed:
    """Gives csv.reader a physical line at a time, and keeps those of the record under way."""

    def __init__(self, source: Iterator[Line], limit: int) -> None:
        self._source = source
        self._limit = limit
        self._again: deque[Line] = deque()
        self._size = 0
        self.budget = REREAD_BUDGET
        self.several_lines = True
        self.number = 0
        self.begin()

    def begin(self) -> None:
        """A new record starts with the next line."""
        self.first = self.number + 1
        self.held: list[bytes] = []
        self._size = 0
        self.garbled = self.nul = self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.held and not self.several_lines:
            raise _Unclosed
        line = self._take()
        if type(line) is Overlong or self._size + len(line) > self._limit:  # type: ignore[arg-type]
            if self.held:
                self._again.appendleft(line)
                self.number -= 1
            raise _TooLong(bool(self.held) or bool(_quotes(line) % 2))
        return self._given(line)  # type: ignore[arg-type]

    def _given(self, line: bytes) -> str:
        self._size += len(line)
        self.held.append(line)
        if b"\0" in line:
            self.nul = True
        try:
            return line.decode()
        except UnicodeDecodeError:
            self.garbled = True
            return line.decode(errors="surrogateescape")

    def _take(self) -> Line:
        try:
            line = self._again.popleft() if self._again else next(self._source)
        except StopIteration:
            self.ended = True
            raise
        self.number += 1
        return line

    def skip(self, open_: bool) -> None:
        """Pass over the rest of a record, by the parity of its quotation marks."""
        while open_:
            try:
                open_ ^= bool(_quotes(self._take()) % 2)
            except StopIteration:
                return

    def rewind(self) -> str:
        """Have all lines of the record but the first read again; gives the first."""
        again = self.held[1:]
        self.budget -= sum(map(len, again))
        self._again.extendleft(reversed(again))
        self.number -= len(again)
        first = self.held[0]
        self.held, self._size, self.garbled = [], 0, False
        return self._given(first)


def _quotes(line: Line) -> int:
    return line.quotes if isinstance(line, Overlong) else line.count(b'"')


def read_delimited(source: Reads, delimiter: str, options: Options, start: int = 0) -> Iterator[Document | IngestError]:
    """Documents and errors in order; positions count from `start`, `line` is the physical line a record starts in.

    Cells are text and stay so; an empty id or reference is none. Raises InvalidRequest where the header cannot be used.
    """
    limit = options.limits.max_document_bytes
    # The csv module's own limit, 131,072 characters, is for the whole process; records are bounded here already.
    csv.field_size_limit(max(csv.field_size_limit(), limit))
    rows = _rows(_Feed(universal_lines(source, limit), limit), delimiter, limit)
    header = _header(next(rows, None), options)
    position = start
    for line, row in rows:
        item = row if isinstance(row, IngestError) else _document(header, row, position, line, options)
        if item is None:
            continue
        if type(item) is Document:
            position += 1
        yield item


def _header(row: tuple[int, list[str] | IngestError] | None, options: Options) -> list[str]:
    if row is None:
        raise InvalidRequest("The file is empty; its first line must name the columns.")
    line, cells = row
    if isinstance(cells, IngestError):
        raise InvalidRequest(f"The header in line {line} cannot be read: {cells.message}")
    check_columns(cells, options)
    return cells


def _document(
    header: list[str], cells: list[str], position: int, line: int, options: Options
) -> Document | IngestError | None:
    if len(cells) != len(header):
        if len(cells) == 1 and not cells[0].strip():
            return None
        return _miscounted(header, len(cells), line)
    record: dict[str, str | None] = dict(zip(header, cells, strict=True))
    if not record.get(options.id_field, ""):
        record.pop(options.id_field, None)
    if not record.get(options.reference_field, ""):
        record.pop(options.reference_field, None)
    return document_of(record, position, line, options)


def _miscounted(header: list[str], cells: int, line: int) -> IngestError:
    if cells < len(header):
        message = f"The row has {cells} cells and the header {len(header)}: {shown(header[cells])!r} is missing."
        return fault(line, "missing_field", message, header[cells])
    message = f"The row has {cells} cells and the header {len(header)}; quote cells that hold the delimiter."
    return fault(line, "wrong_type", message)


def _rows(feed: _Feed, delimiter: str, limit: int) -> Iterator[tuple[int, list[str] | IngestError]]:
    """Rows of cells with the line each starts in; blank lines are passed over."""
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.begin()
        try:
            row: list[str] | IngestError = next(reader)
        except StopIteration:
            return
        except _TooLong as overlong:
            row = _after_too_long(feed, overlong.open, delimiter, limit)
        except (csv.Error, _Unclosed):
            row = _after_misquoting(feed, delimiter)
        if isinstance(row, IngestError):
            yield feed.first, row
        elif feed.garbled:
            yield feed.first, _garbled(feed)
        elif row:
            yield feed.first, [cell.replace("\0", REPLACEMENT) for cell in row] if feed.nul else row


def _after_too_long(feed: _Feed, open_: bool, delimiter: str, limit: int) -> list[str] | IngestError:
    """What stands for a record beyond the limit; in TSV it may be that a line only begins with a quotation mark."""
    if delimiter == "\t":
        return _literal(feed) if feed.held else too_long(feed.first, limit)
    feed.skip(open_)
    return too_long(feed.first, limit)


def _after_misquoting(feed: _Feed, delimiter: str) -> list[str] | IngestError:
    """What stands for a record that is not well quoted: in TSV the cells of its first line, else an error for it."""
    if delimiter == "\t":
        return _literal(feed)
    unclosed = feed.ended or len(feed.held) > 1
    if feed.budget > 0:
        feed.rewind()
    if unclosed:
        message = "A quoted cell is not closed, or holds a quotation mark that is not doubled."
    else:
        message = "A quotation mark inside a quoted cell is not doubled."
    return fault(feed.first, "wrong_type", message)


def _literal(feed: _Feed) -> list[str]:
    """The cells of the first line of the record under way, quotation marks and all; the other lines are read again."""
    line = feed.rewind()
    if feed.budget <= 0:
        feed.several_lines = False
    return line.rstrip("\r\n").split("\t")


def _garbled(feed: _Feed) -> IngestError:
    for number, line in enumerate(feed.held, feed.first):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return bad_encoding(number, line, error)
    raise AssertionError("a record was garbled, but none of its lines")
