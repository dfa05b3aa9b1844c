"""Which values a document may hold: one policy, whatever the format and whatever database comes after.

- A NUL character becomes U+FFFD (REPLACEMENT CHARACTER), in texts, field names and field values alike: PostgreSQL
  refuses it and SQLite cuts at it.
- A lone surrogate (`"\\ud800"` in JSON) has no UTF-8 form: the document is refused as `bad_encoding`.
- NaN and the infinities, `1e999` included, are no JSON: the document is refused as `invalid_json`.
- Values nested deeper than 64 levels are refused as `invalid_json`, so that whether a document can be read never
  depends on how deep the stack of its reader is.

Knows values. Must not know formats or files.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from corpusmill.documents import IngestErrorCode, Reference

MAX_DEPTH = 64
#: The longest id, in characters: ids are kept in the database, once for each result.
MAX_ID = 512
REPLACEMENT = "\ufffd"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Refused(Exception):
    """A value that no document may hold; carries the ingest error's code, its sentence and the field, where known."""

    def __init__(self, code: IngestErrorCode, message: str, column: str | None = None) -> None:
        super().__init__(message)
        self.code: IngestErrorCode = code
        self.column = column


def clean_text(text: str) -> str:
    """`text` without NUL characters. Raises Refused for a lone surrogate."""
    if not text.isascii() and _SURROGATE.search(text):
        raise Refused(
            "bad_encoding", "A text holds a lone surrogate (\\ud800 to \\udfff), which stands for no character."
        )
    return text.replace("\0", REPLACEMENT) if "\0" in text else text


def clean(value: Any, depth: int = 0) -> Any:
    """A JSON value with every string cleaned, names of fields included.

    Raises Refused for a lone surrogate, a number that is not finite, nesting too deep, and what is not JSON at all.
    """
    if type(value) is str:
        return clean_text(value)
    if value is None or type(value) in (bool, int):
        return value
    if type(value) is float:
        if math.isfinite(value):
            return value
        raise Refused("invalid_json", "A number is NaN or infinite, which JSON does not have.")
    if depth >= MAX_DEPTH:
        raise Refused("invalid_json", f"Values are nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, dict):
        return {clean_text(name): clean(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [clean(item, depth + 1) for item in value]
    raise Refused("wrong_type", f"A value of type {type(value).__name__} is not JSON.")


def id_of(value: Any, position: int) -> str:
    """A document's id as text: a number as JSON prints it, the position where there is none.

    Raises Refused for anything else and for an id that is too long.
    """
    if value is None:
        return str(position)
    if type(value) is str:
        identifier = value
    elif type(value) in (int, float):
        identifier = json.dumps(value)
    else:
        raise Refused("wrong_type", f"An id is text or a number, not {kind_of(value)}.")
    if len(identifier) > MAX_ID:
        raise Refused("too_long", f"The id has {len(identifier)} characters; at most {MAX_ID} are kept.")
    return identifier


def reference_of(value: Any) -> Reference | None:
    """A reference: text, or a list of texts; numbers and booleans become text as JSON prints them.

    Raises Refused for objects, and for lists of anything but these.
    """
    if value is None or type(value) is str:
        return value
    if isinstance(value, list):
        return [_one_reference(item) for item in value]
    return _one_reference(value)


def _one_reference(value: Any) -> str:
    if type(value) is str:
        return value
    if type(value) in (bool, int, float):
        return json.dumps(value)
    raise Refused(
        "wrong_type", f"A reference is text, a number, true, false, or a list of these, not {kind_of(value)}."
    )


def kind_of(value: Any) -> str:
    """What a value is, in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"
