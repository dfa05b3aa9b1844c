"""Rows of a configured database as documents: a table or a query, by a key.

Knows which columns are a document's parts, and how far was read. Must not know SQL: `db.external` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from corpusmill.places import DatabasePlace
from corpusmill.schedules import SqlSource
from db.external import Rows
from pipeline.sources import SourceDocument
from pipeline.sources.values import as_id, as_json, as_reference, as_text, given_back, kept

#: What a definition has where it says nothing.
_USUAL = SqlSource.model_fields["reference_field"].default


class SqlReader:
    """A source of type `sql`.

    To append is to read from the last watermark on, that one included: rows of the same watermark may have been written
    after it was read, and the ledger knows those that are not new. What a transaction writes with a lower watermark and
    commits later is not seen. To mirror is to read all there is.
    """

    def __init__(self, definition: SqlSource, place: DatabasePlace) -> None:
        self._rows = Rows(
            place.url.get_secret_value(), definition.place, key=definition.key, table=definition.table,
            query=definition.query, watermark=definition.watermark,
        )  # fmt: skip
        self._follows = definition.watermark is not None
        self._mark = self._rows.place(definition.watermark or definition.key)
        self._key = self._rows.place(definition.key)
        self._text = self._rows.place(definition.text_field)
        self._pair = self._rows.place(definition.text_pair_field) if definition.text_pair_field else None
        self._reference = self._found(definition.reference_field)
        parts = {self._key, self._text, self._pair, self._reference}
        self._others = [(place, name) for place, name in enumerate(self._rows.columns) if place not in parts]
        self.complete = definition.sync == "mirror"
        self.unusable = 0
        self._last: Any = None

    def _found(self, name: str | None) -> int | None:
        """The place of the references, which need not be there where their column has the usual name."""
        if name is None or (name == _USUAL and name not in self._rows.columns):
            return None
        return self._rows.place(name)

    def read(self, since: Mapping[str, Any] | None) -> Iterator[SourceDocument]:
        """The documents, by page; rows without a text are counted and left out."""
        self._last = given_back(since["last"]) if since else None
        self.unusable = self._rows.left_out() if since is None else 0
        if self.complete:
            pages = self._rows.pages()
        elif self._follows:
            pages = self._rows.followed(self._last)
        else:
            pages = self._rows.pages(self._last)
        for page in pages:
            for row in page:
                document = self._document(row)
                if document is None:
                    self.unusable += 1
                else:
                    yield document
            self._last = page[-1][self._mark]

    def _document(self, row: tuple[Any, ...]) -> SourceDocument | None:
        text = as_text(row[self._text])
        pair = None if self._pair is None else as_text(row[self._pair])
        if text is None or (self._pair is not None and pair is None):
            return None
        return SourceDocument(
            id=as_id(row[self._key]), text=text, text_pair=pair,
            reference=None if self._reference is None else as_reference(row[self._reference]),
            fields={name: as_json(row[place]) for place, name in self._others},
        )  # fmt: skip

    def position(self) -> Mapping[str, Any]:
        """The last watermark, or key, that was read."""
        return {} if self._last is None else {"last": kept(self._last)}
