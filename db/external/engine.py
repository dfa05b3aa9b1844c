"""Connections to other people's databases, and what their errors mean here.

Knows drivers and URLs. Must not know what is read or written. Nothing is held between two uses: a pool of ours would keep
connections of somebody else's server through the day.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, exc
from sqlalchemy.pool import NullPool

from corpusmill.errors import PlaceFault, PlaceUnavailable

_POSTGRESQL = ("postgresql://", "postgres://")
#: What SQLite says where somebody else is at work, and the next moment will do.
_BUSY = ("locked", "busy")


def engine_of(url: str) -> Engine:
    """An engine for a configured URL. Raises PlaceFault where the URL or its driver cannot be used."""
    for prefix in _POSTGRESQL:
        if url.startswith(prefix):
            url = "postgresql+psycopg://" + url.removeprefix(prefix)
    try:
        parsed = sqlalchemy.make_url(url)
        options: dict[str, Any] = {"timeout": 30.0} if parsed.get_backend_name() == "sqlite" else {}
        engine = sqlalchemy.create_engine(parsed, poolclass=NullPool, connect_args=options)
    except (exc.ArgumentError, ImportError) as error:
        raise PlaceFault(f"The database cannot be used: {_first_line(error)}") from error
    if engine.dialect.name == "sqlite" and (name := parsed.database) and not Path(name).is_file():
        # SQLite makes what is not there, and an empty file would look like a table whose rows were all deleted
        raise PlaceUnavailable(f"The database file {Path(name).name} is not there.")
    return engine


def answers(url: str) -> str:
    """The kind of database that answers at a URL. Raises PlaceUnavailable and PlaceFault."""
    engine = engine_of(url)
    with reading(engine) as connection:
        connection.execute(sqlalchemy.select(sqlalchemy.literal(1)))
    return engine.dialect.name


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction in which the database itself refuses to write, where it can."""
    with translated(), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(postgresql_readonly=True)
        elif engine.dialect.name in {"mysql", "mariadb"}:
            connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
            connection.commit()
        elif engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA query_only = ON")
            connection.commit()
        with connection.begin():
            yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction, committed at the end."""
    with translated(), engine.begin() as connection:
        yield connection


@contextmanager
def translated() -> Iterator[None]:
    """A database that does not answer becomes PlaceUnavailable, and one that refuses what is asked of it PlaceFault."""
    try:
        yield
    except exc.DBAPIError as error:
        said = _first_line(error.orig or error)
        passing = isinstance(error, exc.OperationalError | exc.InterfaceError) and _is_passing(error, said)
        raise (PlaceUnavailable if passing else PlaceFault)(f"The database says: {said}") from error
    except exc.TimeoutError as error:
        raise PlaceUnavailable(f"The database did not answer: {_first_line(error)}") from error
    except exc.SQLAlchemyError as error:
        raise PlaceFault(f"The database cannot be used so: {_first_line(error)}") from error


def _is_passing(error: exc.DBAPIError, said: str) -> bool:
    """SQLite has one name for everything: a missing column, and a lock."""
    if type(error.orig).__module__.startswith("sqlite3"):
        return any(word in said for word in _BUSY)
    return True


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
