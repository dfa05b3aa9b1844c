"""As much of Thrift's compact protocol as it takes to read the headers inside a Parquet file.

Source: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
Knows bytes. Must not know what the fields mean.
"""

from __future__ import annotations

from typing import Any

_MAX_DEPTH = 16
_MAX_ITEMS = 1 << 16


class Malformed(Exception):
    """The bytes are no structure of this protocol, or one larger than any header is."""


class Thrift:
    """Reads structures from `data`, beginning at `position`; raises Malformed, also where `data` ends too early."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data = data
        self.position = position

    def struct(self, upto: int | None = None, depth: int = 0) -> dict[int, Any]:
        """Fields by number, up to the one numbered `upto`, where given. Binary values are passed over (None)."""
        if depth > _MAX_DEPTH:
            raise Malformed
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            number = number + (header >> 4) if header >> 4 else self._zigzag()
            fields[number] = self._value(header & 15, depth, in_field=True)
            if number == upto:
                break
        return fields

    def _value(self, kind: int, depth: int, *, in_field: bool = False) -> Any:  # noqa: PLR0911 - a case for each type
        if kind in (1, 2):
            return kind == 1 if in_field else self._byte() == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 7:
            return self._skip(8)
        if kind == 8:
            return self._skip(self._varint())
        if kind in (9, 10):
            return self._list(depth)
        if kind == 12:
            return self.struct(depth=depth + 1)
        raise Malformed  # maps occur in no header

    def _list(self, depth: int) -> list[Any]:
        header = self._byte()
        size = header >> 4
        if size == 15:
            size = self._varint()
        if size > _MAX_ITEMS or depth > _MAX_DEPTH:
            raise Malformed
        return [self._value(header & 15, depth + 1) for _ in range(size)]

    def _byte(self) -> int:
        if self.position >= len(self._data):
            raise Malformed
        self.position += 1
        return self._data[self.position - 1]

    def _skip(self, size: int) -> None:
        self.position += size
        if self.position > len(self._data):
            raise Malformed

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise Malformed

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
