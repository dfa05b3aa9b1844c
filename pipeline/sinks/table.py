"""A table of labels in a configured database: a row for each document, by its id.

Knows which rows are written and which are taken out. Must not know SQL: `db.external` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from corpusmill.places import DatabasePlace
from corpusmill.schedules import TableSink
from db.external import LabelTable
from pipeline.sinks import Delivered
from pipeline.sinks.rows import COLUMNS, row_of

_AT_ONCE = 500


class TableWriter:
    """A sink of type `table`. A row has what the document was last given, also where that is a failure: a label of an
    earlier text would be taken for one of the present text."""

    def __init__(self, definition: TableSink, place: DatabasePlace) -> None:
        self._table = LabelTable(place.url.get_secret_value(), definition.place, definition.table, COLUMNS)

    def deliver(self, rows: Iterable[Delivered], gone: Iterable[str]) -> None:
        """Some hundred rows a transaction: one that is cut off leaves rows that the next delivery writes over."""
        coming = iter(rows)
        while some := list(islice(coming, _AT_ONCE)):
            self._table.write([row_of(row) for row in some])
        leaving = iter(gone)
        while ids := list(islice(leaving, _AT_ONCE)):
            self._table.delete(ids)
