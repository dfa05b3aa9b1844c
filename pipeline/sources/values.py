"""Values of somebody else's columns: as a document's parts, as JSON, and as a position that is read back.

Knows Python's types as drivers and readers give them. Must not know a database.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from corpusmill.documents import Reference
from corpusmill.errors import PlaceFault

#: Types that a position can hold besides JSON's own, by the name that stands there.
_READ_BACK: dict[str, Any] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": UUID,
    "bytes": base64.b64decode,
}


def as_text(value: Any) -> str | None:
    """A value as a text to be read: what has parts (arrays, JSON) as JSON; None where it is none, or bytes but no text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return json.dumps(as_json(value), ensure_ascii=False)
    return str(as_json(value))


def as_id(value: Any) -> str:
    """A key as a document's id: the same value always gives the same text."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return str(int(value))
    return str(as_json(value))


def as_reference(value: Any) -> Reference | None:
    """A gold label or text, or a list of them."""
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [text for each in value if (text := as_text(each)) is not None]
    return as_text(value)


def as_json(value: Any) -> Any:
    """A value as JSON has it: times by ISO 8601, decimals and bytes as text, what is no number as none."""
    if value is None or isinstance(value, str | bool | int):
        return value
    shape = next((shape for kinds, shape in _SHAPES if isinstance(value, kinds)), str)
    return shape(value)


_SHAPES: list[tuple[tuple[type, ...], Callable[[Any], Any]]] = [
    ((float,), lambda value: value if math.isfinite(value) else None),
    ((datetime, date, time), lambda value: value.isoformat()),
    ((timedelta,), lambda value: value.total_seconds()),
    ((bytes, bytearray, memoryview), lambda value: base64.b64encode(bytes(value)).decode()),
    ((Mapping,), lambda value: {str(name): as_json(each) for name, each in value.items()}),
    ((list, tuple, set, frozenset), lambda value: [as_json(each) for each in value]),
]


def kept(value: Any) -> Any:
    """A column's value in a form that `given_back` makes the same value of. Raises PlaceFault where there is none."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, datetime | date | time):
        return {"type": type(value).__name__, "value": value.isoformat()}
    if isinstance(value, Decimal | UUID):
        return {"type": type(value).__name__.lower(), "value": str(value)}
    if isinstance(value, bytes):
        return {"type": "bytes", "value": base64.b64encode(value).decode()}
    raise PlaceFault(f"A column of {type(value).__name__} cannot be followed: name one of numbers, texts or times.")


def given_back(value: Any) -> Any:
    """What `kept` was given."""
    return _READ_BACK[value["type"]](value["value"]) if isinstance(value, Mapping) else value
