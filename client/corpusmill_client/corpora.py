"""A corpus as a caller sees it.

Knows the corpus endpoints and their shapes. Must not know files (`content` does) or jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from corpusmill_client.errors import CorpusmillError
from corpusmill_client.pages import each, path_of
from corpusmill_client.transport import Transport
from corpusmill_client.views import IngestError, sentence_of, shaped, time_of


class Corpus:
    """An uploaded, immutable, ordered set of documents, as it stood when last asked for."""

    def __init__(self, transport: Transport, data: Mapping[str, Any]) -> None:
        self._transport = transport
        self._data = data

    @property
    def data(self) -> Mapping[str, Any]:
        """The server's answer whole."""
        return self._data

    @property
    def id(self) -> str:
        return str(self._data["id"])

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

    @property
    def created_at(self) -> datetime | None:
        return time_of(self._data.get("created_at"))

    def refresh(self) -> Corpus:
        """This corpus, asked for again."""
        self._data = self._transport.json("GET", path_of("corpora", self.id), having="id")
        return self

    def errors(self, limit: int | None = None) -> Iterator[IngestError]:
        """The lines that could not be read."""
        for item in each(self._transport, path_of("corpora", self.id, "errors"), limit=limit):
            yield shaped(IngestError, item)

    def read(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """The documents, in order, as the server lists them."""
        yield from each(self._transport, path_of("corpora", self.id, "documents"), limit=limit)

    def delete(self) -> None:
        """Removes the corpus. Raises CorpusmillError (`conflict`) while a job uses it."""
        self._transport.delete(path_of("corpora", self.id))

    def __repr__(self) -> str:
        return f"Corpus({self.id!r}, {self.name!r}, {self.status}, documents={self.documents}, invalid={self.invalid})"


def rejected(corpus: Corpus) -> CorpusmillError:
    """The error for a corpus that no job can use, with the first lines that could not be read."""
    reason = sentence_of(corpus.data.get("error")) or "It holds no document that can be read."
    errors = corpus.errors(limit=5) if corpus.invalid else ()
    lines = "".join(f"\n  line {error.line}: {error.message} ({error.code})" for error in errors)
    return CorpusmillError(f"{corpus.name or corpus.id} was rejected. {reason}{lines}", code="corpus_rejected")
