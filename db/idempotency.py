"""Idempotency keys: what a request made, so that its repetition makes nothing more.

Knows the table `idempotency`. Must not know requests: they come as a key and a fingerprint.

What is deleted takes the answer with it, which says what was asked for; that the key was used is remembered, so that a late
repetition does not bring it back.

A key is written in the transaction that makes the thing, so that there is never the one without the other; of two requests
at one time the database lets the second wait for the first, and then see its key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, delete, select, update

from corpusmill.errors import Gone, InvalidRequest
from db.engine import db_now, insert_into
from db.tables import idempotency

#: For how long a key is remembered.
KEPT_SECONDS = 24 * 3600.0
#: Stands in the place of an answer once what was made is deleted.
_DELETED: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the first request with a key made: its id, and its answer where that was kept."""

    id: str
    answer: Mapping[str, Any] | None


def recall(connection: Connection, key: str, fingerprint: str) -> Made | None:
    """What was made with a key in the last 24 hours.

    Raises InvalidRequest where another request used the key, and Gone where what was made is deleted.
    """
    row = connection.execute(
        select(idempotency.c.fingerprint, idempotency.c.made, idempotency.c.answer).where(
            idempotency.c.key == key, idempotency.c.created_at > db_now() - KEPT_SECONDS
        )
    ).one_or_none()
    if row is None:
        return None
    if row.fingerprint != fingerprint:
        raise InvalidRequest(
            "This Idempotency-Key came with another request before: use a new key for each request, and the same one only "
            "to repeat it.", code="idempotency_key_reused",
        )  # fmt: skip
    if row.answer == _DELETED:
        raise Gone(f"This Idempotency-Key made {row.made}, which was deleted since: to make it again, send a new key.")
    return Made(id=row.made, answer=row.answer)


def claim(connection: Connection, key: str, fingerprint: str, made: str) -> bool:
    """Note that `made` is what comes of this key, or say that it is taken, in which case `recall` says by what."""
    connection.execute(
        delete(idempotency).where(idempotency.c.key == key, idempotency.c.created_at <= db_now() - KEPT_SECONDS)
    )
    values = {"key": key, "fingerprint": fingerprint, "made": made, "created_at": db_now()}
    written = (
        insert_into(connection, idempotency).values(**values).on_conflict_do_nothing().returning(idempotency.c.key)
    )
    # Not by `rowcount`, which says nothing of an INSERT: on PostgreSQL it was -1, and every key free.
    return connection.scalar(written) is not None


def keep_answer(connection: Connection, key: str, answer: Mapping[str, Any]) -> None:
    """Keep the answer to a claimed key word for word."""
    connection.execute(update(idempotency).where(idempotency.c.key == key).values(answer=dict(answer)))


def forget_answers(connection: Connection, made: Collection[str] | Select[tuple[str]]) -> None:
    """Delete what was answered when these ids were made, of things that are just being deleted."""
    connection.execute(update(idempotency).where(idempotency.c.made.in_(made)).values(answer=_DELETED))


def forget(connection: Connection, key: str) -> None:
    """Delete a key: what it made was taken back."""
    connection.execute(delete(idempotency).where(idempotency.c.key == key))


def forget_old(connection: Connection) -> int:
    """Delete the keys that have had their time. Returns how many."""
    return connection.execute(delete(idempotency).where(idempotency.c.created_at <= db_now() - KEPT_SECONDS)).rowcount
