"""Where documents come from: the one shape that every source is read through.

Knows which sources there are. Must not know what is new: the ledger decides that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from corpusmill.documents import Reference
from corpusmill.places import Places
from corpusmill.schedules import FolderSource, SourceDefinition, SqlSource
from corpusmill.settings import Settings
from db.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDocument:
    """A document as a source gives it. `id` is unique in the source: where it comes twice in one reading, the first
    counts. `fields` are the other columns or fields, JSON values all of them."""

    id: str
    text: str
    text_pair: str | None = None
    reference: Reference | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """A source, opened for one run.

    Whatever it does may raise PlaceUnavailable (again later) or PlaceFault (a person must mend it); a document that cannot
    be used is left out and counted in `unusable`.
    """

    @property
    def complete(self) -> bool:
        """Whether `read` has given every document there is, so that what is missing was deleted; valid once it is
        exhausted."""

    @property
    def unusable(self) -> int:
        """How many rows or lines the reading so far has left out because they are no documents."""

    def read(self, since: Mapping[str, Any] | None) -> Iterator[SourceDocument]:
        """The documents, streamed: memory does not grow with their number.

        `since` is the `position` of the last run that succeeded, or None to read everything there is. Reading twice from
        the same `since` gives at least the same documents: a run that is cut off reads again from the start.
        """

    def position(self) -> Mapping[str, Any]:
        """Where the next run goes on, as JSON; valid once `read` is exhausted."""


def open_source(
    definition: SourceDefinition, places: Places, *, settings: Settings, database: Engine
) -> Source:  # fmt: skip
    """The source that a definition means. Raises PlaceUnavailable, PlaceFault, and InvalidRequest for an unknown place."""
    if isinstance(definition, SqlSource):
        from pipeline.sources.sql import SqlReader

        return SqlReader(definition, places.database(definition.place))
    if isinstance(definition, FolderSource):
        from pipeline.sources.folder import FolderReader

        return FolderReader(definition, places.folder(definition.place), settings)
    from pipeline.sources.corpus import CorpusReader

    return CorpusReader(definition, settings, database)


class OpenSource(Protocol):
    """How a definition becomes a source: `open_source` is one. `settings` and `database` are our own, for corpora."""

    def __call__(
        self, definition: SourceDefinition, places: Places, *, settings: Settings, database: Engine
    ) -> Source: ...
