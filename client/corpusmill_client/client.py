"""The client: a server's corpora, jobs and models from Python.

Knows the endpoints that make things, and what a source may be. Must not know bytes (`content`) or retries
(`transport`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeGuard

from corpusmill_client.content import Document, UploadBody, UploadProgress, content_of, refuse_frame
from corpusmill_client.corpora import Corpus, rejected
from corpusmill_client.errors import CorpusmillError
from corpusmill_client.jobs import Job
from corpusmill_client.pages import each, path_of
from corpusmill_client.schedules import Schedule
from corpusmill_client.transport import Transport
from corpusmill_client.views import Model, shaped

DEFAULT_URL = "http://127.0.0.1:8000"
#: Documents sent within the job itself, at most, and the bytes of their texts; more become a corpus of their own.
INLINE_DOCUMENTS, INLINE_BYTES = 1000, 1 << 20

Source = str | PathLike[str] | Corpus | IO[Any] | Iterable[Document] | Iterable[bytes]


class Client:
    """A Corpusmill server.

    `url` defaults to CORPUSMILL_URL and then to http://127.0.0.1:8000, `api_key` to CORPUSMILL_API_KEY. Nothing is sent
    before the first call. Usable as a context manager and from several threads. Raises ValueError for a malformed
    address; every call raises CorpusmillError where the server refuses, and ConnectionFailed where none answers.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None) -> None:
        self._transport = Transport(
            url or os.environ.get("CORPUSMILL_URL") or DEFAULT_URL,
            api_key or os.environ.get("CORPUSMILL_API_KEY") or None,
        )

    @property
    def url(self) -> str:
        return self._transport.url

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def upload(
        self,
        source: str | PathLike[str] | IO[Any] | Iterable[Document] | Iterable[bytes],
        *,
        format: str | None = None,
        name: str | None = None,
        text_field: str | None = None,
        text_pair_field: str | None = None,
        id_field: str | None = None,
        reference_field: str | None = None,
        progress: UploadProgress | None = None,
    ) -> Corpus:
        """Uploads a corpus in blocks, whatever its size: a path, an open file, or an iterable of texts or mappings.

        The format is `format` or the extension: .jsonl .ndjson .csv .tsv .parquet .txt .zip, each also with .gz or
        .zst. An upload that breaks off is sent again where its source can be read twice, under the same key, so that
        there is one corpus; what can be read only once is not, and raises ConnectionFailed. The corpus may be
        `validating` or `rejected` when this returns.
        """
        content = content_of(source, format, text_field)
        data = self._transport.parsed(
            self._transport.send(
                "POST",
                "/corpora",
                params={
                    "name": name or content.name,
                    "text_field": text_field,
                    "text_pair_field": text_pair_field,
                    "id_field": id_field,
                    "reference_field": reference_field,
                },
                headers=content.headers,
                body=lambda: UploadBody(content, progress),
                once=True,
                repeatable=content.again,
                read=900.0,
            ),
            having="id",
        )
        return Corpus(self._transport, data)

    def submit(
        self,
        task: str,
        source: Source,
        *,
        model: str,
        revision: str | None = None,
        name: str | None = None,
        priority: int = 0,
        reuse: bool = False,
        metadata: Mapping[str, Any] | None = None,
        format: str | None = None,
        text_field: str | None = None,
        text_pair_field: str | None = None,
        id_field: str | None = None,
        reference_field: str | None = None,
        progress: UploadProgress | None = None,
        params: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Job:
        """Submits a job and returns it at once.

        `source` is a path, a Corpus or its id, an open file, or an iterable of texts or mappings: up to a thousand
        small documents go with the job, more are uploaded as a corpus. The fields say where a document's parts are
        (defaults: `text`, no pair, `id`, `reference`). With `reuse` the outputs of texts that went through the same model
        with the same parameters before are taken as they are, and this job's are kept for others. `params`, and every
        other keyword, are parameters of the task.
        """
        request: dict[str, Any] = {
            "task": task,
            "model": model,
            "revision": revision,
            "name": name,
            "priority": priority or None,
            "reuse": reuse or None,
        }
        request |= {"params": {**(params or {}), **more} or None, "metadata": dict(metadata) if metadata else None}
        fields = {
            "text_field": text_field,
            "text_pair_field": text_pair_field,
            "id_field": id_field,
            "reference_field": reference_field,
        }
        if isinstance(source, str) and source.startswith("corpus_") and not Path(source).exists():
            return self._create(request | {"corpus": source})
        if isinstance(source, Corpus):
            return self._create(request | {"corpus": source.id})
        if format is None and not any(fields.values()) and _is_documents(source):
            documents, source, paired = _inline(source)
            if documents is not None:
                return self._create(request | {"documents": documents})
            fields["text_pair_field"] = "text_pair" if paired else None
        corpus = self.upload(source, format=format, name=name, progress=progress, **fields)
        if corpus.status == "rejected":
            raise rejected(corpus)
        try:
            return self._create(request | {"corpus": corpus.id})
        except CorpusmillError as error:
            error.detail += (
                f" The corpus itself was uploaded and is kept as {corpus.id}: submit that instead of the file."
            )
            raise

    def classify(self, source: Source, *, model: str, **options: Any) -> Job:
        """Submits a classification job; the options are those of `submit` and the task's parameters."""
        return self.submit("classification", source, model=model, **options)

    def summarize(self, source: Source, *, model: str, **options: Any) -> Job:
        """Submits a summarization job; the options are those of `submit` and the task's parameters."""
        return self.submit("summarization", source, model=model, **options)

    def translate(self, source: Source, *, model: str, **options: Any) -> Job:
        """Submits a translation job; the options are those of `submit` and the task's parameters."""
        return self.submit("translation", source, model=model, **options)

    def job(self, id: str) -> Job:
        return Job(self._transport, self._transport.json("GET", path_of("jobs", id), having="id"))

    def jobs(self, *, status: str | None = None, task: str | None = None, limit: int | None = None) -> Iterator[Job]:
        """The jobs in the server's order, page by page as they are asked for."""
        for data in each(self._transport, "/jobs", {"status": status, "task": task}, limit=limit):
            yield Job(self._transport, data)

    def corpus(self, id: str) -> Corpus:
        return Corpus(self._transport, self._transport.json("GET", path_of("corpora", id), having="id"))

    def corpora(self, *, limit: int | None = None) -> Iterator[Corpus]:
        """The corpora in the server's order, page by page as they are asked for."""
        for data in each(self._transport, "/corpora", limit=limit):
            yield Corpus(self._transport, data)

    def create_schedule(self, definition: Mapping[str, Any]) -> Schedule:
        """Makes a schedule of a definition: name, cron, source, job, sinks, as the HTTP contract has them."""
        data = self._transport.json("POST", "/schedules", json=dict(definition), once=True, having="id")
        return Schedule(self._transport, data)

    def schedule(self, id: str) -> Schedule:
        return Schedule(self._transport, self._transport.json("GET", path_of("schedules", id), having="id"))

    def schedules(self, *, name: str | None = None, limit: int | None = None) -> Iterator[Schedule]:
        """The schedules in the server's order, page by page as they are asked for; with a name, that one alone."""
        for data in each(self._transport, "/schedules", {"name": name}, limit=limit):
            yield Schedule(self._transport, data)

    def models(self) -> list[Model]:
        """The models that the server can run now; a Hub model is listed once it is there."""
        return [shaped(Model, data) for data in each(self._transport, "/models")]

    def _create(self, request: Mapping[str, Any]) -> Job:
        body = {name: value for name, value in request.items() if value is not None}
        return Job(self._transport, self._transport.json("POST", "/jobs", json=body, once=True, having="id"))


def _is_documents(source: Any) -> TypeGuard[Iterable[Any]]:
    return not isinstance(source, str | PathLike | Mapping | bytes) and not hasattr(source, "read")


def _inline(source: Iterable[Any]) -> tuple[list[dict[str, Any]] | None, Iterable[Any], bool]:
    """The documents to send within the job, or None where they are too many, too large or something else.

    Returns also the source to upload instead, from its beginning, and whether its documents hold a `text_pair`.
    """
    refuse_frame(source)
    iterator = iter(source)
    taken: list[Any] = []
    size = 0
    for item in iterator:
        taken.append(item)
        text = item.get("text") if isinstance(item, Mapping) else item
        size += len(text.encode(errors="replace")) if isinstance(text, str) else INLINE_BYTES + 1
        if len(taken) > INLINE_DOCUMENTS or size > INLINE_BYTES:
            rest = source if isinstance(source, list | tuple) else chain(taken, iterator)
            return None, rest, any(isinstance(each, Mapping) and "text_pair" in each for each in taken)
    return [{"text": item} if isinstance(item, str) else dict(item) for item in taken], taken, False
