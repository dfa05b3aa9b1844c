"""Parquet: a row a document, read a few rows at a time, whatever a small file may expand to.

Knows how the values of a batch are made without taking too much memory. Must not know the store.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from corpora.jsonl import too_long
from corpora.options import Options
from corpora.parquet_file import open_parquet
from corpora.parquet_pages import check_footer, damaged
from corpora.parquet_values import in_utc, is_bytes, is_plain, is_text, jsonable, readable, sizes
from corpora.records import check_columns, document_of, fault, shown
from corpora.streams import Budget
from corpora.values import REPLACEMENT, Refused, clean_text
from corpusmill.documents import Document, IngestError
from corpusmill.errors import FieldFault, InvalidRequest

#: Bytes of values made at once, unless one row has more.
_AT_ONCE = 4 << 20
#: What a row counts for beside its values: rows of nothing are not free either.
_ROW = 64


@dataclass(frozen=True, slots=True)
class _Column:
    """A column: its name, the types its values are cast to one after the other, and whether its bytes are text."""

    name: str
    casts: tuple[Any, ...]
    is_text: bool

    def values(self, array: Any) -> list[Any]:
        """The values as JSON has them. Raises UnicodeDecodeError for text that is not UTF-8."""
        for kind in self.casts:
            array = array.cast(kind)
        values: list[Any] = array.to_pylist()
        if kinds.is_string(array.type):
            return [value.replace("\0", REPLACEMENT) if value and "\0" in value else value for value in values]
        if self.is_text and kinds.is_binary(array.type):
            return [value if value is None else clean_text(value.decode()) for value in values]
        return values if is_plain(array.type) else [jsonable(value) for value in values]


def read_parquet(file: IO[bytes], budget: Budget, options: Options, start: int = 0) -> Iterator[Document | IngestError]:
    """Documents and errors in the order of the rows; positions count from `start`, and `line` is the row, from 1.

    Values are counted against `budget` before they are made. Raises InvalidRequest where the file is damaged or its
    columns cannot be used, TooLarge where it expands beyond the limits or its pages do not fit memory, and
    OSError where the machine cannot read it.
    """
    size = file.seek(0, 2)
    check_footer(file, size)
    try:
        opened = open_parquet(file, size)
        columns = _columns(opened.schema, options)
        rows = (row for batch in opened.batches() for row in _rows(batch, columns, budget, options))
        position = start
        for line, row in enumerate(rows, 1):
            item = _document(row, position, line, options)
            if isinstance(item, Document):
                position += 1
            yield item
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # Arrow passes on what the disk says; of its own errors none has such a number but for an offset that points nowhere.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise damaged(f"{str(error)[:200] or type(error).__name__}") from error


def _document(row: dict[str, Any] | Refused, position: int, line: int, options: Options) -> Document | IngestError:
    if isinstance(row, Refused):
        if row.code == "too_long":
            return too_long(line, options.limits.max_document_bytes)
        return fault(line, row.code, str(row), row.column)
    return document_of(row, position, line, options)


def _columns(schema: Any, options: Options) -> list[_Column]:
    """Raises InvalidRequest for columns that cannot be used, or not for what they are to be."""
    names = [clean_text(name) for name in schema.names]
    check_columns(names, options)
    texts = {"text_field": options.text_field, "text_pair_field": options.text_pair_field}
    roles = {*texts.values(), options.id_field, options.reference_field}
    columns = []
    for name, kind in zip(names, schema.types, strict=True):
        try:
            casts = _casts(kind)
        except InvalidRequest as error:
            raise InvalidRequest(f"Column {shown(name)!r}: {error} Leave it out or convert it to text.") from error
        for option, wanted in texts.items():
            if name == wanted and not _holds_text(kind):
                message = f"The column {shown(name)!r} holds {kind}, not text; say with {option}= which to take."
                raise InvalidRequest(message, FieldFault(option, f"This column holds {kind}."))
        columns.append(_Column(name, casts, name in roles))
    return columns


def _casts(kind: Any) -> tuple[Any, ...]:
    """The last is always there, be it the same type, for it also takes text out of its dictionary."""
    last = readable(kind)
    first = in_utc(kind)
    return (last,) if first == kind else (first, last)


def _holds_text(kind: Any) -> bool:
    """Whether a column is text, or bytes to be taken as text: what else is cast to text does not become one."""
    held = kind.value_type if kinds.is_dictionary(kind) else kind
    return is_text(held) or is_bytes(held)


def _rows(batch: Any, columns: list[_Column], budget: Budget, options: Options) -> Iterator[dict[str, Any] | Refused]:
    """The rows of a batch, those beyond the document limit without their values ever being made."""
    limit = options.limits.max_document_bytes
    widths = np.sum([sizes(array) for array in batch.columns], axis=0)
    budget.spend(int(widths.sum()) + _ROW * len(batch))
    first = held = 0
    for index, width in enumerate(widths.tolist()):
        if index > first and (held + width > _AT_ONCE or width > limit):
            yield from _made(batch.slice(first, index - first), columns)
            first, held = index, 0
        if width > limit:
            yield Refused("too_long", "")
            first = index + 1
        else:
            held += width
    if first < len(batch):
        yield from _made(batch.slice(first), columns)


def _made(batch: Any, columns: list[_Column]) -> Iterator[dict[str, Any] | Refused]:
    """The rows of a slice; where one cannot be converted, each for itself."""
    names = [column.name for column in columns]
    column = columns[0]
    made = []
    try:
        for column, array in zip(columns, batch.columns, strict=True):
            made.append(column.values(array))
    except (UnicodeDecodeError, pa.ArrowException) as error:
        if len(batch) > 1:
            for index in range(len(batch)):
                yield from _made(batch.slice(index, 1), columns)
        elif isinstance(error, UnicodeDecodeError):
            yield Refused("bad_encoding", f"The value of {shown(column.name)!r} is not UTF-8.", column.name)
        else:
            yield Refused("wrong_type", f"The value of {shown(column.name)!r} cannot be converted.", column.name)
        return
    for values in zip(*made, strict=True):
        yield dict(zip(names, values, strict=True))
