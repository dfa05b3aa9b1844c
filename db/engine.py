"""Connections and transactions: how to reach the database, how to try again, and what time it is there.

Knows the two dialects' habits. Must not know any table but Alembic's own.
"""

from __future__ import annotations

import importlib.util
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, Float, event, exc, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from corpusmill.errors import DatabaseUnavailable, InvalidSettings

__all__ = [
    "Connection",
    "Engine",
    "at_head",
    "create_engine",
    "db_now",
    "migrate",
    "now",
    "reading",
    "transact",
    "writing",
]

T = TypeVar("T")
_WRITES = "corpusmill_writes"


class db_now(FunctionElement[float]):  # noqa: N801 — written like the SQL function that it is
    """Seconds since 1970 (UTC) by the database's clock, the only clock that leases are measured by."""

    type = Float()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _sqlite_now(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _postgresql_now(*_: Any, **__: Any) -> str:
    return "cast(extract(epoch from clock_timestamp()) as double precision)"


def create_engine(url: str, *, pool_size: int = 5) -> Engine:
    """An engine for a SQLite file (WAL, foreign keys) or PostgreSQL (psycopg 3); nothing is connected yet.

    Raises InvalidSettings where the driver is not installed.
    """
    if url.startswith("sqlite"):
        engine = sqlalchemy.create_engine(
            url, connect_args={"timeout": 30.0, "check_same_thread": False}, pool_size=pool_size, max_overflow=20
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if importlib.util.find_spec("psycopg") is None:
        raise InvalidSettings(
            "CORPUSMILL_DATABASE_URL names PostgreSQL, and its driver is not installed: pip install 'corpusmill[postgres]'."
        )
    return sqlalchemy.create_engine(
        url, pool_pre_ping=True, pool_size=pool_size, max_overflow=20,
        connect_args={"connect_timeout": 5, "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3},
    )  # fmt: skip


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transaction control is switched off: `_begin_sqlite` says BEGIN, so that reads see one snapshot and
    # writers queue for the lock at the start instead of failing when they first write.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # a commit survives a power cut, not only a crash: a 202 is a promise
        "foreign_keys=ON",
        "busy_timeout=30000",
        "cache_size=-32768",
        "secure_delete=ON",  # what is deleted is overwritten: nothing of a text stays in the file
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads. Raises DatabaseUnavailable where the database does not answer."""
    with _translated(), engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes; committed at the end, rolled back on an exception."""
    with _translated(), engine.connect() as connection:
        connection.execution_options(**{_WRITES: True})
        with connection.begin():
            yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        raise DatabaseUnavailable(f"The database did not answer: {type(error).__name__}.") from error


def transact(engine: Engine, work: Callable[[Connection], T], *, patience: float = 10.0) -> T:
    """Run `work` in a writing transaction, again with jitter for `patience` seconds while the database is not there.

    A connection may be lost while COMMIT is under way, so `work` must find out by itself that an earlier run of it was
    committed after all. Raises DatabaseUnavailable when the patience is spent.
    """
    deadline = time.monotonic() + patience
    pause = 0.05
    while True:
        try:
            with writing(engine) as connection:
                return work(connection)
        except DatabaseUnavailable:
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 — jitter, not a secret
        pause = min(pause * 2, 2.0)


def settle(engine: Engine) -> None:
    """Bring SQLite's log into its file and empty it, so that nothing deleted is left there; no more than a try where others
    are reading. PostgreSQL sees to this by itself."""
    if engine.dialect.name == "sqlite":
        with _translated(), engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def now(engine: Engine) -> float:
    """The database's clock, in seconds since 1970."""
    with reading(engine) as connection:
        return float(connection.execute(select(db_now())).scalar_one())


def _alembic(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["url"] = url
    return config


def migrate(url: str, revision: str = "head") -> None:
    """Bring the database's tables to `revision`; makes a SQLite file where there is none.

    Raises DatabaseUnavailable, and InvalidSettings where the tables are of a version that this code does not know.
    """
    with _translated():
        try:
            command.upgrade(_alembic(url), revision)
        except CommandError as error:
            raise InvalidSettings(
                "The database's tables are those of another version, newer than this program: install that version, or "
                f"restore a backup made before the upgrade ({error})."
            ) from error


def at_head(engine: Engine) -> bool:
    """Whether the tables are those that this code expects."""
    head = ScriptDirectory.from_config(_alembic("")).get_current_head()
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision() == head
