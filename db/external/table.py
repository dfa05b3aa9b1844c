"""A table of labels in somebody else's database: made where it is not there, and written over by its key.

Knows DDL, upserts and column types. Must not know what the columns mean: the caller names and types them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection, exc
from sqlalchemy.dialects import postgresql, sqlite

from corpusmill.errors import PlaceFault
from db.external.engine import engine_of, reading, writing

Kind = Literal["text", "number", "json", "time"]
_AT_ONCE = 500
#: What a column that is there already may be, for each kind of value. A time may also be kept as text or as a number of
#: seconds since 1970, and JSON as text.
_FITTING: dict[Kind, tuple[type[sa.types.TypeEngine[Any]], ...]] = {
    "text": (sa.String,),
    "number": (sa.Float, sa.Numeric),
    "json": (sa.JSON, sa.String),
    "time": (sa.DateTime, sa.String, sa.Float),
}
_WORDS: dict[Kind, str] = {
    "text": "text", "number": "a floating-point number", "json": "JSON or text", "time": "a timestamp, text or a number",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """A column by its name and the kind of its values: text, a number, JSON, or a time in seconds since 1970."""

    name: str
    kind: Kind


class LabelTable:
    """A table (`name` or `schema.name`) of a place's database whose first column is its key, ready to be written.

    It is made where it is not there. Raises PlaceUnavailable, and PlaceFault where one that is there lacks a column, has
    one of another kind, or where its key is not unique.
    """

    def __init__(self, url: str, place: str, name: str, columns: Sequence[Column]) -> None:
        self._engine = engine_of(url, place)
        self._columns = columns
        self._key = columns[0].name
        schema, _, bare = name.rpartition(".")
        self._name, self._schema = bare, schema or None
        found = self._found()
        if found is None:
            self._make()
            found = self._found()
        if found is None:
            raise PlaceFault(f"The table {name} was made and is not to be seen: does the account see its own tables?")
        self._table = found

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert the rows, each in the place of the one that has its key; of two with one key the first counts."""
        distinct: dict[str, dict[str, Any]] = {}
        for row in rows:
            distinct.setdefault(
                row[self._key], {each.name: self._value(each, row[each.name]) for each in self._columns}
            )
        # by key, so that two writers never wait for each other
        values = [distinct[key] for key in sorted(distinct)]
        for start in range(0, len(values), _AT_ONCE):
            with writing(self._engine) as connection:
                self._upsert(connection, values[start : start + _AT_ONCE])

    def delete(self, keys: Collection[str]) -> None:
        """Take the rows of these keys out, where they are there."""
        wanted = sorted(set(keys))
        for start in range(0, len(wanted), _AT_ONCE):
            with writing(self._engine) as connection:
                mine = self._table.c[self._key].in_(wanted[start : start + _AT_ONCE])
                connection.execute(sa.delete(self._table).where(mine))

    def _upsert(self, connection: Connection, values: list[dict[str, Any]]) -> None:
        others = [each.name for each in self._columns[1:]]
        dialect = self._dialect(connection)
        if dialect is not None:
            statement = dialect.insert(self._table)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=[self._key], set_={name: statement.excluded[name] for name in others}
                ),
                values,
            )
            return
        for row in values:
            self._update_or_insert(connection, row, others)

    @staticmethod
    def _dialect(connection: Connection) -> Any:
        """The dialect's own module where it has an upsert by key."""
        return {"postgresql": postgresql, "sqlite": sqlite}.get(connection.dialect.name)

    def _update_or_insert(self, connection: Connection, row: dict[str, Any], others: list[str]) -> None:
        """What every database can do. Between the two somebody else may insert the row: it is then updated after all."""
        mine = self._table.c[self._key] == row[self._key]
        change = sa.update(self._table).where(mine).values({name: row[name] for name in others})
        if connection.execute(change).rowcount:
            return
        if connection.execute(sa.select(self._table.c[self._key]).where(mine)).first() is not None:
            return  # a database that counts what it changed, and nothing was to change
        try:
            with connection.begin_nested():
                connection.execute(sa.insert(self._table).values(row))
        except exc.IntegrityError:
            connection.execute(change)

    def _value(self, column: Column, value: Any) -> Any:
        """A value in the form that the column takes."""
        if value is None:
            return None
        kind = self._table.c[column.name].type
        if column.kind == "time":
            moment = datetime.fromtimestamp(value, UTC)
            if isinstance(kind, sa.DateTime):
                return moment if kind.timezone else moment.replace(tzinfo=None)
            return moment.isoformat(timespec="milliseconds") if isinstance(kind, sa.String) else float(value)
        if column.kind == "json":
            clean = _without_nul(value)
            return clean if isinstance(kind, sa.JSON) else json.dumps(clean, ensure_ascii=False)
        return _without_nul(value)

    def _found(self) -> sa.Table | None:
        """The table as the database has it, checked; None where there is none."""
        with reading(self._engine) as connection:
            inspector = sa.inspect(connection)
            if not inspector.has_table(self._name, schema=self._schema):
                return None
            found = sa.Table(self._name, sa.MetaData(), schema=self._schema, autoload_with=connection)
            self._check(found, _is_unique(inspector, self._name, self._schema, self._key))
        return found

    def _check(self, found: sa.Table, unique: bool) -> None:
        shown = f"{self._schema}.{self._name}" if self._schema else self._name
        missing = [each.name for each in self._columns if each.name not in found.c]
        if missing:
            raise PlaceFault(
                f"The table {shown} is there and lacks {', '.join(missing)}: add the columns, or name a table that is not "
                "there yet, which is then made."
            )
        for each in self._columns:
            kind = found.c[each.name].type
            if not isinstance(kind, _FITTING[each.kind]):
                raise PlaceFault(
                    f"The column {each.name} of {shown} is {kind!r} and should be {_WORDS[each.kind]}: alter it, or name "
                    "another table."
                )
        if not unique:
            raise PlaceFault(
                f"The column {self._key} of {shown} is not unique: make it the primary key, for one row a document."
            )

    def _make(self) -> None:
        long = sa.String(255).with_variant(sa.Text(), "postgresql", "sqlite")
        kinds: dict[Kind, Any] = {
            "text": sa.Text(), "number": sa.Double(), "time": sa.DateTime(timezone=True),
            "json": sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
        }  # fmt: skip
        first, *others = self._columns
        made = sa.Table(
            self._name, sa.MetaData(), sa.Column(first.name, long, primary_key=True),
            *(sa.Column(each.name, kinds[each.kind]) for each in others), schema=self._schema,
        )  # fmt: skip
        try:
            with writing(self._engine) as connection:
                made.create(connection, checkfirst=True)
        except PlaceFault:
            if self._found() is None:  # else somebody made it in the same moment
                raise


def _is_unique(inspector: Any, name: str, schema: str | None, column: str) -> bool:
    if inspector.get_pk_constraint(name, schema=schema)["constrained_columns"] == [column]:
        return True
    unique = [each["column_names"] for each in inspector.get_unique_constraints(name, schema=schema)]
    # SQLite shows some constraints only by the index that it made for them
    automatic = {"include_auto_indexes": True} if inspector.dialect.name == "sqlite" else {}
    indexes = inspector.get_indexes(name, schema=schema, **automatic)
    unique += [each["column_names"] for each in indexes if each["unique"]]
    return [column] in unique


def _without_nul(value: Any) -> Any:
    """A text without NUL, which PostgreSQL keeps in no text and no JSON."""
    if isinstance(value, str):
        return value.replace("\0", "�")
    if isinstance(value, Mapping):
        return {_without_nul(name): _without_nul(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nul(each) for each in value]
    return value
