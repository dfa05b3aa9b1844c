"""A Parquet file opened so that Arrow never decodes more of it at once than fits memory.

Knows when Arrow materialises values and when it keeps indices into a dictionary. Must not know documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as kinds

from corpora.parquet_pages import DECODED, MAX_ROWS, Chunk, Leaf, chunks_of, damaged, rows_at_once

#: Bytes of a column chunk read ahead; without it Arrow reads whole chunks.
_BUFFER = 64 << 10


@dataclass(frozen=True, slots=True)
class OpenedParquet:
    """An opened file, what its page headers say of each row group, and its columns as they are stored."""

    parquet: Any
    chunks: list[list[Chunk]]
    leaves: list[Leaf]

    @property
    def schema(self) -> Any:
        """The schema of the batches."""
        return self.parquet.schema_arrow

    def batches(self) -> Iterator[Any]:
        """Record batches of as many rows as fit memory, row group by row group.

        Raises TooLarge where a row group's pages do not fit; ArrowException and OSError where the file is damaged.
        """
        for group, chunks in enumerate(self.chunks):
            rows = rows_at_once(chunks, self.leaves)
            yield from self.parquet.iter_batches(batch_size=rows, row_groups=[group], use_threads=False)


def open_parquet(file: IO[bytes], size: int) -> OpenedParquet:
    """Open a file of `size` bytes whose footer has been checked.

    Texts in lists are kept as indices into dictionaries, for a single row may refer to a text any number of times.
    Others are not: where a dictionary grew too large and plain pages follow it, Arrow would collect the distinct
    values of the whole row group to make one. Raises InvalidRequest, ArrowException and OSError where the file is
    damaged.
    """
    metadata = pq.read_metadata(file)
    groups = chunks_of(file, size, metadata)
    columns = [metadata.schema.column(index) for index in range(metadata.num_columns)]
    texts = [index for index, column in enumerate(columns) if column.physical_type == "BYTE_ARRAY"]
    repeated = [index for index in texts if columns[index].max_repetition_level]
    kept = [index for index in repeated if not any(chunks[index].repeating for chunks in groups)]
    parquet = pq.ParquetFile(file, metadata=metadata, read_dictionary=kept, buffer_size=_BUFFER)
    stored = [kind for field in parquet.schema_arrow for kind in _stored(field.type)]
    if len(stored) != len(columns):
        raise damaged("its schema does not fit its columns.")
    leaves = [
        Leaf(max(column.length, 0), column.max_repetition_level > 0, kinds.is_dictionary(kind))
        for column, kind in zip(columns, stored, strict=True)
    ]
    for index in texts:
        if "." not in columns[index].path and not leaves[index].as_dictionary:
            _measure(file, metadata, groups, index)
    return OpenedParquet(parquet, groups, leaves)


def _stored(kind: Any) -> Iterator[Any]:
    """The types of the leaves below a type, in the order in which they are stored."""
    if isinstance(kind, pa.BaseExtensionType):
        yield from _stored(kind.storage_type)
    elif kinds.is_nested(kind) and not kinds.is_dictionary(kind):
        for index in range(kind.num_fields):
            yield from _stored(kind.field(index).type)
    else:
        yield kind


def _measure(file: IO[bytes], metadata: Any, groups: list[list[Chunk]], index: int) -> None:
    """Where a dictionary is so large that any of its values might be, look at how long the longest is.

    Only a dictionary that is in use from the first page on is seen whole; another's values count as long as all of it.
    """
    name = metadata.schema.column(index).path
    for group, chunks in enumerate(groups):
        chunk = chunks[index]
        if chunk.dictionary * MAX_ROWS <= DECODED or not chunk.indexed_first or chunk.repeating:
            continue
        parquet = pq.ParquetFile(file, metadata=metadata, read_dictionary=[index], buffer_size=_BUFFER)
        batch = next(parquet.iter_batches(batch_size=1, row_groups=[group], columns=[name], use_threads=False), None)
        if batch is None or batch.num_columns != 1 or not kinds.is_dictionary(batch.schema.types[0]):
            continue
        entries = batch.column(0).dictionary
        if len(entries) == chunk.entries:
            chunk.longest = int(pc.max(pc.binary_length(entries)).as_py() or 0)
