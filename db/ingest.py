"""Reads an upload into a corpus, once, whoever is cut off in the middle.

Knows the lease on a validating corpus, and when reading belongs in a process of its own: a large or binary file is read by a
child with bounded memory, so that a bomb in it takes nothing else down. `python -m db.ingest ID` is that child.
"""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import threading
import traceback
from typing import Any

import structlog

from corpora import Encoding, Format, Limits, Options, Store, Upload, ingest, remove_store
from corpusmill.documents import IngestError
from corpusmill.errors import Conflict, CorpusmillError, DatabaseUnavailable, StorageFull
from corpusmill.settings import Settings, environ_of, settings_from
from db import corpora, planning
from db.corpora import Corpus, store_directory, upload_path
from db.engine import Engine, create_engine, reading, transact

log = structlog.get_logger(__name__)

#: Up to this many bytes are read in the process that received them: starting another costs half a second.
IN_PROCESS_BYTES = 8 << 20
LEASE_SECONDS = 30.0
#: Address space of the child: what Arrow and Python map, and room for the largest document many times over.
CHILD_ADDRESS_SPACE = 4 << 30


def fits_in_process(size: int, upload: Upload) -> bool:
    """Whether an upload of `size` bytes may be read without a child of its own."""
    return size <= IN_PROCESS_BYTES and upload.encoding is None and upload.format not in {Format.PARQUET, Format.ZIP}


def spawn(settings: Settings, corpus_id: str) -> subprocess.Popen[bytes]:
    """Start a child that reads the upload; it holds the lease itself and needs nobody to wait for it."""
    return subprocess.Popen(
        [sys.executable, "-m", "db.ingest", corpus_id],
        env={**os.environ, **environ_of(settings)},
        stdin=subprocess.DEVNULL,
    )


def run(database: Engine, settings: Settings, corpus_id: str) -> None:
    """Read the upload of a validating corpus, unless somebody else is at it, and plan the jobs that wait for it."""
    owner, corpus = _claim(database, corpus_id)
    if corpus is None:
        return
    ended = threading.Event()
    threading.Thread(target=_keep, args=(database, corpus_id, owner, ended), daemon=True).start()
    try:
        _read(database, settings, corpus, owner)
    finally:
        ended.set()
    upload_path(settings.data_dir, corpus_id).unlink(missing_ok=True)
    planning.plan_waiting(database, settings, corpus_id)


def give_up(database: Engine, settings: Settings, corpus_id: str, *, deaths: int) -> None:
    """Reject a validating corpus whose readers were killed so many times, unless somebody is at it, with its jobs."""
    owner, corpus = _claim(database, corpus_id)
    if corpus is None:
        return
    outcome = _rejected("reader_lost", f"Whatever read it was killed, {deaths} times: for want of memory, as a rule.")
    transact(database, lambda connection: corpora.finish(connection, corpus_id, owner=owner, **outcome))
    upload_path(settings.data_dir, corpus_id).unlink(missing_ok=True)
    planning.plan_waiting(database, settings, corpus_id)


def run_inline(database: Engine, settings: Settings, corpus_id: str, body: bytes) -> None:
    """Make a ready corpus of the JSON lines that came in the body of a job.

    Raises OSError and StorageFull where the disk does not take it, DatabaseUnavailable, and Conflict where another reader
    has stored it meanwhile. The caller then takes back what is there by then (`db.files.take_back`).
    """
    path = upload_path(settings.data_dir, corpus_id)
    path.parent.mkdir(parents=True, exist_ok=True)
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


def _claim(database: Engine, corpus_id: str) -> tuple[str, Corpus | None]:
    owner = f"{os.uname().nodename}:{os.getpid()}:{os.urandom(6).hex()}"
    return owner, transact(
        database, lambda connection: corpora.claim(connection, corpus_id, owner=owner, lease=LEASE_SECONDS)
    )


def _read(database: Engine, settings: Settings, corpus: Corpus, owner: str) -> None:
    target = store_directory(settings.data_dir, corpus.id)
    remove_store(target)  # whole, but its reader was cut off before it could say so
    limits = Limits(
        max_upload_bytes=settings.max_upload_bytes,
        max_document_bytes=settings.max_document_bytes,
        max_expansion=settings.max_expansion,
        parquet_seconds=settings.parquet_seconds,
    )
    upload = Upload(Format(corpus.format), Encoding(corpus.encoding) if corpus.encoding else None)
    outcome: dict[str, Any]
    try:
        summary = ingest(
            upload_path(settings.data_dir, corpus.id), upload, Options(**corpus.options, limits=limits), target
        )
    except (StorageFull, Conflict):
        raise  # nothing is wrong with the upload: it is read again when there is room
    except FileNotFoundError:
        outcome = _rejected("upload_lost", "The upload was not kept: send it again.")
    except CorpusmillError as error:
        outcome = _rejected(error.code, str(error))
    except OSError:
        raise  # the machine's, which may read it another time
    except Exception as error:  # noqa: BLE001 — logged, but for what it says: that may quote the upload
        kind, place = type(error).__name__, traceback.extract_tb(error.__traceback__)[-1]
        log.error("the reader of an upload failed", corpus=corpus.id, why=kind, at=f"{place.filename}:{place.lineno}")
        outcome = _rejected("reader_failed", f"Its reader failed with {kind}; the log of the server says where.")
    else:
        empty = _reason("no_documents", "It holds no document that can be used.") if not summary.documents else None
        outcome = {
            "status": "rejected" if empty else "ready", "documents": summary.documents, "invalid": summary.invalid,
            "fields": list(summary.fields), "error": empty,
        }  # fmt: skip
    finished = transact(
        database, lambda connection: corpora.finish(connection, corpus.id, owner=owner, **outcome), patience=120.0
    )
    if finished:  # whoever deletes it from now on finds all of it
        return
    with reading(database) as connection:
        if not corpora.exists(connection, corpus.id):  # deleted while it was read, with what was there by then
            remove_store(target)


def _rejected(code: str, message: str) -> dict[str, Any]:
    return {"status": "rejected", "documents": 0, "invalid": 0, "fields": [], "error": _reason(code, message)}


def _reason(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}


def _keep(database: Engine, corpus_id: str, owner: str, ended: threading.Event) -> None:
    while not ended.wait(LEASE_SECONDS / 3):
        try:
            transact(
                database, lambda connection: corpora.renew(connection, corpus_id, owner=owner, lease=LEASE_SECONDS)
            )
        except DatabaseUnavailable as error:
            log.warning("lease of an ingest not renewed", corpus=corpus_id, why=str(error))


def main() -> None:
    """The child: read one upload under a limit on memory."""
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_ADDRESS_SPACE, CHILD_ADDRESS_SPACE))
    settings = settings_from(os.environ)
    run(create_engine(settings.database), settings, sys.argv[1])


if __name__ == "__main__":
    main()
