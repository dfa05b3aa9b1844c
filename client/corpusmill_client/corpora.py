"""A corpus as a caller sees it.

Knows the corpus endpoints and their shapes. Must not know files (`content` does) or jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import IO, Any

from corpusmill_client.content import UploadBody, UploadProgress, content_of
from corpusmill_client.errors import CorpusmillError
from corpusmill_client.pages import each, path_of
from corpusmill_client.resource import Resource
from corpusmill_client.views import IngestError, References, sentence_of, shaped
from corpusmill_client.waiting import changes

#: The statuses of corpora that are read.
READ = frozenset({"ready", "rejected"})


class Corpus(Resource):
    """An uploaded, immutable, ordered set of documents, as it stood when last asked for."""

    @property
    def _path(self) -> str:
        return path_of("corpora", self.id)

    @property
    def name(self) -> str | None:
        return self._data.get("name")

    @property
    def status(self) -> str:
        """`validating`, `ready` or `rejected`."""
        return str(self._data["status"])

    @property
    def format(self) -> str | None:
        return self._data.get("format")

    @property
    def bytes(self) -> int:
        return int(self._data.get("bytes") or 0)

    @property
    def sha256(self) -> str | None:
        return self._data.get("sha256")

    @property
    def documents(self) -> int:
        """How many documents it holds, as far as they are counted."""
        return int(self._data.get("documents") or 0)

    @property
    def invalid(self) -> int:
        """How many lines could not be read; `errors()` says why."""
        return int(self._data.get("invalid") or 0)

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self._data.get("fields") or ())

    def wait(self, timeout: float | None = None) -> Corpus:
        """Waits until all of the upload is read and returns the corpus, `ready` or `rejected`; a job need not wait for it.

        Raises WaitTimeout after `timeout` seconds; the reading goes on.
        """
        for data, _ in () if self.status in READ else changes(self._transport, self._path, timeout, READ):
            self._data = data if data is not None else self._data
        return self

    def errors(self, limit: int | None = None) -> Iterator[IngestError]:
        """The lines that could not be read."""
        for item in each(self._transport, f"{self._path}/errors", limit=limit):
            yield shaped(IngestError, item)

    def read(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """The documents, in order, as the server lists them."""
        yield from each(self._transport, f"{self._path}/documents", limit=limit)

    @property
    def references_version(self) -> int:
        """The version of its references that is in force; 0: those that came with the documents."""
        return int(self._data.get("references_version") or 0)

    def attach_references(
        self,
        source: str | PathLike[str] | IO[Any] | Iterable[Mapping[str, Any]],
        *,
        add: bool = False,
        progress: UploadProgress | None = None,
    ) -> References:
        """Gives documents their references: a path or file of JSON Lines, or an iterable of mappings, each with `id` or
        `position`, and `reference`.

        They stand in the place of all references that the corpus has, or with `add` are added to them, where None takes
        one away. Metrics of its jobs are computed again. Raises CorpusmillError naming each line that cannot be used, in
        which case nothing was changed.
        """
        content = content_of(source, "jsonl" if hasattr(source, "read") else None)
        response = self._transport.send(
            "PATCH" if add else "PUT",
            f"{self._path}/references",
            headers=content.headers,
            body=lambda: UploadBody(content, progress),
            repeatable=content.again,
            read=900.0,
        )
        made = shaped(References, self._transport.parsed(response, having="version"))
        self._data = {**self._data, "references_version": made.version}
        return made

    def references(self, limit: int | None = None) -> Iterator[References]:
        """The versions of references that were attached to it, newest first."""
        for item in each(self._transport, f"{self._path}/references", limit=limit):
            yield shaped(References, item)

    def delete(self) -> None:
        """Removes the corpus, and within moments the outputs that are kept of its texts (`reuse`). Raises CorpusmillError
        (`conflict`) while a job uses it."""
        self._transport.delete(self._path)

    def __repr__(self) -> str:
        return f"Corpus({self.id!r}, {self.name!r}, {self.status}, documents={self.documents}, invalid={self.invalid})"


def rejected(corpus: Corpus) -> CorpusmillError:
    """The error for a corpus that no job can use, with the first lines that could not be read."""
    reason = sentence_of(corpus.data.get("error")) or "It holds no document that can be read."
    errors = corpus.errors(limit=5) if corpus.invalid else ()
    lines = "".join(f"\n  line {error.line}: {error.message} ({error.code})" for error in errors)
    return CorpusmillError(f"{corpus.name or corpus.id} was rejected. {reason}{lines}", code="corpus_rejected")
