"""Rows of a table or a query in the order of a unique key, a page at a time: memory does not grow with their number.

Knows SELECT and nothing else. Must not know what a row's columns mean. A query is used as a subselect, so that whatever it
says it can only read, and a page begins after the last key of the one before: each is a short transaction of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, time
from typing import Any

from sqlalchemy import Connection, Select, and_, column, func, literal, or_, select, table, text, types
from sqlalchemy.sql.expression import ColumnElement

from corpusmill.errors import PlaceFault
from db.external.engine import engine_of, reading
from db.external.queries import as_subselect

#: A page ends with so many rows, or once there are so many characters in them; so many rows are fetched at once.
_ROWS = 2_000
_CHARACTERS = 8 << 20
_FETCHED = 50
#: A page is looked at so often before its last row, not found again, is known for one that was not changed meanwhile.
_LOOKS = 3

#: A row as the driver gives it, in the order of `Rows.columns`.
Row = tuple[Any, ...]


class Rows:
    """A table (`name` or `schema.name`) or a query of a place's database, opened to be read by `key` and, to follow it, by
    `watermark`.

    Raises PlaceUnavailable and PlaceFault, here and in every method.
    """

    def __init__(
        self,
        url: str,
        place: str,
        *,
        key: str,
        table: str | None = None,
        query: str | None = None,
        watermark: str | None = None,
    ) -> None:
        self._engine = engine_of(url, place)
        subselect = as_subselect(query, self._engine.dialect.name) if query is not None else None
        with reading(self._engine) as connection:
            self.columns = _columns(connection, table, subselect)
        self._from = _origin(table, subselect, self.columns)
        self._key = self.place(key)
        self._watermark = self.place(watermark) if watermark is not None else None

    def place(self, name: str) -> int:
        """Where a column stands in a row."""
        if name not in self.columns:
            raise PlaceFault(f"There is no column {name!r}; there are {', '.join(self.columns[:20])}.")
        return self.columns.index(name)

    def left_out(self) -> int:
        """How many rows have no key, or no watermark where they are followed by one: they are in no page."""
        wanted = [self._column(self._key)] + ([] if self._watermark is None else [self._column(self._watermark)])
        query = select(func.count()).select_from(self._from).where(or_(*(each.is_(None) for each in wanted)))
        with reading(self._engine) as connection:
            return int(connection.execute(query).scalar_one())

    def pages(self, after: Any = None) -> Iterator[list[Row]]:
        """The rows by key, those of a higher key than `after` where it is given."""
        key = self._column(self._key)
        while page := self._page(key.is_not(None) if after is None else key > _given(after), [self._key]):
            yield page
            after = page[-1][self._key]

    def followed(self, since: Any = None) -> Iterator[list[Row]]:
        """The rows by watermark and key, those of a watermark not below `since` where it is given: others of the same one
        may have come after it was last read."""
        assert self._watermark is not None, "there is a watermark to follow"
        mark, key = self._column(self._watermark), self._column(self._key)
        condition = mark.is_not(None) if since is None else mark >= _given(since)
        while page := self._page(condition, [self._watermark, self._key]):
            yield page
            last = page[-1][self._watermark]
            condition = or_(mark > _given(last), and_(mark == _given(last), key > _given(page[-1][self._key])))

    def _page(self, condition: ColumnElement[bool], order: Sequence[int]) -> list[Row]:
        """The first rows in the order, up to a page. One more is looked at: of two with one key, the second would be lost
        between two pages."""
        query = (
            select(*self._from.c)
            .where(condition, self._column(self._key).is_not(None))
            .order_by(*(self._column(place) for place in order))
            .limit(_ROWS + 1)
        )
        with reading(self._engine) as connection:
            for _ in range(_LOOKS):
                rows = self._fetched(connection, query)
                if not rows or self._is_found_again(connection, rows[-1], order):
                    return rows
        raise self._inexact(order)

    def _fetched(self, connection: Connection, query: Select[Any]) -> list[Row]:
        rows: list[Row] = []
        characters = 0
        streamed = connection.execution_options(stream_results=True, yield_per=_FETCHED)
        with closing(streamed.execute(query)) as found:
            for row in found:
                if rows and row[self._key] == rows[-1][self._key]:
                    raise self._repeated(row[self._key])
                if len(rows) == _ROWS or characters > _CHARACTERS:
                    break
                rows.append(tuple(row))
                characters += sum(len(value) for value in row if isinstance(value, str | bytes))
        return rows

    def _is_found_again(self, connection: Connection, row: Row, order: Sequence[int]) -> bool:
        """Whether the database finds a row by the values that it gave of it; asked where these may have been rounded. If
        not, what comes after the row is not what comes after these values: pages would repeat, or rows be lost."""
        if not any(isinstance(row[place], float | datetime | time) for place in order):
            return True
        same = (self._column(place) == _given(row[place]) for place in order)
        return connection.execute(select(literal(1)).select_from(self._from).where(*same).limit(1)).first() is not None

    def _inexact(self, order: Sequence[int]) -> PlaceFault:
        return PlaceFault(
            f"The column {self.columns[order[0]]!r} holds values that the database does not find again by what it gives of "
            "them, as with numbers of single precision. Cast it in a query, such as to DOUBLE PRECISION, or name another."
        )

    def _repeated(self, key: Any) -> PlaceFault:
        return PlaceFault(
            f"The key {self.columns[self._key]!r} is not unique: {str(key)[:100]!r} comes more than once. Name a column by "
            "which each row is one document."
        )

    def _column(self, place: int) -> ColumnElement[Any]:
        chosen: ColumnElement[Any] = self._from.c[self.columns[place]]
        return chosen


def _given(value: Any) -> ColumnElement[Any]:
    """A value that the driver gave, given back to it as it came."""
    return literal(value, types.NullType())


def _columns(connection: Connection, name: str | None, subselect: str | None) -> list[str]:
    """The names of the columns, of which none may come twice."""
    found = connection.execute(
        select(text("*")).select_from(_origin(name, subselect, ["any"])).where(literal(1) == literal(0))
    )
    names = list(found.keys())
    twice = sorted({each for each in names if names.count(each) > 1})
    if twice:
        raise PlaceFault(f"More than one column is named {', '.join(twice)}: give each a name of its own with AS.")
    return names


def _origin(name: str | None, subselect: str | None, names: Sequence[str]) -> Any:
    """What to select from. Its columns have no types: values come and go as the driver has them."""
    columns: list[Any] = [column(each) for each in names]
    if subselect is not None:
        return text(subselect).columns(*columns).subquery("documents")
    schema, _, bare = (name or "").rpartition(".")
    return table(bare, *columns, schema=schema or None)
