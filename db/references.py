"""References attached to a corpus after its upload: the versions of them, and which one is in force.

Knows the table `corpus_references` and where its files lie. Must not know how lines are held against documents
(`corpora` does) or what becomes of metrics (`db.rescoring`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Row, insert, select, update

from corpora import (
    Encoding,
    Limits,
    References,
    Store,
    merged,
    remove_other_references,
    remove_references,
    resolve,
    write_references,
)
from corpusmill.documents import Document, Reference
from corpusmill.errors import Conflict
from corpusmill.ids import new_id
from corpusmill.settings import Settings
from db import corpora as corpus_rows
from db.corpora import Corpus, store_directory, upload_path
from db.engine import Engine, db_now, reading, transact
from db.tables import corpora, corpus_references


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a corpus's references: `documents` of it have one. `file` names its files."""

    version: int
    file: str
    documents: int
    sha256: str
    created_at: float


_COLUMNS = [corpus_references.c[name] for name in Version.__dataclass_fields__]


def current(connection: Connection, corpus_key: int) -> Version | None:
    """The version in force; None where the references are those that came with the documents, or the corpus is gone."""
    row = connection.execute(
        select(*_COLUMNS)
        .join(corpora, corpora.c.key == corpus_references.c.corpus_key)
        .where(corpora.c.key == corpus_key, corpus_references.c.version == corpora.c.references_version)
    ).one_or_none()
    return _version(row) if row else None


def versions(connection: Connection, corpus_key: int, *, before: int | None, limit: int) -> list[Version]:
    """Up to `limit` versions, newest first, older than `before`."""
    query = select(*_COLUMNS).where(corpus_references.c.corpus_key == corpus_key)
    if before is not None:
        query = query.where(corpus_references.c.version < before)
    rows = connection.execute(query.order_by(corpus_references.c.version.desc()).limit(limit))
    return [_version(row) for row in rows]


def opened(data_dir: Path, corpus_id: str, version: Version) -> References:
    """The references of a version. Raises NotFound where the corpus has been deleted."""
    return References(store_directory(data_dir, corpus_id), version.file)


def attached(
    data_dir: Path, corpus_id: str, version: Version | None, documents: Iterable[Document]
) -> Iterator[Document]:
    """Documents, given by position, with the references of a version, or with their own where that is None."""
    return iter(documents) if version is None else opened(data_dir, corpus_id, version).attached(documents)


def attach(
    database: Engine, settings: Settings, corpus_id: str, body: Path, encoding: Encoding | None, *, keep: bool
) -> Version:
    """A new version from the file of lines `body`: they alone, or (`keep`) the version in force with these changes.

    What is already so makes no new version. Raises NotFound, Conflict where the corpus is not ready or, with `keep`, has
    got another version meanwhile, and InvalidRequest naming the lines that cannot be used.
    """
    with reading(database) as connection:
        corpus = corpus_rows.get(connection, corpus_id)
        before = current(connection, corpus.key)
    _require_ready(corpus)
    directory, name = store_directory(settings.data_dir, corpus_id), new_id("references")
    store = Store(directory)
    limits = Limits(
        max_upload_bytes=settings.max_upload_bytes, max_document_bytes=settings.max_document_bytes,
        max_expansion=settings.max_expansion, parquet_seconds=settings.parquet_seconds,
    )  # fmt: skip
    aside = upload_path(settings.data_dir, name)

    def write(changes: Iterator[tuple[int, Reference | None]]) -> object:
        base = _in_force(settings.data_dir, corpus_id, before, store) if keep else ()
        return write_references(merged(base, changes), directory, name, scratch=aside.parent)

    written = resolve(body, encoding, store, limits, scratch=aside.with_suffix(".sorter"), write=write)
    version: Version | None = None
    try:
        version = transact(
            database,
            lambda connection: add(
                connection, corpus_id, file=name, documents=written.documents, sha256=written.sha256,
                upon=corpus.references_version if keep else None,
            ),
        )  # fmt: skip
        return version
    finally:
        if version is None or version.file != name:
            remove_references(directory, name)


def add(connection: Connection, corpus_id: str, *, file: str, documents: int, sha256: str, upon: int | None) -> Version:
    """Put a version that is whole on disk in force; the metrics of the corpus's jobs are then behind (`metrics.behind`).

    The version in force, where it says the same or is this one. Raises NotFound, and Conflict where the version is made
    `upon` another than that in force.
    """
    # locked, so that two who come at one time number theirs one after the other
    connection.execute(select(corpora.c.key).where(corpora.c.id == corpus_id).with_for_update(key_share=True))
    corpus = corpus_rows.get(connection, corpus_id)
    now = current(connection, corpus.key)
    if now is not None and (now.file == file or now.sha256 == sha256):
        return now
    if upon is not None and upon != corpus.references_version:
        raise Conflict("The corpus has got other references meanwhile: send these again.")
    number = corpus.references_version + 1
    connection.execute(
        insert(corpus_references).values(
            corpus_key=corpus.key, version=number, file=file, documents=documents, sha256=sha256, created_at=db_now()
        )
    )
    connection.execute(update(corpora).where(corpora.c.key == corpus.key).values(references_version=number))
    made = current(connection, corpus.key)
    assert made is not None, "it was just written"
    return made


def remove_superseded(database: Engine, data_dir: Path, *, older: float) -> None:
    """Remove the files of versions that are no longer in force, and of those that nobody was told of, once both the files
    and the version in force are `older` than so many seconds: until then somebody may be reading them."""
    with reading(database) as connection:
        rows = connection.execute(
            select(corpora.c.id, corpus_references.c.file)
            .join(corpora, corpora.c.key == corpus_references.c.corpus_key)
            .where(corpus_references.c.version == corpora.c.references_version)
            .where(corpus_references.c.created_at < db_now() - older)
        ).all()
    for corpus_id, file in rows:
        remove_other_references(store_directory(data_dir, corpus_id), file, older=older)


def _in_force(
    data_dir: Path, corpus_id: str, version: Version | None, store: Store
) -> Iterator[tuple[int, Reference | None]]:
    if version is not None:
        return opened(data_dir, corpus_id, version).between(0)
    return ((document.position, document.reference) for document in store.documents())


def _require_ready(corpus: Corpus) -> None:
    if corpus.status == "validating":
        raise Conflict("The corpus is still being read; attach references when its status is `ready`.")
    if corpus.status == "rejected":
        raise Conflict("The corpus was rejected: it holds no document that a reference could be of.")


def _version(row: Row[tuple[int, str, int, str, float]]) -> Version:
    return Version(**row._mapping)
