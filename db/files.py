"""Files that belong to rows: made before the row says so, removed after it is gone.

Knows where uploads and stores lie, and what is to be deleted with a job. Must not know what is in them.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, select

from corpora import remove_store
from corpusmill.errors import CorpusDamaged, NotFound
from db import corpora as corpus_rows
from db import forgetting, jobs
from db.corpora import Corpus, store_directory, upload_path
from db.engine import Engine, transact
from db.tables import corpora

#: A file without a row may be one whose row is about to be committed: only older ones are orphans.
ORPHAN_SECONDS = 3_600.0


def gone(data_dir: Path, corpus_id: str) -> CorpusDamaged:
    """What to say of a corpus whose files are not where they belong, though its row is there. Raises FileNotFoundError where
    the folder of all corpora is not there either: it is not this corpus's, but this machine's."""
    if not (folder := store_directory(data_dir, corpus_id).parent).exists():
        raise FileNotFoundError(
            errno.ENOENT,
            "No corpora here: CORPUSMILL_DATA_DIR must name the directory that the API writes to",
            str(folder),
        )
    return CorpusDamaged(f"The files of {corpus_id} are no longer in the data directory; upload the corpus again.")


def remove_corpus(data_dir: Path, corpus_id: str) -> None:
    """Delete a corpus's files, whole or half-made."""
    upload = upload_path(data_dir, corpus_id)
    for path in (upload, upload.with_suffix(".part")):
        path.unlink(missing_ok=True)
    remove_store(store_directory(data_dir, corpus_id))


def remove_job(database: Engine, data_dir: Path, job_id: str, *, expired_only: bool = False) -> None:
    """Delete a job with its results and metrics, and the files of its inline documents. What is kept of their texts is
    forgotten, unless it is their time that is over. Raises NotFound."""
    _remove(
        database, data_dir, lambda connection: jobs.remove(connection, job_id, expired_only=expired_only),
        forget=not expired_only,
    )  # fmt: skip


def delete_corpus(database: Engine, data_dir: Path, corpus_id: str) -> None:
    """Delete a corpus with its files, and have what is kept of its texts forgotten. Raises NotFound, and Conflict while a
    job that has not ended uses it."""
    _remove(database, data_dir, lambda connection: corpus_rows.remove(connection, corpus_id), forget=True)


def _remove(
    database: Engine, data_dir: Path, remove: Callable[[Connection], Corpus | None], *, forget: bool
) -> None:  # fmt: skip
    """Delete rows, and the files of the corpus that goes with them, if one does. Documents that are needed to find what is
    kept of their texts only leave the sight of readers."""
    removed: list[tuple[Corpus | None, bool]] = []

    def write(connection: Connection) -> None:
        try:
            corpus = remove(connection)
        except NotFound:
            if not removed:  # else this is a repetition after a commit whose answer was lost
                raise
        else:
            removed.append((corpus, forget and corpus is not None and forgetting.mark(connection, corpus)))

    transact(database, write)
    corpus, needed = removed[-1]
    if corpus is not None:
        if needed:
            forgetting.hide(data_dir, corpus.id)
        remove_corpus(data_dir, corpus.id)


def remove_read(connection: Connection, data_dir: Path) -> None:
    """Delete uploads, not new, of corpora that are read: their reader was cut off before it could."""
    found = _old(data_dir / "uploads")
    query = select(corpora.c.id).where(corpora.c.id.in_(found), corpora.c.status != "validating")
    for corpus_id in connection.scalars(query) if found else ():
        upload_path(data_dir, corpus_id).unlink(missing_ok=True)


def orphans(connection: Connection, data_dir: Path) -> list[str]:
    """Ids of corpora that have files, not new, but no row: an upload or a deletion was cut off."""
    found = _old(data_dir / "uploads") | _old(data_dir / "corpora")
    if not found:
        return []
    known = set(connection.scalars(select(corpora.c.id).where(corpora.c.id.in_(found))))
    return sorted(found - known - set(forgetting.waiting(connection)))


def _old(folder: Path) -> set[str]:
    """Ids of the corpora whose files in a folder are older than an hour."""
    found: set[str] = set()
    for path in folder.glob("*"):
        try:
            if ".partial-" not in path.name and time.time() - path.stat().st_mtime > ORPHAN_SECONDS:
                found.add(path.name.removesuffix(".part"))
        except FileNotFoundError:
            continue
    return found
