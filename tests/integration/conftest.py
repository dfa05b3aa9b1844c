"""Real databases: a SQLite file and a PostgreSQL server, each test with a database of its own; and an API on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from corpusmill.settings import Settings
from db.engine import Engine, create_engine, migrate
from tests.databases import new_database
from tests.integration.reuse_house import House
from tests.integration.steps import loses_commits
from tests.integration.unread import arrive
from tests.integration.world import Shelf, World


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.sqlite3'}"
    return new_database(request.getfixturevalue("postgresql_server"))


@pytest.fixture
def theirs(database_url: str) -> Iterator[Engine]:
    """Somebody else's database."""
    if database_url.startswith("sqlite"):
        Path(database_url.removeprefix("sqlite:///")).touch()
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    """An engine on a migrated database."""
    migrate(database_url)
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def house(database: Engine, tmp_path: Path) -> House:
    return House(database, tmp_path)


@pytest.fixture
def http(database: Engine, database_url: str, tmp_path: Path) -> Iterator[FlaskClient]:
    """The API on the database of this test, with a configured database and a configured folder."""
    places = '[databases.shop]\nurl = "sqlite:////nowhere/shop.sqlite3"\n[folders.out]\npath = "/nowhere"\n'
    (tmp_path / "places.toml").write_text(places)
    url = database_url.replace("postgresql+psycopg://", "postgresql://")
    app = create_app(Settings(data_dir=tmp_path, database_url=url, places_file=tmp_path / "places.toml"))
    yield app.test_client()
    app.extensions["corpusmill"].database.dispose()
    app.extensions["corpusmill"].doorbell.close()


@pytest.fixture
def settings(http: FlaskClient) -> Settings:
    """What the API of this test was told."""
    application: Any = http.application
    found: Settings = application.extensions["corpusmill"].settings
    return found


@pytest.fixture
def upload(database: Engine, settings: Settings) -> str:
    """The id of an upload that has arrived whole, which nobody reads."""
    arrive(database, settings, "corpus_x")
    return "corpus_x"


@pytest.fixture
def lose_commit(http: FlaskClient) -> Callable[[], None]:
    """Makes the API lose the database's answer to the next writing transaction, which is committed."""
    application: Any = http.application
    return loses_commits(application.extensions["corpusmill"].database)


@pytest.fixture
def world(database: Engine, tmp_path: Path) -> World:
    """Nights on the database of this test."""
    return World(database, Settings(data_dir=tmp_path / "data"), Shelf())
