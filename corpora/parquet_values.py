"""What Parquet's values become in a document, and how many bytes they take before they are made.

- text, booleans, integers and finite floats stay what they are; NaN becomes null, an infinity the text `Infinity` or
  `-Infinity`
- decimals, dates, times and timestamps become text (`2026-01-31 12:00:00.000000Z`; zoned ones in UTC); durations become
  integers in the column's own unit
- binary becomes base64 text, but in the columns of text, id and reference it is taken as UTF-8
- lists and structs become lists and objects, maps lists of pairs

Knows Arrow's types. Must not know files or documents.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds
from numpy.typing import NDArray

from corpora.values import clean_text
from corpusmill.errors import InvalidRequest

Sizes = NDArray[np.int64]
#: What an element of a list takes beside its bytes.
_ELEMENT = 8


def readable(kind: Any) -> Any:
    """The Arrow type to cast a column of type `kind` to, so that its values convert.

    Raises InvalidRequest where there is none.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return readable(kind.storage_type)
    if kinds.is_dictionary(kind):
        return readable(kind.value_type)
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        return pa.list_(readable(kind.value_type))
    if kinds.is_map(kind):
        return pa.map_(readable(kind.key_type), readable(kind.item_type))
    if kinds.is_struct(kind):
        names = [field.name for field in kind]
        if len(set(names)) < len(names):
            raise InvalidRequest("A struct has two fields of one name.")
        return pa.struct([(field.name, readable(field.type)) for field in kind])
    for fits, target in _SCALARS:
        if fits(kind):
            return target or kind
    raise InvalidRequest(f"Values of type {kind} cannot be read.")


def is_text(kind: Any) -> bool:
    """Whether a type is text of any layout."""
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def is_bytes(kind: Any) -> bool:
    """Whether a type is bytes of varying length of any layout."""
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind))


_SCALARS: list[tuple[Callable[[Any], bool], Any]] = [
    (lambda kind: kinds.is_null(kind) or kinds.is_boolean(kind) or kinds.is_integer(kind), None),
    (kinds.is_floating, pa.float64()),
    (is_text, pa.string()),
    (lambda kind: is_bytes(kind) or kinds.is_fixed_size_binary(kind), pa.binary()),
    (lambda kind: kinds.is_decimal(kind) or _is_moment(kind), pa.string()),
    (kinds.is_duration, pa.int64()),
]


def _is_moment(kind: Any) -> bool:
    return bool(kinds.is_date(kind) or kinds.is_time(kind) or kinds.is_timestamp(kind))


def in_utc(kind: Any) -> Any:
    """The same type with every time zone UTC, for text is printed in the zone of its type."""
    if kinds.is_timestamp(kind) and kind.tz:
        return pa.timestamp(kind.unit, "UTC")
    if kinds.is_list(kind):
        return pa.list_(in_utc(kind.value_type))
    if kinds.is_struct(kind):
        return pa.struct([(field.name, in_utc(field.type)) for field in kind])
    if kinds.is_map(kind):
        return pa.map_(in_utc(kind.key_type), in_utc(kind.item_type))
    return kind


def is_plain(kind: Any) -> bool:
    """Whether values of a readable type are what they shall be without `jsonable`, but for NUL characters in text."""
    return bool(kinds.is_null(kind) or kinds.is_boolean(kind) or kinds.is_integer(kind) or kinds.is_string(kind))


def jsonable(value: Any) -> Any:
    """A value as Arrow gives it for a readable type, as JSON has it."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(name): jsonable(item) for name, item in value.items()}
    return value


def sizes(array: Any) -> Sizes:  # noqa: PLR0911 - a case for each kind of type
    """Bytes of each value of an array, in a vector of its length: of text its UTF-8, of nulls none.

    Nothing is materialised: a dictionary's values are measured where they stand.
    """
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return sizes(array.storage)
    if kinds.is_dictionary(kind):
        return _dictionary_sizes(array)
    if kinds.is_map(kind):
        # A map's own flatten() leaves out what its nulls hide, but its offsets do not: children are sliced by offsets.
        return _list_sizes(array, sizes(array.keys) + sizes(array.items))
    if kinds.is_list(kind) or kinds.is_large_list(kind):
        return _list_sizes(array, sizes(array.values))
    if kinds.is_fixed_size_list(kind):
        items = sizes(array.values)[array.offset * kind.list_size : (array.offset + len(array)) * kind.list_size]
        rows: Sizes = (items + _ELEMENT).reshape(len(array), kind.list_size).sum(axis=1)
        return rows
    if kinds.is_struct(kind):
        total: Sizes = np.sum([_zeros(array), *map(sizes, array.flatten())], axis=0)
        return total
    if kinds.is_null(kind):
        return _zeros(array)
    if kinds.is_string_view(kind) or kinds.is_binary_view(kind):
        # Each view is 16 bytes, of which the first four are the length.
        lengths = np.frombuffer(array.buffers()[1], dtype=np.int32)[::4][array.offset : array.offset + len(array)]
        return np.where(array.is_valid(), lengths, 0).astype(np.int64)
    if is_text(kind) or is_bytes(kind):
        return _numbers(pc.binary_length(array))
    width: int = max(kind.bit_width // 8, 1)
    valid: Sizes = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), dtype=np.int64)
    return valid * width


def _dictionary_sizes(array: Any) -> Sizes:
    entries = array.dictionary
    if not (kinds.is_string(entries.type) or kinds.is_binary(entries.type)):
        taken = sizes(entries)
        return np.where(array.is_valid(), taken[_numbers(array.indices)], 0) if len(entries) else _zeros(array)
    buffer = entries.buffers()[1]
    if buffer is None or not len(entries):
        return _zeros(array)
    ends = np.frombuffer(buffer, dtype=np.int32)[entries.offset : entries.offset + len(entries) + 1]
    index = _numbers(array.indices)
    lengths = ends[index + 1].astype(np.int64) - ends[index]
    return np.where(array.is_valid(), lengths, 0)


def _list_sizes(array: Any, items: Sizes) -> Sizes:
    before = np.concatenate([[0], np.cumsum(items + _ELEMENT)])
    offsets = np.asarray(array.offsets, dtype=np.int64)
    return np.asarray(before[offsets[1:]] - before[offsets[:-1]], dtype=np.int64)


def _numbers(array: Any) -> Sizes:
    return np.asarray(pc.fill_null(array, 0).to_numpy(zero_copy_only=False), dtype=np.int64)


def _zeros(array: Any) -> Sizes:
    return np.zeros(len(array), dtype=np.int64)
