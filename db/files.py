"""Files that belong to rows: made before the row says so, removed after it is gone.

Knows where uploads and stores lie, and what is to be deleted with a job. Must not know what is in them.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
from sqlalchemy import Connection, select

from corpora import remove_store
from corpora.disk import full_disk_refused
from corpusmill.errors import Conflict, CorpusDamaged, DatabaseUnavailable, NotFound, ResourcesUnavailable
from db import corpora as corpus_rows
from db import forgetting, idempotency, jobs, runs
from db.corpora import Corpus, store_directory, upload_path
from db.engine import Engine, reading, transact
from db.tables import corpora
from db.tables import jobs as job_table

log = structlog.get_logger(__name__)

#: A file without a row may be one whose row is about to be committed: only older ones are orphans.
ORPHAN_SECONDS = 3_600.0
_AT_ONCE = 1_000


def gone(data_dir: Path, corpus_id: str) -> CorpusDamaged:
    """What to say of a corpus whose files are not where they belong, though its row is there. Raises FileNotFoundError where
    the folder of all corpora is not there either: it is not this corpus's, but this machine's."""
    if not (folder := store_directory(data_dir, corpus_id).parent).exists():
        raise FileNotFoundError(
            errno.ENOENT,
            "No corpora here: CORPUSMILL_DATA_DIR must name the directory that the API writes to",
            str(folder),
        )
    return CorpusDamaged(f"Files of {corpus_id} are no longer in the data directory; upload the corpus again.")


def make_folders(database: Engine, data_dir: Path) -> None:
    """Make the folders of uploads and of corpora where there are none yet.

    Raises ResourcesUnavailable where the folder of all corpora is missing though there are some: its file system is not
    mounted, which would hide what is put there until it is, and an empty folder would look as if all of them were lost.
    """
    stores = data_dir / "corpora"
    if not stores.exists():
        with reading(database) as connection:
            if connection.scalar(select(corpora.c.key).limit(1)) is not None:
                raise _unmounted()
    with full_disk_refused():
        for folder in (stores, data_dir / "uploads"):
            folder.mkdir(parents=True, exist_ok=True)


def _unmounted() -> ResourcesUnavailable:
    return ResourcesUnavailable("The folder of all corpora is not there now: is its file system mounted?")


def remove_corpus(data_dir: Path, corpus_id: str) -> None:
    """Delete a corpus's files, whole or half-made."""
    upload = upload_path(data_dir, corpus_id)
    for path in (upload, upload.with_suffix(".part")):
        path.unlink(missing_ok=True)
    remove_store(store_directory(data_dir, corpus_id))


def take_back(database: Engine, data_dir: Path, corpus_id: str, *, key: str | None = None) -> None:
    """Leave nothing of documents that came with a request which is refused, nor the idempotency `key` that names them: the
    caller is told to send them again, or why not to.

    The files go after the row and the key, and not without them: where those stay, because the database is away or a job
    uses the corpus already, it is read after all, by the sweeper if need be, and is what the key names. Raises nothing that
    would hide why the request is refused.
    """

    def write(connection: Connection) -> None:
        corpus_rows.remove(connection, corpus_id)
        if connection.scalar(select(job_table.c.key).where(job_table.c.corpus_id == corpus_id).limit(1)) is not None:
            raise Conflict("A job over it was committed, though the database's answer was lost, and has ended.")
        if key is not None:
            idempotency.forget(connection, key)

    try:
        with suppress(NotFound):  # its row was never committed, or is removed and the answer to that was lost
            transact(database, write)
        remove_corpus(data_dir, corpus_id)
    except (DatabaseUnavailable, Conflict, OSError) as error:  # files without a row are the sweeper's in an hour
        log.warning("documents of a refused request are not taken back", corpus=corpus_id, why=str(error))


@contextmanager
def expected(database: Engine, data_dir: Path, corpus_id: str) -> Iterator[None]:
    """Files of a corpus are expected to be there while its row says that it is ready: where they are gone it is damaged.

    What is read within raises CorpusDamaged then, NotFound where the corpus was rejected or deleted, and
    ResourcesUnavailable where the folder of all corpora is not there.
    """
    try:
        yield
    except NotFound as missing:
        with reading(database) as connection:
            corpus = corpus_rows.get(connection, corpus_id)
        if corpus.status != "ready":  # one that was rejected may have none
            raise
        try:
            raise gone(data_dir, corpus_id) from missing
        except FileNotFoundError as error:
            raise _unmounted() from error


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
            with suppress(FileNotFoundError):  # then it is the sweeper's
                forgetting.hide(data_dir, corpus.id)
        remove_corpus(data_dir, corpus.id)


def remove_read(connection: Connection, data_dir: Path) -> None:
    """Delete uploads, not new, of corpora that are read: their reader was cut off before it could."""
    for some in _parts(_old(data_dir / "uploads")):
        query = select(corpora.c.id).where(corpora.c.id.in_(some), corpora.c.status != "validating")
        for corpus_id in connection.scalars(query):
            upload_path(data_dir, corpus_id).unlink(missing_ok=True)


def orphans(connection: Connection, data_dir: Path) -> list[str]:
    """Ids of corpora that have files, not new, but no row: an upload or a deletion was cut off. The files of a run that has
    not ended are none: reading its source may take hours, and nothing may be written meanwhile."""
    left = _old(data_dir / "uploads") | _old(data_dir / "corpora")
    for some in _parts(left):
        left -= set(connection.scalars(select(corpora.c.id).where(corpora.c.id.in_(some))))
    left -= set(forgetting.waiting(connection))
    read = {runs.corpus_of(run_id) for run_id in runs.unfinished(connection)} if left else ()
    return sorted(corpus_id for corpus_id in left if corpus_id.partition("-")[0] not in read)


def _parts(ids: Set[str]) -> Iterator[list[str]]:
    """Of any number of ids as many at a time as a statement takes parameters."""
    ordered = sorted(ids)
    for start in range(0, len(ordered), _AT_ONCE):
        yield ordered[start : start + _AT_ONCE]


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
