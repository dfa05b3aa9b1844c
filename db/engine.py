"""Connections and transactions: how to reach the database, how to try again, and what time it is there.

Knows the two dialects' habits. Must not know any table but Alembic's own.
"""

from __future__ import annotations

import importlib.util
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, ExceptionContext, Float, Table, event, exc, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from corpusmill.errors import DatabaseUnavailable, InvalidRequest, InvalidSettings

__all__ = [
    "POSTGRESQL_DEADLINES",
    "Connection",
    "Engine",
    "at_head",
    "clock_of",
    "create_engine",
    "db_now",
    "insert_into",
    "migrate",
    "now",
    "quote_no_row",
    "reading",
    "revision_of",
    "to_write",
    "transact",
    "translated",
    "usable",
    "without_row",
    "writing",
]

log = structlog.get_logger(__name__)

T = TypeVar("T")
_WRITES = "corpusmill_writes"
#: Seconds between two tries, from which on a wait is worth a line in the log.
_LONGEST_PAUSE = 2.0
#: PostgreSQL ends a writing transaction of which it hears nothing for so long. A program that was cut off from it in the
#: middle of one would otherwise keep its rows locked, and everybody waiting, for as long as the network is down.
_IDLE_MILLISECONDS = 20_000
#: For how long libpq waits for a PostgreSQL of which it hears nothing, in seconds; the last in milliseconds. What was sent
#: into a broken network is else sent again after ever longer pauses, for a quarter of an hour.
POSTGRESQL_DEADLINES = {
    "connect_timeout": 5, "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}  # fmt: skip


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

    Its errors quote no values, which are people's texts: errors are logged, and logs outlive what they speak of.
    Raises InvalidSettings where the driver is not installed.
    """
    if url.startswith("sqlite"):
        engine = sqlalchemy.create_engine(
            url, connect_args={"timeout": 30.0, "check_same_thread": False}, pool_size=pool_size, max_overflow=20,
            hide_parameters=True,
        )  # fmt: skip
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if importlib.util.find_spec("psycopg") is None:
        raise InvalidSettings(
            "CORPUSMILL_DATABASE_URL names PostgreSQL, and its driver is not installed: pip install 'corpusmill[postgres]'."
        )
    engine = sqlalchemy.create_engine(
        url, pool_pre_ping=True, pool_size=pool_size, max_overflow=20,
        connect_args=dict(POSTGRESQL_DEADLINES), hide_parameters=True,
    )  # fmt: skip
    event.listen(engine, "begin", _begin_postgresql)
    event.listen(engine, "handle_error", quote_no_row)
    return engine


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


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get(_WRITES, False):
        connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = {_IDLE_MILLISECONDS:d}")


def quote_no_row(context: ExceptionContext) -> None:
    """What `without_row` does, as a listener to an engine's errors."""
    said = str(context.original_exception)
    without_row(context.original_exception)
    if (ours := context.sqlalchemy_exception) is not None:
        ours.args = tuple(part.replace(said, str(context.original_exception)) for part in ours.args)


def without_row(error: BaseException) -> None:
    """Keep only the message itself of what PostgreSQL says of an error: details and context quote the row."""
    said: Any = getattr(error, "diag", None)
    if said is not None and said.message_primary is not None:  # else it is the driver's own
        error.args = (said.message_primary,)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads. Raises DatabaseUnavailable where the database does not answer."""
    with translated(), engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes; committed at the end, rolled back on an exception."""
    with translated(), to_write(engine.connect()) as connection, connection.begin():
        yield connection


def to_write(connection: Connection) -> Connection:
    """The same connection, whose transactions take SQLite's write lock at their start."""
    return connection.execution_options(**{_WRITES: True})


@contextmanager
def translated() -> Iterator[None]:
    """What a driver raises where the database does not answer becomes DatabaseUnavailable."""
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        if _no_room(error):
            raise DatabaseUnavailable("The database takes nothing more: its disk is full.") from error
        raise DatabaseUnavailable(f"The database did not answer: {type(error).__name__}.") from error
    except exc.InternalError as error:
        if not error.connection_invalidated:
            raise
        raise DatabaseUnavailable("The database ended a transaction that had stood still.") from error
    except exc.DataError as error:
        raise InvalidRequest(
            "The request holds what cannot be stored: a NUL, half a surrogate pair, NaN or an infinity."
        ) from error


def _no_room(error: exc.SQLAlchemyError) -> bool:
    """Whether a driver says that the disk is full: PostgreSQL's disk_full, or SQLite's."""
    found = getattr(error, "orig", None)
    return getattr(found, "sqlstate", None) == "53100" or getattr(found, "sqlite_errorname", None) == "SQLITE_FULL"


def transact(engine: Engine, work: Callable[[Connection], T], *, patience: float = 10.0) -> T:
    """Run `work` in a writing transaction, again with jitter for `patience` seconds while the database is not there.

    A connection may be lost while COMMIT is under way, so `work` must find out by itself that an earlier run of it was
    committed after all. Raises DatabaseUnavailable when the patience is spent. One that lasts says in the log, once, for
    what it waits: a worker that saves a shard does so for minutes, and its disk may be full.
    """
    deadline = time.monotonic() + patience
    pause = 0.05
    while True:
        try:
            with writing(engine) as connection:
                return work(connection)
        except DatabaseUnavailable as error:
            if time.monotonic() + pause > deadline:
                raise
            if pause < _LONGEST_PAUSE <= 2 * pause:
                log.warning("waiting for the database", why=str(error), seconds=round(deadline - time.monotonic()))
        time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 — jitter, not a secret
        pause = min(pause * 2, _LONGEST_PAUSE)


def insert_into(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that may say what is done on a conflict, in the words of the connection's dialect."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def settle(engine: Engine) -> None:
    """Bring SQLite's log into its file and empty it, so that nothing deleted is left there. PostgreSQL sees to its own.

    No more than a try, which others who read or write at that moment make vain: the sweeper tries again and again.
    """
    if engine.dialect.name == "sqlite":
        with translated(), engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            # with the usual patience a checkpoint waits for readers, and keeps every writer waiting meanwhile
            driver.execute("PRAGMA busy_timeout=0")
            try:
                driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except (
                sqlite3.Error
            ) as error:  # a full disk: what was to be deleted is, and the answer must not say otherwise
                log.warning("the database's log is not emptied", why=str(error))
            finally:
                driver.execute("PRAGMA busy_timeout=30000")


def now(engine: Engine) -> float:
    """The database's clock, in seconds since 1970."""
    with reading(engine) as connection:
        return clock_of(connection)


def clock_of(connection: Connection) -> float:
    """The same, in a transaction that is open."""
    return float(connection.execute(select(db_now())).scalar_one())


def _alembic(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["url"] = url
    return config


def migrate(url: str, revision: str = "head") -> None:
    """Bring the database's tables to `revision`; makes a SQLite file where there is none.

    Tables that a newer version has expanded are left as they are. Raises DatabaseUnavailable, and InvalidSettings where
    the tables are of a version that this code cannot use.
    """
    with translated():
        try:
            command.upgrade(_alembic(url), revision)
        except CommandError as error:
            engine = create_engine(url, pool_size=1)
            try:
                expanded = usable(engine)
            finally:
                engine.dispose()
            if not expanded:
                raise InvalidSettings(
                    "The database's tables are those of another version, newer than this program: install that version, "
                    f"or restore a backup made before the upgrade ({error})."
                ) from error


def at_head(engine: Engine) -> bool:
    """Whether the tables are those of this version."""
    return _read_revision(engine) == _head()


def usable(engine: Engine) -> bool:
    """Whether this code can use the tables: they are its own, or a newer version has expanded them.

    A revision is four digits. Those of one thousand only expand: they add tables, indexes, and columns that may be left
    out. What older code would stumble over begins the next thousand.
    """
    return serves(_read_revision(engine))


def serves(revision: str | None) -> bool:
    """Whether this code can use tables of a revision; see `usable`."""
    head = _head()
    return revision is not None and len(revision) == len(head) and revision[0] == head[0] and revision >= head


def revision_of(connection: Connection) -> str | None:
    """The revision of the tables; None where there are none."""
    return MigrationContext.configure(connection).get_current_revision()


def knows(revision: str) -> bool:
    """Whether tables of a revision can be used by this code, after `migrate`."""
    return serves(revision) or revision in {script.revision for script in _scripts().walk_revisions()}


def _read_revision(engine: Engine) -> str | None:
    with reading(engine) as connection:
        return revision_of(connection)


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_alembic(""))


def _head() -> str:
    head = _scripts().get_current_head()
    assert head is not None, "there are migrations"
    return head
