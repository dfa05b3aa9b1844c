"""Corpora of a name that were uploaded over HTTP, as documents of a schedule.

Knows our own corpora and their store. Must not know who uploads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from corpora import Store
from corpusmill.errors import NotFound
from corpusmill.schedules import CorpusSource
from corpusmill.settings import Settings
from db import corpora, files
from db.corpora import Corpus, store_directory
from db.engine import Engine, reading
from pipeline.sources import SourceDocument


class CorpusReader:
    """A source of type `corpus`: every ready corpus of a name that the last run did not have.

    The newest comes first, so that of two documents with one id the later upload counts. Within one corpus it is the first.
    A corpus that is still being read is for the next run, whenever it was uploaded.
    """

    complete = False

    def __init__(self, definition: CorpusSource, settings: Settings, database: Engine) -> None:
        self._name = definition.name
        self._settings = settings
        self._database = database
        self.unusable = 0
        self._position: dict[str, Any] = {}

    def read(self, since: Mapping[str, Any] | None) -> Iterator[SourceDocument]:
        """The documents of the corpora that are new, in order within each."""
        through = int(since.get("through", 0)) if since else 0
        beyond = set(since.get("beyond", ())) if since else set()
        with reading(self._database) as connection:
            found = corpora.named(connection, self._name, after=through)
        self.unusable = 0
        for corpus in reversed(found):
            if corpus.status == "ready" and corpus.key not in beyond:
                self.unusable += corpus.invalid
                with suppress(NotFound), files.expected(self._database, self._settings.data_dir, corpus.id):
                    yield from self._documents(corpus)  # unless it was deleted since
        self._position = _position(found, through)

    def _documents(self, corpus: Corpus) -> Iterator[SourceDocument]:
        for document in Store(store_directory(self._settings.data_dir, corpus.id)).documents():
            # a document without an id of its own has its position, which another corpus's has too
            own = document.id != str(document.position)
            yield SourceDocument(
                id=document.id if own else f"{corpus.id}/{document.position}", text=document.text,
                text_pair=document.text_pair, reference=document.reference, fields=document.fields,
            )  # fmt: skip

    def position(self) -> Mapping[str, Any]:
        """The key through which every corpus is done with, and those `beyond` it that are."""
        return self._position


def _position(found: list[Corpus], through: int) -> dict[str, Any]:
    beyond: list[int] = []
    waiting = False
    for corpus in found:
        waiting = waiting or corpus.status == "validating"
        if waiting:
            beyond += [] if corpus.status == "validating" else [corpus.key]
        else:
            through = corpus.key
    return {"through": through, "beyond": beyond}
