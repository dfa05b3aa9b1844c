"""Where labels go: the one shape that every sink is written through.

Knows which sinks there are. Must not know which documents are new or which schedule they are of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from corpusmill.places import Places
from corpusmill.schedules import SinkDefinition, TableSink


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A document of a run with what the model says of it, or why it could not. `labelled_at` is in seconds since 1970;
    `label` and `score` are those of `output`, where it has them."""

    document_id: str
    text: str
    text_pair: str | None = None
    output: Mapping[str, Any] | None
    status: Literal["succeeded", "failed"]
    error: Mapping[str, Any] | None
    score: float | None
    label: str | None
    model_id: str
    model_revision: str
    run_id: str
    labelled_at: float
    fields: Mapping[str, Any] = field(default_factory=dict)


class Sink(Protocol):
    """A sink, opened for one run. Raises PlaceUnavailable (again later) or PlaceFault (a person must mend it)."""

    def deliver(self, rows: Iterable[Delivered], gone: Iterable[str]) -> None:
        """Write a run's rows and take out the documents that are `gone`, in streams.

        Safe to run twice with the same rows: a run that was cut off delivers again from the start.
        """


def open_sink(definition: SinkDefinition, places: Places, *, run: str, date: str) -> Sink:
    """The sink that a definition means. Raises PlaceUnavailable, PlaceFault, and InvalidRequest for an unknown place."""
    if isinstance(definition, TableSink):
        from pipeline.sinks.table import TableWriter

        return TableWriter(definition, places.database(definition.place))
    from pipeline.sinks.files import FileWriter

    return FileWriter(definition, places.folder(definition.place), run=run, date=date)


class OpenSink(Protocol):
    """How a definition becomes a sink: `open_sink` is one. `run` is the run's id, and `date` the day of its fire in the
    schedule's zone, as YYYY-MM-DD: both may stand in a file's name."""

    def __call__(self, definition: SinkDefinition, places: Places, *, run: str, date: str) -> Sink: ...
