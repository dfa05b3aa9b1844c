"""Connections to other people's databases, and for how long they are waited for.

Knows drivers and URLs. Must not know what is read or written. Nothing is held between two uses: a pool of ours would keep
connections of somebody else's server through the day.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event, exc
from sqlalchemy.pool import NullPool

from corpusmill.errors import PlaceFault, PlaceUnavailable
from db.engine import POSTGRESQL_DEADLINES, quote_no_row
from db.external.faults import first_line, translated

_POSTGRESQL = ("postgresql://", "postgres://")
_PLACE = "corpusmill_place"
#: A statement that takes longer is ended: whoever waits for it keeps its run, and others from theirs.
_STATEMENT_SECONDS = 3600.0
#: How many of SQLite's steps pass between two looks at the clock: some milliseconds.
_STEPS = 100_000
_MYSQL_DEADLINES = {"connect_timeout": 5, "read_timeout": 3600, "write_timeout": 3600}
#: By driver, in the names that each has for it: how long to wait for a connection, and for an answer on it.
_DEADLINES: Mapping[str, Mapping[str, Any]] = {
    "pysqlite": {"timeout": 30.0},
    "psycopg": POSTGRESQL_DEADLINES,
    "psycopg2": POSTGRESQL_DEADLINES,
    "pymysql": _MYSQL_DEADLINES,
    "mysqldb": _MYSQL_DEADLINES,
    "mariadbconnector": _MYSQL_DEADLINES,
    "mysqlconnector": {"connection_timeout": 5},
    "pymssql": {"login_timeout": 5, "timeout": 3600},
    "pyodbc": {"timeout": 5},
}


def engine_of(url: str, place: str) -> Engine:
    """An engine for the URL that is configured for a place. Raises PlaceFault where the URL or its driver cannot be used."""
    parsed = parsed_url(url, place)
    try:
        engine = sqlalchemy.create_engine(
            parsed, poolclass=NullPool, connect_args=deadlines_of(parsed), execution_options={_PLACE: place},
            hide_parameters=True,
        )  # fmt: skip
    except (exc.NoSuchModuleError, ImportError) as error:
        raise PlaceFault(f"The driver of the database {place} cannot be used: {first_line(error)}") from error
    except (exc.ArgumentError, ValueError) as error:
        raise _no_url(place) from error
    event.listen(engine, "handle_error", quote_no_row)
    if engine.dialect.name == "sqlite" and (name := parsed.database) and not Path(name).is_file():
        # SQLite makes what is not there, and an empty file would look like a table whose rows were all deleted
        raise PlaceUnavailable(f"The file of the database {place} is not there.", private=name)
    return engine


def parsed_url(url: str, place: str) -> URL:
    """The URL in its parts. Raises PlaceFault where it is none."""
    for prefix in _POSTGRESQL:
        if url.startswith(prefix):
            url = "postgresql+psycopg://" + url.removeprefix(prefix)
    try:
        return sqlalchemy.make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        raise _no_url(place) from error


def _no_url(place: str) -> PlaceFault:
    return PlaceFault(f"The URL of the database {place} is none: the operator has to correct it.")


def deadlines_of(url: URL) -> dict[str, Any]:
    """How long to wait, as the URL's driver is told, but for what the URL says itself; nothing for one that is not known."""
    return {name: value for name, value in _DEADLINES.get(url.get_driver_name(), {}).items() if name not in url.query}


def place_of(engine: Engine) -> str:
    """The name of the place that an engine is of."""
    return str(engine.get_execution_options()[_PLACE])


def answers(url: str, place: str) -> str:
    """The kind of database that answers at a URL. Raises PlaceUnavailable and PlaceFault."""
    engine = engine_of(url, place)
    with reading(engine) as connection:
        connection.execute(sqlalchemy.select(sqlalchemy.literal(1)))
    return engine.dialect.name


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction in which the database itself refuses to write, where it can."""
    with translated(place_of(engine)), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(postgresql_readonly=True)
        elif engine.dialect.name in {"mysql", "mariadb"}:
            connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
            connection.commit()
        elif engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA query_only = ON")
            connection.commit()
        with connection.begin():
            _limit(connection)
            yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction, committed at the end."""
    with translated(place_of(engine)), engine.begin() as connection:
        _limit(connection)
        yield connection


def _limit(connection: Connection) -> None:
    """Have long statements of this transaction ended, where the account has no limit of its own. Other drivers have a
    deadline for an answer, or none."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            f"SELECT set_config('statement_timeout', '{_STATEMENT_SECONDS * 1000:.0f}', true) "
            "WHERE current_setting('statement_timeout') = '0'"
        )
    elif connection.dialect.driver == "pysqlite":
        driver: Any = connection.connection.driver_connection
        end = time.monotonic() + _STATEMENT_SECONDS
        driver.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
