"""Rows of labels as a file: JSON lines, CSV or Parquet, in streams.

Knows how values of a few kinds stand in each format. Must not know where rows come from nor where bytes go.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from corpora.export import harmless
from corpusmill.times import rfc3339

Kind = Literal["text", "number", "json", "time"]
Columns = Sequence[tuple[str, Kind]]
Row = Mapping[str, Any]
_ROWS = 4_096


def encoded(format: Literal["jsonl", "csv", "parquet"], columns: Columns, rows: Iterable[Row]) -> Iterator[bytes]:
    """The bytes of a file of these rows. Times come in seconds since 1970 and stand as RFC 3339 (in Parquet as timestamps,
    UTC); JSON stands as text, in JSON lines as itself. In CSV a cell that a spreadsheet would take for a formula gets a
    leading `'`."""
    if format == "parquet":
        return _parquet(columns, rows)
    return _csv(columns, rows) if format == "csv" else _jsonl(columns, rows)


def _jsonl(columns: Columns, rows: Iterable[Row]) -> Iterator[bytes]:
    for some in _grouped(rows):
        lines = (
            json.dumps({name: rfc3339(row[name]) if kind == "time" else row[name] for name, kind in columns},
                       ensure_ascii=False, allow_nan=False) + "\n"
            for row in some
        )  # fmt: skip
        yield "".join(lines).encode("utf-8", "replace")


def _csv(columns: Columns, rows: Iterable[Row]) -> Iterator[bytes]:
    yield _lines([[name for name, _ in columns]])
    for some in _grouped(rows):
        yield _lines([[_cell(row[name], kind) for name, kind in columns] for row in some])


def _lines(cells: list[list[Any]]) -> bytes:
    held = io.StringIO()
    csv.writer(held).writerows(cells)
    return held.getvalue().encode("utf-8", "replace")


def _cell(value: Any, kind: Kind) -> Any:
    if value is None or kind == "number":
        return value
    return harmless(_text(value, kind))


def _text(value: Any, kind: Kind) -> str:
    if kind == "time":
        return str(rfc3339(value))
    return json.dumps(value, ensure_ascii=False, allow_nan=False) if kind == "json" else str(value)


def _parquet(columns: Columns, rows: Iterable[Row]) -> Iterator[bytes]:
    # imported where it is needed, as in the readers
    import pyarrow as pa
    import pyarrow.parquet as pq

    from corpora.export_parquet import ByteSink

    types = {
        "text": pa.string(), "json": pa.string(), "number": pa.float64(), "time": pa.timestamp("ms", tz="UTC"),
    }  # fmt: skip
    schema = pa.schema([(name, types[kind]) for name, kind in columns])
    sink = ByteSink()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for some in _grouped(rows):
            arrays = [
                pa.array([_parquet_value(row[name], kind) for row in some], type=types[kind]) for name, kind in columns
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            yield sink.take()
    yield sink.take()


def _parquet_value(value: Any, kind: Kind) -> Any:
    if value is None or kind == "number":
        return value
    return round(value * 1_000) if kind == "time" else _text(value, kind)


def _grouped(rows: Iterable[Row]) -> Iterator[list[Row]]:
    coming = iter(rows)
    while some := list(islice(coming, _ROWS)):
        yield some
