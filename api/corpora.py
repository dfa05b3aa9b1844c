"""Routes of corpora: upload, list, look, delete; and the references that are attached to one later.

Knows requests and answers. Must not know formats or how a store is laid out.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from typing import Any

from flask import Response, request
from flask_openapi.models.request_body import RequestBody

import db.corpora as rows
import db.idempotency as keys
from api import uploads
from api.blueprint import answer, cursor_key
from api.blueprint import blueprint as make_blueprint
from api.idempotency import idempotency_of, key_of
from api.schemas import (
    CorpusList,
    CorpusPath,
    CorpusResponse,
    DocumentList,
    IngestErrorList,
    PageQuery,
    ReferencesList,
    ReferencesResponse,
    UploadQuery,
)  # fmt: skip
from api.state import State, state
from api.views import corpus_view, document_view, keyset_view, page_view, version_view
from corpora import Format, Store, Upload, upload_of
from corpusmill.errors import InvalidRequest, UnsupportedFormat
from corpusmill.ids import new_id
from db import files, ingest, references
from db.engine import Connection, reading, settle, transact

blueprint = make_blueprint("corpora", "Uploaded, immutable, ordered sets of documents.")

#: How long an upload's answer waits for the ingest of a large file; after that the corpus is still `validating`.
INGEST_WAIT_SECONDS = 20.0

_MEDIA_TYPES = (
    "application/x-ndjson", "application/jsonl", "text/csv", "text/tab-separated-values",
    "application/vnd.apache.parquet", "text/plain", "application/zip",
)  # fmt: skip
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}
}


@blueprint.post(
    "/corpora",
    responses={201: CorpusResponse},
    request_body=RequestBody(
        required=True,
        content={**dict.fromkeys(_MEDIA_TYPES, _BINARY), "multipart/form-data": _FORM},
    ),
)
def upload(query: UploadQuery) -> Response:
    """Upload a corpus

    The body is the file; its Content-Type gives the format, and `Content-Encoding: gzip` or `zstd` is honoured. The answer
    comes when the documents are read, or for a very large file with the status `validating`. With an `Idempotency-Key` a
    repetition of the same file within 24 hours answers with the first corpus; once that is deleted, with a 410."""
    here = state()
    most = here.settings.max_upload_bytes
    key_of(request)  # a bad key is refused before the file comes
    file = uploads.incoming(request, most=most)
    kind = upload_of(file.content_type, file.encoding, file.filename)
    corpus_id = new_id("corpus")
    path = rows.upload_path(here.data_dir, corpus_id)
    files.make_folders(here.database, here.data_dir)
    received = uploads.receive(file, path, most=most)
    once = idempotency_of(request, f"{kind.format} {kind.encoding} {received.sha256}")

    def write(connection: Connection) -> str:
        if once is not None and not keys.claim(connection, once.key, once.fingerprint, corpus_id):
            made = keys.recall(connection, once.key, once.fingerprint)
            if made is not None and made.id != corpus_id:
                return made.id
        rows.create(
            connection, id=corpus_id, name=query.name or file.filename, format=kind.format, encoding=kind.encoding,
            bytes=received.bytes, sha256=received.sha256, options=query.model_dump(exclude={"name", "ttl_seconds"}),
            ttl=query.ttl_seconds or here.settings.corpus_ttl_seconds or None,
        )  # fmt: skip
        return corpus_id

    try:
        made = transact(here.database, write)
        if made != corpus_id:
            files.remove_corpus(here.data_dir, corpus_id)
            return _created(here, made)
        _ingest(here, corpus_id, received.bytes, kind)
        return _created(here, corpus_id)
    except Exception:  # whatever it is: who is not told of a corpus sends the file again
        files.take_back(here.database, here.data_dir, corpus_id, key=once.key if once is not None else None)
        raise


def _created(here: State, corpus_id: str) -> Response:
    with reading(here.database) as connection:
        corpus = rows.get(connection, corpus_id)
    return answer(corpus_view(corpus), 201, Location=f"/api/v1/corpora/{corpus_id}")


def _ingest(here: State, corpus_id: str, size: int, kind: Upload) -> None:
    if ingest.fits_in_process(size, kind):
        ingest.run(here.database, here.settings, corpus_id)
        return
    child = ingest.spawn(here.settings, corpus_id)
    # After the wait it goes on by itself, and the sweeper begins again should it be cut off.
    with suppress(subprocess.TimeoutExpired):
        child.wait(INGEST_WAIT_SECONDS)


@blueprint.get("/corpora", responses={200: CorpusList})
def list_corpora(query: PageQuery) -> dict[str, Any]:
    """List corpora, newest first"""
    with reading(state().database) as connection:
        found = rows.page(connection, before=cursor_key(query.cursor), limit=query.limit + 1)
    return keyset_view(found, query.limit, corpus_view, lambda corpus: corpus.key)


@blueprint.get("/corpora/<string:corpus_id>", responses={200: CorpusResponse})
def get_corpus(path: CorpusPath) -> dict[str, Any]:
    """A corpus"""
    with reading(state().database) as connection:
        return corpus_view(rows.get(connection, path.corpus_id))


@blueprint.get("/corpora/<string:corpus_id>/documents", responses={200: DocumentList})
def list_documents(path: CorpusPath, query: PageQuery) -> dict[str, Any]:
    """The documents of a corpus, by position

    Where files of the corpus are damaged or gone, the answer is a 409 (`corpus_damaged`)."""
    store, start = _store(path.corpus_id), cursor_key(query.cursor) or 0
    stop = min(len(store), start + query.limit)
    with reading(state().database) as connection:
        version = references.current(connection, rows.get(connection, path.corpus_id).key)
    read = store.documents(start, stop) if start < stop else iter(())
    with files.expected(state().database, state().data_dir, path.corpus_id):
        documents = [
            document_view(document) for document in references.attached(state().data_dir, path.corpus_id, version, read)
        ]
    return page_view(documents, str(stop) if stop < len(store) else None)


@blueprint.get("/corpora/<string:corpus_id>/errors", responses={200: IngestErrorList})
def list_errors(path: CorpusPath, query: PageQuery) -> dict[str, Any]:
    """The lines of an upload that are no documents, in order"""
    store, start = _store(path.corpus_id), cursor_key(query.cursor) or 0
    with files.expected(state().database, state().data_dir, path.corpus_id):
        found = [
            {"line": error.line, "column": error.column, "code": error.code, "message": error.message}
            for error in store.errors(start, query.limit + 1)
        ]
    shown = found[: query.limit]
    return page_view(shown, str(start + len(shown)) if len(found) > query.limit else None)


_LINES = RequestBody(required=True, content={**dict.fromkeys(_MEDIA_TYPES[:2], _BINARY), "multipart/form-data": _FORM})


@blueprint.put("/corpora/<string:corpus_id>/references", responses={200: ReferencesResponse}, request_body=_LINES)
def put_references(path: CorpusPath) -> dict[str, Any]:
    """Attach references to a corpus, in the place of those that it has

    JSON Lines of `{"id", "reference"}` or `{"position", "reference"}`. All of them become a new version, and metrics of the
    corpus's jobs are computed again; or none does, and the answer names the lines that cannot be used. An id that several
    documents have names none of them: give positions there. Documents that no line names have no reference afterwards; the
    same references again make no new version."""
    return _attach(path.corpus_id, keep=False)


@blueprint.patch("/corpora/<string:corpus_id>/references", responses={200: ReferencesResponse}, request_body=_LINES)
def patch_references(path: CorpusPath) -> dict[str, Any]:
    """Add to the references of a corpus

    The same lines; documents that none names keep the reference that they have, and `null` takes one away."""
    return _attach(path.corpus_id, keep=True)


def _attach(corpus_id: str, *, keep: bool) -> dict[str, Any]:
    here = state()
    with reading(here.database) as connection:
        rows.get(connection, corpus_id)  # before anything is received
    most = here.settings.max_upload_bytes
    file = uploads.incoming(request, most=most)
    kind = upload_of(file.content_type, file.encoding, file.filename)
    if kind.format is not Format.JSONL:
        raise UnsupportedFormat("References are JSON Lines: send them as `Content-Type: application/x-ndjson`.")
    files.make_folders(here.database, here.data_dir)
    body = rows.upload_path(here.data_dir, new_id("references"))
    try:
        uploads.receive(file, body, most=most)
        with files.expected(here.database, here.data_dir, corpus_id):
            made = references.attach(here.database, here.settings, corpus_id, body, kind.encoding, keep=keep)
    finally:
        body.unlink(missing_ok=True)
    return version_view(corpus_id, made)


@blueprint.get("/corpora/<string:corpus_id>/references", responses={200: ReferencesList})
def list_references(path: CorpusPath, query: PageQuery) -> dict[str, Any]:
    """The versions of references that were attached to a corpus, newest first"""
    with reading(state().database) as connection:
        corpus = rows.get(connection, path.corpus_id)
        found = references.versions(connection, corpus.key, before=cursor_key(query.cursor), limit=query.limit + 1)
    return keyset_view(found, query.limit, lambda made: version_view(corpus.id, made), lambda made: made.version)


@blueprint.delete("/corpora/<string:corpus_id>", responses={204: None})
def delete_corpus(path: CorpusPath) -> Response:
    """Delete a corpus that no open job uses, and what is kept of its texts

    Its documents are gone when this is answered; the outputs that jobs with `reuse` kept of its texts follow within moments,
    whichever corpus they came from. Jobs over it that have ended keep their results."""
    here = state()
    files.delete_corpus(here.database, here.data_dir, path.corpus_id)
    settle(here.database)
    return Response(status=204)


def _store(corpus_id: str) -> Store:
    here = state()
    with reading(here.database) as connection:
        corpus = rows.get(connection, corpus_id)
    if corpus.status == "validating":
        raise InvalidRequest("The corpus is still being read; ask again when its status is `ready`.", code="validating")
    with files.expected(here.database, here.data_dir, corpus_id):
        return Store(rows.store_directory(here.data_dir, corpus_id))
