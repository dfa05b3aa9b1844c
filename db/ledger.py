"""The ledger: what each document of a schedule's source has now, and what a run holds that is not delivered yet.

Knows the table `labelled_documents`. Must not know sources, sinks or jobs.

A row of a run's own says `wanted_by`, with the hash of the text that it read; without a hash, that the document is gone. It
becomes what the document has when the sinks have taken it. Until then the row still says what the sinks hold, so that a run
that fails leaves its documents to the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, or_, select, update

from db.engine import insert_into
from db.tables import labelled_documents as table

_AT_ONCE = 5_000
#: In place of a text's hash: the sinks may have the text before or after, or none.
_IN_DOUBT = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the ledger says of a document; `text_hash` is None where none was ever delivered."""

    number: int
    text_hash: bytes | None
    scope_hash: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A document that a run takes: its number, new or not, and the hash of its text."""

    document_id: str
    number: int
    text_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What came of a wanted document. A `failed` one that may be tried again is no longer wanted, and that is all."""

    document_id: str
    status: str
    again: bool = False


def known(connection: Connection, schedule_key: int, ids: Collection[str]) -> dict[str, Known]:
    """What there is of these documents, by id; those never seen are missing."""
    rows = connection.execute(
        select(table.c.document_id, table.c.number, table.c.text_hash, table.c.scope_hash).where(
            table.c.schedule_key == schedule_key, table.c.document_id.in_(ids)
        )
    )
    return {
        row.document_id: Known(
            number=row.number, text_hash=_bytes(row.text_hash), scope_hash=_bytes(row.scope_hash)
        )
        for row in rows
    }  # fmt: skip


def labelled_by(connection: Connection, schedule_key: int, run_key: int, ids: Collection[str]) -> set[str]:
    """Those of these documents that a run was the last to label."""
    query = select(table.c.document_id).where(
        table.c.schedule_key == schedule_key, table.c.run_key == run_key, table.c.document_id.in_(ids)
    )
    return set(connection.scalars(query))


def next_number(connection: Connection, schedule_key: int) -> int:
    """The number of the next document that was never seen."""
    highest = connection.scalar(select(func.max(table.c.number)).where(table.c.schedule_key == schedule_key))
    return 0 if highest is None else highest + 1


def want(connection: Connection, schedule_key: int, run_key: int, documents: Sequence[Wanted]) -> None:
    """Note that a run holds these documents."""
    if not documents:
        return
    statement = insert_into(connection, table)
    statement = statement.on_conflict_do_update(
        index_elements=["schedule_key", "document_id"],
        set_={"wanted_by": statement.excluded.wanted_by, "wanted_hash": statement.excluded.wanted_hash},
    )
    connection.execute(
        statement,
        [
            {
                "schedule_key": schedule_key, "document_id": one.document_id, "number": one.number,
                "wanted_by": run_key, "wanted_hash": one.text_hash,
            }
            for one in documents
        ],
    )  # fmt: skip


def let_go(connection: Connection, schedule_key: int, run_key: int) -> None:
    """Forget what a run holds: its rows say what they said before it."""
    mine = (table.c.schedule_key == schedule_key, table.c.wanted_by == run_key)
    connection.execute(delete(table).where(*mine, table.c.text_hash.is_(None)))
    connection.execute(update(table).where(*mine).values(wanted_by=None, wanted_hash=None))


def count(connection: Connection, schedule_key: int) -> int:
    """How many documents the ledger has of a schedule."""
    return connection.execute(
        select(func.count()).select_from(table).where(table.c.schedule_key == schedule_key)
    ).scalar_one()


def numbers(connection: Connection, schedule_key: int, start: int) -> list[int]:
    """The next numbers from `start` on, in order."""
    query = select(table.c.number).where(table.c.schedule_key == schedule_key, table.c.number >= start)
    return list(connection.scalars(query.order_by(table.c.number).limit(_AT_ONCE)))


def mark_gone(connection: Connection, schedule_key: int, run_key: int, gone: Collection[int]) -> None:
    """Note that the source has these documents, given by number, no more; one that no sink ever got is forgotten."""
    these = (table.c.schedule_key == schedule_key, table.c.number.in_(gone))
    connection.execute(delete(table).where(*these, table.c.text_hash.is_(None)))
    connection.execute(update(table).where(*these).values(wanted_by=run_key, wanted_hash=None))


def gone(connection: Connection, schedule_key: int, run_key: int, after: str | None) -> list[str]:
    """The next ids after `after` that a run found gone, in order."""
    query = select(table.c.document_id).where(
        table.c.schedule_key == schedule_key, table.c.wanted_by == run_key, table.c.wanted_hash.is_(None)
    )
    if after is not None:
        query = query.where(table.c.document_id > after)
    return list(connection.scalars(query.order_by(table.c.document_id).limit(_AT_ONCE)))


def doubt(connection: Connection, schedule_key: int, run_key: int) -> bool:
    """Say of the next of a run's documents that nobody knows what the sinks have of them: they are about to be written.

    Should the run end before they are settled, the next one takes them whatever their text is. Returns whether there may be
    more.
    """
    mine = (table.c.schedule_key == schedule_key, table.c.wanted_by == run_key)
    certain = select(table.c.document_id).where(*mine, or_(table.c.text_hash.is_(None), table.c.text_hash != _IN_DOUBT))
    changed = connection.execute(
        update(table)
        .where(table.c.schedule_key == schedule_key, table.c.document_id.in_(certain.limit(_AT_ONCE)))
        .values(text_hash=_IN_DOUBT)
    )
    return changed.rowcount == _AT_ONCE


def settle(
    connection: Connection, schedule_key: int, run_key: int, documents: Sequence[Settled], *, scope_hash: bytes
) -> None:
    """What a run held of these documents is what they have; repeating it changes nothing."""
    mine = (
        table.c.schedule_key == schedule_key,
        table.c.document_id == bindparam("id"),
        table.c.wanted_by == run_key,
        table.c.wanted_hash.is_not(None),
    )
    ended = [{"id": one.document_id, "ended": one.status} for one in documents if not one.again]
    if ended:
        connection.execute(
            update(table)
            .where(*mine)
            .values(
                text_hash=table.c.wanted_hash, scope_hash=scope_hash, run_key=run_key, status=bindparam("ended"),
                wanted_by=None, wanted_hash=None,
            ),
            ended,
        )  # fmt: skip


def settle_gone(connection: Connection, schedule_key: int, run_key: int) -> None:
    """Forget the documents that a run found gone, now that no sink has them."""
    connection.execute(
        delete(table).where(
            table.c.schedule_key == schedule_key, table.c.wanted_by == run_key, table.c.wanted_hash.is_(None)
        )
    )


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)
