"""A document, or an ingest error, as a line of the store, and back.

Knows the compact form: a JSON object with only what a document has; an id that is the position is left out. Must not
know files. A round trip is exact for what the readers give: JSON values, and text without lone surrogates.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring as quoted
from typing import Any

from corpusmill.documents import Document, IngestError

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)
_DECODER = json.JSONDecoder()


def document_line(document: Document) -> str:
    """The line of a document, line feed included. Raises ValueError for fields that are not JSON."""
    parts = ['{"text":', quoted(document.text)]
    if document.id != str(document.position):
        parts += (',"id":', quoted(document.id))
    if document.text_pair is not None:
        parts += (',"text_pair":', quoted(document.text_pair))
    if document.reference is not None:
        parts += (',"reference":', _ENCODER.encode(document.reference))
    if document.fields:
        parts += (',"fields":', _ENCODER.encode(document.fields))
    parts.append("}\n")
    return "".join(parts)


def document_from(line: bytes, position: int) -> Document:
    """The document in the line of `position`. Raises ValueError, KeyError, TypeError or AttributeError where it is none."""
    values: dict[str, Any] = _DECODER.decode(line.decode())
    if type(values["text"]) is not str:
        raise TypeError("a document whose text is none")
    identifier = values.get("id")
    return Document(
        position=position,
        id=str(position) if identifier is None else identifier,
        text=values["text"],
        text_pair=values.get("text_pair"),
        reference=values.get("reference"),
        fields=values.get("fields", {}),
    )


def error_line(error: IngestError) -> str:
    """The line of an ingest error, line feed included."""
    return _ENCODER.encode([error.line, error.column, error.code, error.message]) + "\n"


def error_from(line: bytes) -> IngestError:
    """The ingest error in a line. Raises ValueError or TypeError where it is none."""
    number, column, code, message = _DECODER.decode(line.decode())
    return IngestError(line=number, column=column, code=code, message=message)
