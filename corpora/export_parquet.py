"""Exports as Parquet: a schema fixed up front, a row group of a few thousand rows at a time.

Knows Arrow's writer. Must not know where rows come from nor where bytes go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpora.export_columns import Column, as_text
from corpusmill.documents import Document

_ROWS = 4096
#: A row group also ends when its texts reach this many characters.
_CHARACTERS = 16 << 20
_TYPES = {"text": pa.string(), "integer": pa.int64(), "float": pa.float64(), "boolean": pa.bool_()}


class ByteSink:
    """A file to write to whose bytes are taken away as they come."""

    closed = False

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._taken = 0

    def write(self, data: Any) -> int:
        self._held.append(bytes(data))
        return len(self._held[-1])

    def tell(self) -> int:
        return self._taken + sum(map(len, self._held))

    def flush(self) -> None:
        """Nothing is held back from `take`."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        data = b"".join(self._held)
        self._taken += len(data)
        self._held.clear()
        return data


def parquet_chunks(
    rows: Iterable[tuple[Document | None, Mapping[str, Any]]], table: Sequence[Column]
) -> Iterator[bytes]:
    """The bytes of a Parquet file with these columns, a row group at a time."""
    schema = pa.schema([(column.name, _TYPES[column.kind]) for column in table])
    sink = ByteSink()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for group in _groups(rows, table):
            writer.write_batch(pa.record_batch(group, schema=schema))
            if data := sink.take():
                yield data
    yield sink.take()


def _groups(rows: Iterable[tuple[Document | None, Mapping[str, Any]]], table: Sequence[Column]) -> Iterator[list[Any]]:
    """Arrays of values, one for each column."""
    values: list[list[Any]] = [[] for _ in table]
    count = characters = 0
    for document, result in rows:
        for column, held in zip(table, values, strict=True):
            value = column.value(document, result)
            if column.kind == "text":
                value = as_text(value)
                characters += len(value or "")
            held.append(value)
        count += 1
        if count >= _ROWS or characters >= _CHARACTERS:
            yield _arrays(values, table)
            values = [[] for _ in table]
            count = characters = 0
    if count:
        yield _arrays(values, table)


def _arrays(values: list[list[Any]], table: Sequence[Column]) -> list[Any]:
    return [pa.array(held, type=_TYPES[column.kind]) for held, column in zip(values, table, strict=True)]
