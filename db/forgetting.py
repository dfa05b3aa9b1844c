"""Deleted corpora of whose texts outputs are kept for others, until these are forgotten too.

A deletion writes a mark and is done; sweepers then go through the texts, in slices, and remove the documents with the mark.
Knows the table `forgetting`, and where the documents lie meanwhile. Must not know how outputs are kept: `db.reuse` does.
"""

from __future__ import annotations

import errno
import time
from contextlib import suppress
from pathlib import Path

import structlog
from sqlalchemy import Connection, delete, insert, select, update

from corpora import Store, remove_store
from corpusmill.errors import CorpusmillError
from corpusmill.texts import text_hash
from db import reuse
from db.corpora import Corpus, store_directory
from db.engine import Engine, reading, transact
from db.tables import forgetting

log = structlog.get_logger(__name__)

#: In one transaction.
_TEXTS_AT_ONCE = 1_000


def folder(data_dir: Path) -> Path:
    """Where documents of deleted corpora lie until their texts are forgotten: out of the sight of all that reads corpora."""
    return data_dir / "forgetting"


def mark(connection: Connection, corpus: Corpus) -> bool:
    """Have the outputs kept of a corpus's texts forgotten, in the transaction that deletes it. Returns whether its documents
    are needed for that: not where nothing is kept of any text, or where it has none."""
    if corpus.status != "ready" or not reuse.keeps_any(connection):
        return False
    connection.execute(insert(forgetting).values(corpus_id=corpus.id))
    return True


def waiting(connection: Connection) -> list[str]:
    """Ids of the deleted corpora whose texts are still to be forgotten."""
    return list(connection.scalars(select(forgetting.c.corpus_id).order_by(forgetting.c.corpus_id)))


def hide(data_dir: Path, corpus_id: str) -> None:
    """Move a deleted corpus's documents to where they wait; nothing happens where that was done. Raises FileNotFoundError
    where the folder of all corpora is not there: a file system that is not mounted has them."""
    store, hidden = store_directory(data_dir, corpus_id), folder(data_dir) / corpus_id
    if not store.parent.exists():
        raise FileNotFoundError(errno.ENOENT, "No corpora here: is their file system mounted?", str(store.parent))
    folder(data_dir).mkdir(exist_ok=True)
    if not hidden.exists():
        with suppress(FileNotFoundError):
            store.rename(hidden)
    elif store.exists():  # made again by somebody who read the upload and did not know of the deletion
        remove_store(store)


def go_on(database: Engine, data_dir: Path, corpus_id: str, *, seconds: float) -> bool:
    """Forget a deleted corpus's texts, from where that was left on, and remove its documents. Returns whether it is done, or
    has to go on another time because `seconds` are over. Any number of programs may be at it. Raises OSError."""
    until = time.monotonic() + seconds
    hide(data_dir, corpus_id)
    with reading(database) as connection:
        position = connection.scalar(select(forgetting.c.position).where(forgetting.c.corpus_id == corpus_id))
    if position is None:
        return True
    while hashes := _readable(folder(data_dir) / corpus_id, position):
        position += len(hashes)
        transact(
            database,
            lambda connection, hashes=hashes, position=position: _forget(connection, corpus_id, hashes, position),  # type: ignore[misc]
        )
        if time.monotonic() > until:
            return False
    transact(database, reuse.forget_empty_scopes)
    remove_store(folder(data_dir) / corpus_id)
    transact(
        database, lambda connection: connection.execute(delete(forgetting).where(forgetting.c.corpus_id == corpus_id))
    )
    return True


def remove_strays(database: Engine, data_dir: Path) -> None:
    """Remove what lies among the documents that wait and is not needed: a removal was cut off."""
    found = list(folder(data_dir).glob("*"))
    with reading(database) as connection:  # after the look: a mark is there before its documents are
        needed = set(waiting(connection))
    for path in found:
        if path.name not in needed:
            remove_store(path)


def hashes_from(store: Store, position: int) -> list[bytes]:
    """Hashes of a corpus's texts from a position on, as many as go into one transaction; none at its end."""
    documents = store.documents(position, position + _TEXTS_AT_ONCE)
    return [text_hash(document.text, document.text_pair) for document in documents]


def _readable(directory: Path, position: int) -> list[bytes]:
    """The same; none either where documents are lost or damaged, since a text that nobody can read is not to be found."""
    try:
        return hashes_from(Store(directory), position)
    except (CorpusmillError, ValueError) as error:
        log.warning("outputs kept of a deleted corpus may be left", corpus=directory.name, why=str(error))
        return []


def _forget(connection: Connection, corpus_id: str, hashes: list[bytes], position: int) -> None:
    reuse.forget_texts(connection, hashes)
    further = (forgetting.c.corpus_id == corpus_id, forgetting.c.position < position)  # than another has come
    connection.execute(update(forgetting).where(*further).values(position=position))
