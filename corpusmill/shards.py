"""How a corpus is cut into shards, and a shard into halves; and what running them took, added up.

Knows sizes and positions. Must not know where shards are kept or who runs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from corpusmill.tasks import Task


@dataclass(frozen=True, slots=True)
class Slice:
    """The documents at positions `start` (included) to `stop` (excluded) of a corpus."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class ShardSize:
    """A shard ends before the document with which it would exceed `documents` or `bytes`; it holds at least one."""

    documents: int
    bytes: int


#: A shard is what is lost when a worker dies and what a commit holds: seconds of work, not minutes, and thousands of rows
#: at most. Generating a summary costs some hundred times what classifying the same text does.
SHARD_SIZES = {
    Task.CLASSIFICATION: ShardSize(documents=2_048, bytes=512 << 10),
    Task.SUMMARIZATION: ShardSize(documents=64, bytes=128 << 10),
    Task.TRANSLATION: ShardSize(documents=256, bytes=32 << 10),
}


def plan_shards(text_bytes: Iterable[int], size: ShardSize) -> Iterator[Slice]:
    """Cut documents, given by the bytes of their text in order, into contiguous slices that cover them all."""
    start = stop = held = 0
    for length in text_bytes:
        if stop > start and (stop - start >= size.documents or held + length > size.bytes):
            yield Slice(start, stop)
            start, held = stop, 0
        stop += 1
        held += length
    if stop > start:
        yield Slice(start, stop)


def halves(whole: Slice) -> tuple[Slice, Slice]:
    """Two slices of nearly equal length that cover `whole`. Raises ValueError for a slice of one document."""
    if len(whole) < 2:
        raise ValueError("a single document cannot be halved")
    middle = (whole.start + whole.stop) // 2
    return Slice(whole.start, middle), Slice(middle, whole.stop)


def added(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two shards' usage, or one shard's of two times, as one: figures by name, and figures by name inside them, added."""
    total = dict(first)
    for name, value in second.items():
        if isinstance(value, Mapping):
            total[name] = added(total.get(name) or {}, value)
        else:
            total[name] = total.get(name, 0) + value
    return total
