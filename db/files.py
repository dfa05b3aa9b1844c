"""Files that belong to rows: made before the row says so, removed after it is gone.

Knows where uploads and stores lie, and what is to be deleted with a job. Must not know what is in them.
"""

from __future__ import annotations

import time
from pathlib import Path

from sqlalchemy import Connection, select

from corpora import remove_store
from corpusmill.errors import NotFound
from db import jobs
from db.corpora import Corpus, store_directory, upload_path
from db.engine import Engine, transact
from db.tables import corpora

#: A file without a row may be one whose row is about to be committed: only older ones are orphans.
ORPHAN_SECONDS = 3_600.0


def remove_corpus(data_dir: Path, corpus_id: str) -> None:
    """Delete a corpus's files, whole or half-made."""
    upload = upload_path(data_dir, corpus_id)
    for path in (upload, upload.with_suffix(".part")):
        path.unlink(missing_ok=True)
    remove_store(store_directory(data_dir, corpus_id))


def remove_job(database: Engine, data_dir: Path, job_id: str, *, expired_only: bool = False) -> None:
    """Delete a job with its results and metrics, and the files of its inline documents. Raises NotFound."""
    removed: list[Corpus | None] = []

    def write(connection: Connection) -> None:
        try:
            removed.append(jobs.remove(connection, job_id, expired_only=expired_only))
        except NotFound:
            if not removed:  # else this is a repetition after a commit whose answer was lost
                raise

    transact(database, write)
    corpus = removed[-1]
    if corpus is not None:
        remove_corpus(data_dir, corpus.id)


def orphans(connection: Connection, data_dir: Path) -> list[str]:
    """Ids of corpora that have files, not new, but no row: an upload or a deletion was cut off."""
    found: set[str] = set()
    for path in [*(data_dir / "uploads").glob("*"), *(data_dir / "corpora").glob("*")]:
        try:
            if ".partial-" not in path.name and time.time() - path.stat().st_mtime > ORPHAN_SECONDS:
                found.add(path.name.removesuffix(".part"))
        except FileNotFoundError:
            continue
    if not found:
        return []
    known = set(connection.scalars(select(corpora.c.id).where(corpora.c.id.in_(found))))
    return sorted(found - known)
