"""Reads an upload into a corpus, once, whoever is cut off in the middle.

Knows the lease on a validating corpus, and when reading belongs in a process of its own: a large or binary file is read by a
child with bounded memory, so that a bomb in it takes nothing else down. `python -m db.ingest ID` is that child.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from corpora import Encoding, Format, IngestSummary, Limits, Options, ReaderKilled, Store, Upload, ingest, remove_store
from corpora.disk import synced
from corpusmill.documents import IngestError
from corpusmill.errors import Conflict, CorpusDamaged, CorpusmillError, DatabaseUnavailable, NotFound, StorageFull
from corpusmill.settings import Settings, environ_of, settings_from
from db import corpora, files, planning
from db.corpora import Corpus, store_directory, upload_path
from db.engine import Connection, Engine, create_engine, reading, transact

log = structlog.get_logger(__name__)

#: Up to this many bytes are read in the process that received them: starting another costs half a second.
IN_PROCESS_BYTES = 8 << 20
LEASE_SECONDS = 30.0
#: Address space of the child: what Arrow and Python map, and room for the largest document many times over.
CHILD_ADDRESS_SPACE = 4 << 30
#: Over which an upload may have killed so many: who comes next rejects it.
MOST_READERS = 3
#: Nobody waits for the child, which can so wait for a database that is away.
_CHILD_PATIENCE_SECONDS = 600.0
#: For children, from when they are told to end. What started this process may kill it and them sooner: gunicorn leaves the
#: API's process one of these seconds, `up` a sweeper six and a half.
_END_SECONDS = 2.0

#: Each change is one step, and each look a copy: neither threads nor the handler of a signal lose one.
_children: set[subprocess.Popen[bytes]] = set()
#: When the children were told to end (`time.monotonic()`), at most once.
_told: list[float] = []


def fits_in_process(size: int, upload: Upload) -> bool:
    """Whether an upload of `size` bytes may be read without a child of its own."""
    return size <= IN_PROCESS_BYTES and upload.encoding is None and upload.format not in {Format.PARQUET, Format.ZIP}


def spawn(settings: Settings, corpus_id: str) -> subprocess.Popen[bytes]:
    """Start a child that reads the upload; it holds the lease itself and needs nobody to wait for it. When this process
    ends in order or is told to (`end_readers`), so is the child: what a supervisor then kills would count as lost."""
    child = subprocess.Popen(
        [sys.executable, "-m", "db.ingest", corpus_id],
        env={**os.environ, **environ_of(settings)},
        stdin=subprocess.DEVNULL,
    )
    _children.add(child)
    if _told:
        child.terminate()
    for other in tuple(_children):
        if other.poll() is not None:
            _children.discard(other)
    return child


def end_readers() -> None:
    """Tell the children of this process to end, and those that it may start from now on. Waits for none, and may be called
    in the handler of a signal."""
    if not _told:
        _told.append(time.monotonic())
        for child in tuple(_children):
            child.terminate()


@atexit.register
def _end_children() -> None:
    end_readers()  # where no signal has come
    until = _told[0] + _END_SECONDS
    for child in tuple(_children):
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, until - time.monotonic()))


def run(
    database: Engine, settings: Settings, corpus_id: str, *, lost: Callable[[], None] | None = None,
    patience: float = 10.0,
) -> None:  # fmt: skip
    """Read the upload of a validating corpus, unless somebody else is at it, and plan the jobs that wait for it.

    Any number of readers may come to the end: whole stores of one upload are alike, so the first stays where it is, and one
    reader's outcome is written. `lost` is called, in another thread, once the lease is known to be another's. A reader that
    ends without an outcome says so to a database that is away for `patience` seconds, lest it count as killed; one whose
    process for Parquet was killed counts. Raises ReaderKilled then, other OSError and StorageFull where the machine fails.
    """
    owner = f"{os.uname().nodename}:{os.getpid()}:{os.urandom(6).hex()}"
    try:
        corpus = transact(
            database, lambda connection: corpora.claim(connection, corpus_id, owner=owner, lease=LEASE_SECONDS)
        )
    except BaseException:
        _leave(database, corpus_id, owner, patience, claimed=False)  # it may have been committed all the same
        raise
    if corpus is None:
        return
    ended, finished, killed = threading.Event(), False, False
    try:
        _start(threading.Thread(target=_keep, args=(database, corpus_id, owner, ended, lost), daemon=True))
        finished = _finish(database, settings, corpus, owner, _outcome(settings, corpus))
    except ReaderKilled:
        killed = True
        raise
    finally:
        ended.set()
        if not finished and not killed:
            _leave(database, corpus_id, owner, patience, claimed=True)
    if finished:  # else whoever has the lease needs the upload
        upload_path(settings.data_dir, corpus_id).unlink(missing_ok=True)
        planning.plan_waiting(database, settings, corpus_id)


def run_inline(database: Engine, settings: Settings, corpus_id: str, body: bytes) -> None:
    """Make a ready corpus of the JSON lines that came in the body of a job.

    Raises OSError, StorageFull and ResourcesUnavailable where the disk does not take it, and DatabaseUnavailable. The caller
    then takes back what is there by then (`db.files.take_back`).
    """
    path = upload_path(settings.data_dir, corpus_id)
    files.make_folders(database, settings.data_dir)
    path.write_bytes(body)
    transact(
        database,
        lambda connection: corpora.create(
            connection, id=corpus_id, name=None, format="jsonl", encoding=None, bytes=len(body),
            sha256=hashlib.sha256(body).hexdigest(), options={}, inline=True,
        ),
    )  # fmt: skip
    run(database, settings, corpus_id)


def errors_of(settings: Settings, corpus_id: str, most: int) -> list[IngestError]:
    """The first ingest errors of a corpus."""
    return list(Store(store_directory(settings.data_dir, corpus_id)).errors(0, most))


def _start(thread: threading.Thread) -> None:
    try:
        thread.start()
    except RuntimeError as error:  # as Python says it; to whoever asked it is the machine's, for now
        raise OSError(errno.EAGAIN, "no thread can be started") from error


def _outcome(settings: Settings, corpus: Corpus) -> dict[str, Any]:
    """What is to be written of the corpus, whose store is in place where it is ready. Raises what another reader may mend:
    StorageFull and OSError."""
    if corpus.readers_lost >= MOST_READERS and not store_directory(settings.data_dir, corpus.id).exists():
        log.error("giving up an upload", corpus=corpus.id, readers_lost=corpus.readers_lost)
        return _rejected(
            "reader_lost", f"Whatever read it was killed, {MOST_READERS} times: for want of memory, as a rule."
        )
    try:
        summary = _stored(settings, corpus)
    except StorageFull:
        raise  # nothing is wrong with the upload: it is read again when there is room
    except FileNotFoundError:
        upload, store = upload_path(settings.data_dir, corpus.id), store_directory(settings.data_dir, corpus.id)
        if upload.exists() or not (upload.parent.exists() and store.parent.exists()):
            raise  # something else is missing: a temporary directory, a file system that is not mounted
        return _rejected("upload_lost", "The upload was not kept: send it again.")
    except CorpusmillError as error:
        return _rejected(error.code, str(error))
    except OSError:
        raise  # the machine's, which may read it another time
    except Exception as error:  # noqa: BLE001 — logged, but for what it says: that may quote the upload
        kind, place = type(error).__name__, traceback.extract_tb(error.__traceback__)[-1]
        log.error("the reader of an upload failed", corpus=corpus.id, why=kind, at=f"{place.filename}:{place.lineno}")
        return _rejected("reader_failed", f"Its reader failed with {kind}; the log of the server says where.")
    empty = _reason("no_documents", "It holds no document that can be used.") if not summary.documents else None
    return {
        "status": "rejected" if empty else "ready", "documents": summary.documents, "invalid": summary.invalid,
        "fields": list(summary.fields), "error": empty,
    }  # fmt: skip


def _stored(settings: Settings, corpus: Corpus) -> IngestSummary:
    """What the corpus's store holds, which is made where there is none. A store that is there stays: it is whole, and its
    reader was cut off before it could say so, or has said so and documents are being read from it."""
    target = store_directory(settings.data_dir, corpus.id)
    there = target.exists()  # asked before: a store that comes now is another reader's
    try:
        return _in_place(target)
    except (NotFound, CorpusDamaged):
        if there:  # damaged by the disk: it was whole when it was put there, and can be made again
            if not upload_path(settings.data_dir, corpus.id).exists():
                raise
            remove_store(target)
    limits = Limits(
        max_upload_bytes=settings.max_upload_bytes,
        max_document_bytes=settings.max_document_bytes,
        max_expansion=settings.max_expansion,
        parquet_seconds=settings.parquet_seconds,
    )
    upload = Upload(Format(corpus.format), Encoding(corpus.encoding) if corpus.encoding else None)
    try:
        return ingest(
            upload_path(settings.data_dir, corpus.id), upload, Options(**corpus.options, limits=limits), target
        )
    except Conflict:  # another reader was faster
        return _in_place(target)


def _in_place(target: Path) -> IngestSummary:
    summary = Store(target).summary
    synced(target.parent)  # which its reader may not have come to
    return summary


def _finish(database: Engine, settings: Settings, corpus: Corpus, owner: str, outcome: dict[str, Any]) -> bool:
    """Write the outcome, unless the lease is another's by now. Returns whether it is written."""
    finished = transact(
        database, lambda connection: corpora.finish(connection, corpus.id, owner=owner, **outcome), patience=120.0
    )
    if finished:  # whoever deletes it from now on finds all of it
        return True
    with reading(database) as connection:
        deleted = not corpora.exists(connection, corpus.id)
    if deleted:  # while it was read, with what was there by then
        remove_store(store_directory(settings.data_dir, corpus.id))
    return False


def _leave(database: Engine, corpus_id: str, owner: str, patience: float, *, claimed: bool) -> None:
    """Say of a reader without an outcome that it was not killed, whether its claim still holds, was another's meanwhile, or
    may never have been committed."""

    def write(connection: Connection) -> None:
        if not corpora.leave(connection, corpus_id, owner=owner) and claimed:
            corpora.uncount(connection, corpus_id)

    try:
        transact(database, write, patience=patience)
    except DatabaseUnavailable as error:
        log.warning("a reader that was not killed counts as lost", corpus=corpus_id, why=str(error))


def _rejected(code: str, message: str) -> dict[str, Any]:
    return {"status": "rejected", "documents": 0, "invalid": 0, "fields": [], "error": _reason(code, message)}


def _reason(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}


def _keep(
    database: Engine, corpus_id: str, owner: str, ended: threading.Event, lost: Callable[[], None] | None
) -> None:
    while not ended.wait(LEASE_SECONDS / 3):
        try:
            held = transact(
                database, lambda connection: corpora.renew(connection, corpus_id, owner=owner, lease=LEASE_SECONDS)
            )
        except DatabaseUnavailable as error:
            log.warning("lease of an ingest not renewed", corpus=corpus_id, why=str(error))
            continue
        if not held:
            log.warning("an ingest is left to others", corpus=corpus_id)
            if lost is not None and not ended.is_set():
                lost()
            return


def _end(number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # told a second time, it would not come to say that it was not killed
    sys.exit(128 + number)


def main() -> None:
    """The child: read one upload under a limit on memory, until SIGTERM."""
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_ADDRESS_SPACE, CHILD_ADDRESS_SPACE))
    signal.signal(signal.SIGTERM, _end)
    settings = settings_from(os.environ)
    run(
        create_engine(settings.database), settings, sys.argv[1],
        lost=lambda: os.kill(os.getpid(), signal.SIGTERM), patience=_CHILD_PATIENCE_SECONDS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
