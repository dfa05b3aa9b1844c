"""The `Idempotency-Key` of a request that makes something: repeated, it makes nothing more.

Knows headers, what makes two requests the same, and the answer that the first of them got. Must not know what they make.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from flask import Request

import db.idempotency as keys
from corpusmill.errors import FieldFault, InvalidRequest
from db.engine import Connection, Engine, reading

_HEADER = "Idempotency-Key"
_LONGEST = 255


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A key and the request that it stands for."""

    key: str
    fingerprint: str


def key_of(request: Request) -> str | None:
    """The request's key, or None where it has none. Raises InvalidRequest for one that is empty or too long."""
    key = request.headers.get(_HEADER)
    if key is None:
        return None
    key = key.strip()
    if not 0 < len(key) <= _LONGEST or not key.isprintable():
        raise InvalidRequest(
            f"{_HEADER} must have 1 to {_LONGEST} printable characters.", FieldFault(_HEADER, "not a key")
        )
    return key


def idempotency_of(request: Request, content: str | None = None) -> Idempotency | None:
    """The key with a fingerprint of method, path, query and body; None without a key. `content` stands for a body that was
    read already."""
    key = key_of(request)
    if key is None:
        return None
    content = hashlib.sha256(request.get_data()).hexdigest() if content is None else content
    said = "\n".join([request.method, request.path, request.query_string.decode("latin-1"), content])
    return Idempotency(key, hashlib.sha256(said.encode()).hexdigest())


def is_first(connection: Connection, once: Idempotency, made_id: str) -> bool:
    """Whether this request is the one that its key stands for; its transaction may be run twice. `made_id` is of what it
    makes. Raises InvalidRequest where another request used the key, and Gone where what it made is deleted."""
    if keys.claim(connection, once.key, once.fingerprint, made_id):
        return True
    made = keys.recall(connection, once.key, once.fingerprint)
    return made is None or made.id == made_id


def first_answer(database: Engine, once: Idempotency) -> dict[str, Any] | None:
    """What the first request with the key was answered; None where this one is the first. Raises InvalidRequest where
    another request used the key, and Gone where what it made is deleted."""
    with reading(database) as connection:
        made = keys.recall(connection, once.key, once.fingerprint)
    return dict(made.answer) if made is not None and made.answer is not None else None
