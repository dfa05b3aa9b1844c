"""The `Idempotency-Key` of a request that makes something: repeated, it makes nothing more.

Knows headers and what makes two requests the same. Must not know what they make.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from flask import Request

from corpusmill.errors import FieldFault, InvalidRequest

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


def idempotency_of(request: Request, content: str) -> Idempotency | None:
    """The key with a fingerprint of method, path, query and `content`, a digest of the body; None without a key."""
    key = key_of(request)
    if key is None:
        return None
    said = "\n".join([request.method, request.path, request.query_string.decode("latin-1"), content])
    return Idempotency(key, hashlib.sha256(said.encode()).hexdigest())
