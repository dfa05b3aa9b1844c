"""Copies of the whole database: one moment of it, taken while others write, and put where there is nothing yet.

Knows SQLite's backup interface, and PostgreSQL's `pg_dump` and `pg_restore`. Must not know the files of corpora.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy
from sqlalchemy import select

from corpora.disk import synced
from corpusmill.errors import Conflict, DatabaseUnavailable, InvalidSettings
from db.engine import create_engine, reading, revision_of, translated
from db.tables import corpora, forgetting

Dialect = Literal["sqlite", "postgresql"]
#: File names of a dump, by the kind of database.
DUMPS: dict[Dialect, str] = {"sqlite": "database.sqlite3", "postgresql": "database.pgdump"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The database at one moment, for as long as the block that made it: the revision of its tables, the status of each
    corpus by id (`deleted`: its documents are still needed, see `db.forgetting`), and `dump`, which writes all of it into a
    file."""

    revision: str
    corpora: dict[str, str]
    dump: Callable[[Path], None]


def dialect_of(url: str) -> Dialect:
    """The kind of a database, by its URL in SQLAlchemy's form."""
    return "sqlite" if url.startswith("sqlite") else "postgresql"


def sqlite_path(url: str) -> Path:
    """The file of a SQLite database."""
    return Path(url.removeprefix("sqlite:///"))


@contextmanager
def snapshot(url: str, *, dumping: bool = True) -> Iterator[Snapshot]:
    """The database as it is now, whatever others write meanwhile; without `dumping` it is only to be looked at.

    Raises DatabaseUnavailable, and InvalidSettings where there are no tables, or no program to dump them with.
    """
    yield from (_sqlite_snapshot(url) if dialect_of(url) == "sqlite" else _postgresql_snapshot(url, dumping))


def _sqlite_snapshot(url: str) -> Iterator[Snapshot]:
    path = sqlite_path(url)
    if not path.exists():
        raise InvalidSettings(f"There is no database {path}: nothing can be backed up.")
    with _sqlite_translated(), closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        # The transaction holds the moment for the list and the dump alike, and holds up nobody: readers never do.
        connection.execute("BEGIN")
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            raise _no_tables()
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        known = dict(connection.execute("SELECT id, status FROM corpora"))
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'forgetting'").fetchone():
            known |= dict(connection.execute("SELECT corpus_id, 'deleted' FROM forgetting"))

        def dump(target: Path) -> None:
            with closing(sqlite3.connect(target, isolation_level=None)) as copy:
                connection.backup(copy)  # in one step: in several, every commit of others would begin it again
                copy.execute("PRAGMA journal_mode=DELETE").fetchall()  # one file, without a log beside it
                (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
                if verdict != "ok":
                    raise DatabaseUnavailable(f"The database {path} is damaged: {verdict}.")

        yield Snapshot(revision=revision, corpora=known, dump=dump)


@contextmanager
def _sqlite_translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise DatabaseUnavailable(f"The database could not be copied: {error}.") from error


def _postgresql_snapshot(url: str, dumping: bool) -> Iterator[Snapshot]:
    if dumping:
        _program("pg_dump")
    engine = create_engine(url, pool_size=1).execution_options(isolation_level="REPEATABLE READ")
    try:
        with reading(engine) as connection:
            revision = revision_of(connection)
            if revision is None:
                raise _no_tables()
            name = connection.scalar(sqlalchemy.text("SELECT pg_export_snapshot()"))
            known = {row.id: row.status for row in connection.execute(select(corpora.c.id, corpora.c.status))}
            if sqlalchemy.inspect(connection).has_table(forgetting.name):  # the tables may be an older version's
                known |= dict.fromkeys(connection.scalars(select(forgetting.c.corpus_id)), "deleted")

            def dump(target: Path) -> None:
                _run(url, "pg_dump", f"--snapshot={name}", "--format=custom", "--no-owner", f"--file={target}")

            yield Snapshot(revision=revision, corpora=known, dump=dump)
    finally:
        engine.dispose()


def require_empty(url: str) -> None:
    """Raises Conflict where there is a database already: what it holds is never overwritten."""
    if dialect_of(url) == "sqlite":
        if sqlite_path(url).exists():
            raise Conflict(f"There is a database {sqlite_path(url)} already: move it away first.")
        return
    _program("pg_restore")
    engine = create_engine(url, pool_size=1)
    try:
        with translated():
            tables = sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if tables:
        raise Conflict("The database that CORPUSMILL_DATABASE_URL names has tables already: give an empty one.")


def load(url: str, dump: Path, settle: Callable[[str], None]) -> None:
    """Put a dump into an empty place, whole or not at all. `settle` is called with the URL of the copy before anybody else
    can reach it (SQLite), or once it is there (PostgreSQL)."""
    if dialect_of(url) == "postgresql":
        _run(
            url,
            "pg_restore",
            "--single-transaction",
            "--exit-on-error",
            "--no-owner",
            "--dbname",
            _address(url),
            str(dump),
        )
        settle(url)
        return
    path = sqlite_path(url)
    aside = path.with_name(f"{path.name}.partial")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        shutil.copyfile(dump, aside)
        settle(f"sqlite:///{aside}")
        synced(aside)
        aside.rename(path)
        synced(path.parent)
    finally:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{aside}{suffix}").unlink(missing_ok=True)


def _run(url: str, program: str, *arguments: str) -> None:
    """A program of PostgreSQL's; the password goes by its environment, where others cannot read it."""
    password = sqlalchemy.make_url(url).password
    environ = {**os.environ, **({"PGPASSWORD": password} if password else {})}
    place = () if program == "pg_restore" else ("--dbname", _address(url))
    ended = subprocess.run(
        [_program(program), "--no-password", *arguments, *place],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise DatabaseUnavailable(f"{program} failed: {' '.join(ended.stderr.split()) or 'it did not say why'}")


def _address(url: str) -> str:
    return sqlalchemy.make_url(url)._replace(drivername="postgresql", password=None).render_as_string()


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise InvalidSettings(
            f"{name} is not on the PATH: install PostgreSQL's client programs, of the server's version or newer, or look "
            "after the database by other means and give --files-only."
        )
    return found


def _no_tables() -> InvalidSettings:
    return InvalidSettings("The database has no tables: nothing was ever stored in it.")
