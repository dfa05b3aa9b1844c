"""Corpora: their rows, and where their files lie below the data directory.

Knows the table `corpora`, and by the tables `jobs` and `runs` who still needs one. Must not know formats (`corpora` the
package does) or jobs' progress.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Row, case, delete, func, insert, or_, select, update

from corpusmill.errors import Conflict, FieldFault, InvalidRequest, NotFound
from db import idempotency
from db.engine import db_now
from db.tables import corpora, jobs, runs

CorpusStatus = Literal["validating", "ready", "rejected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A corpus as its row stands. Times are seconds since 1970."""

    key: int
    id: str
    name: str | None
    status: CorpusStatus
    format: str
    encoding: str | None
    bytes: int
    sha256: str
    documents: int
    invalid: int
    fields: list[str]
    options: Mapping[str, Any]
    inline: bool
    error: Mapping[str, Any] | None
    created_at: float
    expires_at: float | None
    references_version: int
    readers_lost: int


_COLUMNS = [corpora.c[name] for name in Corpus.__dataclass_fields__]


def store_directory(data_dir: Path, corpus_id: str) -> Path:
    """Where a corpus's documents lie."""
    return data_dir / "corpora" / corpus_id


def upload_path(data_dir: Path, corpus_id: str) -> Path:
    """Where an upload lies as it came, until it is ingested."""
    return data_dir / "uploads" / corpus_id


def create(
    connection: Connection, *, id: str, name: str | None, format: str, encoding: str | None, bytes: int, sha256: str,
    options: Mapping[str, Any], inline: bool = False, ttl: float | None = None,
) -> None:  # fmt: skip
    """A row for an upload that is whole on disk and waits to be ingested; repeating it changes nothing.

    `ttl` is the seconds for which it is kept, or None for ever.
    """
    if connection.scalar(select(corpora.c.key).where(corpora.c.id == id)) is None:
        connection.execute(
            insert(corpora).values(
                id=id, name=name, status="validating", format=format, encoding=encoding, bytes=bytes, sha256=sha256,
                options=dict(options), fields=[], inline=inline, created_at=db_now(),
                expires_at=None if ttl is None else db_now() + ttl,
            )
        )  # fmt: skip


def get(connection: Connection, corpus_id: str) -> Corpus:
    """The corpus with that id. Raises NotFound."""
    row = connection.execute(select(*_COLUMNS).where(corpora.c.id == corpus_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no corpus {corpus_id!r}.")
    return _corpus(row)


def exists(connection: Connection, corpus_id: str) -> bool:
    """Whether the corpus has not been deleted."""
    return connection.scalar(select(corpora.c.key).where(corpora.c.id == corpus_id)) is not None


def page(connection: Connection, *, before: int | None, limit: int) -> list[Corpus]:
    """Up to `limit` corpora, newest first, older than the key `before`; corpora of inline documents are not listed."""
    query = select(*_COLUMNS).where(~corpora.c.inline).order_by(corpora.c.key.desc()).limit(limit)
    if before is not None:
        query = query.where(corpora.c.key < before)
    return [_corpus(row) for row in connection.execute(query)]


def named(connection: Connection, name: str, *, after: int) -> list[Corpus]:
    """The uploaded corpora of a name whose key is above `after`, oldest first, in whatever state."""
    query = select(*_COLUMNS).where(corpora.c.name == name, ~corpora.c.inline, corpora.c.key > after)
    return [_corpus(row) for row in connection.execute(query.order_by(corpora.c.key))]


def claim(connection: Connection, corpus_id: str, *, owner: str, lease: float) -> Corpus | None:
    """Take the ingest of a corpus, if it is still to be done and nobody else holds it, and count the reader before as lost
    where it did not say that it ended; repeating it changes nothing but the lease."""
    mine, ended = corpora.c.owner == owner, corpora.c.owner.is_(None)
    taken = connection.execute(
        update(corpora)
        .where(corpora.c.id == corpus_id, corpora.c.status == "validating")
        .where(or_(corpora.c.lease_until.is_(None), corpora.c.lease_until < db_now(), mine))
        .values(
            owner=owner, lease_until=db_now() + lease,
            readers_lost=corpora.c.readers_lost + case((or_(ended, mine), 0), else_=1),
        )
    )  # fmt: skip
    return get(connection, corpus_id) if taken.rowcount else None


def renew(connection: Connection, corpus_id: str, *, owner: str, lease: float) -> bool:
    """Hold the ingest for another lease; False where it was taken over or the corpus is gone."""
    mine = (corpora.c.id == corpus_id, corpora.c.owner == owner)
    connection.execute(
        update(corpora).where(*mine, corpora.c.status == "validating").values(lease_until=db_now() + lease)
    )
    return connection.scalar(select(corpora.c.key).where(*mine)) is not None


def finish(
    connection: Connection, corpus_id: str, *, owner: str, status: CorpusStatus, documents: int, invalid: int,
    fields: list[str], error: Mapping[str, Any] | None,
) -> bool:  # fmt: skip
    """Write the outcome of an ingest, which may be a repetition; False where another took it over or the corpus is gone, and
    nothing was written."""
    mine = (corpora.c.id == corpus_id, corpora.c.owner == owner)
    connection.execute(
        update(corpora)
        .where(*mine, corpora.c.status == "validating")
        .values(status=status, documents=documents, invalid=invalid, fields=fields, error=error, lease_until=None)
    )
    return connection.scalar(select(corpora.c.key).where(*mine)) is not None


def leave(connection: Connection, corpus_id: str, *, owner: str) -> bool:
    """Leave the ingest to others without an outcome; False where it was taken over or the corpus is gone. The lease runs out
    as it would have: whoever is next does not come at once."""
    mine = (corpora.c.id == corpus_id, corpora.c.owner == owner, corpora.c.status == "validating")
    return bool(connection.execute(update(corpora).where(*mine).values(owner=None)).rowcount)


def uncount(connection: Connection, corpus_id: str) -> None:
    """Count one reader less as lost: it was taken for dead and has come back. Repeated because an answer was lost it may
    count another less, which gives an upload that kills its readers one more."""
    connection.execute(
        update(corpora)
        .where(corpora.c.id == corpus_id, corpora.c.status == "validating", corpora.c.readers_lost > 0)
        .values(readers_lost=corpora.c.readers_lost - 1)
    )


def unclaimed(connection: Connection, *, grace: float) -> list[str]:
    """Ids of corpora that wait to be ingested and that nobody has held for `grace` seconds."""
    return list(
        connection.scalars(
            select(corpora.c.id)
            .where(corpora.c.status == "validating")
            .where(func.coalesce(corpora.c.lease_until, corpora.c.created_at + grace) < db_now())
            .order_by(corpora.c.key)
        )
    )


def remove(connection: Connection, corpus_id: str) -> Corpus:
    """Delete the row, and return what it said. Raises NotFound, or Conflict while a job that has not ended uses it."""
    # locked first: a job that is just being made over it would otherwise be left without one (ON DELETE SET NULL)
    connection.execute(select(corpora.c.key).where(corpora.c.id == corpus_id).with_for_update())
    corpus = get(connection, corpus_id)
    users = connection.scalars(
        select(jobs.c.id).where(jobs.c.corpus_key == corpus.key, jobs.c.outcome.is_(None)).limit(3)
    ).all()
    if users:
        raise Conflict(
            f"The corpus is used by {', '.join(users)}, which has not ended: wait for it, or cancel or delete it first."
        )
    connection.execute(delete(corpora).where(corpora.c.key == corpus.key))
    idempotency.forget_answers(connection, [corpus.id])
    return corpus


def expired(connection: Connection, most: int) -> list[str]:
    """Ids of up to `most` corpora whose time is over and that no open job uses."""
    used = select(jobs.c.key).where(jobs.c.corpus_key == corpora.c.key, jobs.c.outcome.is_(None)).exists()
    return list(connection.scalars(select(corpora.c.id).where(corpora.c.expires_at <= db_now(), ~used).limit(most)))


def abandoned(connection: Connection, *, older: float) -> list[str]:
    """Ids of corpora of inline documents, made `older` seconds ago, whose job was never committed, and for which no run of a
    schedule has still to submit one."""
    awaited = select(runs.c.key).where(runs.c.corpus_id == corpora.c.id, runs.c.finished_at.is_(None)).exists()
    used = select(jobs.c.key).where(jobs.c.corpus_key == corpora.c.key).exists() | awaited
    query = select(corpora.c.id).where(corpora.c.inline, corpora.c.created_at < db_now() - older, ~used)
    return list(connection.scalars(query.limit(100)))


def require_usable(corpus: Corpus) -> None:
    """Raises InvalidRequest where no job can run over the corpus."""
    if corpus.status == "rejected":
        why = (corpus.error or {}).get("message", "it holds no documents.")
        raise InvalidRequest(
            f"The corpus {corpus.id} was rejected: {why}", FieldFault("/corpus", "rejected"), code="corpus_rejected"
        )


def _corpus(row: Row[Any]) -> Corpus:
    return Corpus(**row._mapping)
