"""Exports: documents and their results in, bytes out, as they come.

Knows the three formats. Must not know where rows come from nor where bytes go.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from corpora.export_columns import Column, as_text, columns, json_record
from corpusmill.documents import Document
from corpusmill.tasks import Task

#: A document, where it is still known, and its result as the HTTP contract shows it.
Row = tuple[Document | None, Mapping[str, Any]]


class ExportFormat(StrEnum):
    """How an export is laid out."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


MEDIA_TYPES = {
    ExportFormat.JSONL: "application/x-ndjson",
    ExportFormat.CSV: "text/csv; charset=utf-8",
    ExportFormat.PARQUET: "application/vnd.apache.parquet",
}
_CHUNK = 64 << 10
#: A spreadsheet runs a cell that begins with one of these (full-width forms too), also after white space and, where it
#: takes line ends for the ends of cells, at the beginning of a line; the first three even where nothing follows.
_FORMULA = re.compile("^[\t\r\n]|(?:^|[\r\n])[^\\S\r\n]*[=+\\-@\uff1d\uff0b\uff0d\uff20]")
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def write(
    rows: Iterable[Row],
    format_: ExportFormat | str,
    *,
    task: Task,
    fields: Sequence[str] = (),
    text_pair: bool = False,
    other_fields: bool = False,
    raw: bool = False,
) -> Iterator[bytes]:
    """The bytes of an export, in chunks of some 64 KiB (Parquet: a row group); memory does not grow with the rows.

    `fields` are the names of the documents' other fields and `text_pair`, `other_fields` say whether there are text
    pairs and fields of further names: CSV and Parquet have their columns by them (`corpora.export_columns`), JSON
    lines need none. In CSV a cell that a spreadsheet would take for a formula gets a leading `'`, unless `raw`.
    Raises ValueError for an unknown format.
    """
    format_ = ExportFormat(format_)
    if format_ is ExportFormat.JSONL:
        return _chunked(_JSON.encode(json_record(document, result)) + "\n" for document, result in rows)
    table = columns(task, fields, text_pair=text_pair, other_fields=other_fields)
    if format_ is ExportFormat.CSV:
        return _chunked(_csv(rows, table, raw=raw))
    # Imported where it is needed, as in the readers.
    from corpora.export_parquet import parquet_chunks

    return parquet_chunks(rows, table)


def _chunked(texts: Iterator[str]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for text in texts:
        held.append(text.encode())
        size += len(held[-1])
        if size >= _CHUNK:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _csv(rows: Iterable[Row], table: Sequence[Column], *, raw: bool) -> Iterator[str]:
    """Lines of CSV as RFC 4180 has it, each record for itself."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    header: list[list[Any]] = [[column.name if raw else harmless(column.name) for column in table]]
    for cells in itertools.chain(header, (_cells(row, table, raw=raw) for row in rows)):
        writer.writerow(cells)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _cells(row: Row, table: Sequence[Column], *, raw: bool) -> list[Any]:
    cells = []
    for column in table:
        value = column.value(*row)
        if isinstance(value, bool) or not isinstance(value, int | float):
            # What is a number, also in the documents' own fields, is no formula.
            value = as_text(value)
            if value and not raw:
                value = harmless(value)
        cells.append(value)
    return cells


def harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: with a leading `'` where it would."""
    return "'" + cell if _FORMULA.search(cell) else cell
