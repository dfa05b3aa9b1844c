"""Links to a rig's servers, for programs that are to reach them over one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy

from .databases import Postgresql
from .link import Link
from .rig import Rig


@contextmanager
def database_link(rig: Rig, seed: int = 1) -> Iterator[tuple[Link, str]]:
    """A link to the rig's PostgreSQL, and the URL that leads over it."""
    if not isinstance(rig.database, Postgresql):
        pytest.skip("a SQLite file has no connections")
    url = sqlalchemy.make_url(rig.database.url)
    target = Path(str(url.query["host"])) / f".s.PGSQL.{url.port or 5432}"
    with tempfile.TemporaryDirectory(prefix="link-") as folder:
        link = Link(Path(folder) / ".s.PGSQL.5432", target, seed)
        over = url.set(drivername="postgresql", query={"host": folder}, port=None)
        try:
            yield link, over.render_as_string(hide_password=False)
        finally:
            link.close()


@contextmanager
def broker_link(rig: Rig, seed: int = 1) -> Iterator[tuple[Link, str]]:
    """A link to the rig's broker, and the URL that leads over it."""
    with tempfile.TemporaryDirectory(prefix="link-") as folder:
        link = Link(Path(folder) / "s", rig.broker.socket, seed)
        try:
            yield link, f"redis+socket://{folder}/s?virtual_host=0"
        finally:
            link.close()
