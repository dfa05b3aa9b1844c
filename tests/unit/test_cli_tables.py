"""A database that cannot be used: which one, what its driver says of it, and what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from cli.tables import upgrade
from corpusmill.errors import DatabaseUnavailable, InvalidSettings
from corpusmill.settings import Settings


def test_a_server_that_does_not_answer_is_named_without_user_and_password() -> None:
    settings = Settings(database_url="postgresql://somebody:secret@127.0.0.1:1/texts")
    with pytest.raises(DatabaseUnavailable) as refused:
        upgrade(settings)
    said = str(refused.value)
    assert said.startswith("The database texts at 127.0.0.1:1 cannot be used: ")
    assert "refused" in said
    assert said.endswith("Start it, or correct CORPUSMILL_DATABASE_URL.")
    assert "secret" not in said
    assert "\n" not in said


def test_a_file_that_cannot_be_opened_is_named_with_the_way_out(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "not made")
    with pytest.raises(DatabaseUnavailable) as refused:
        upgrade(settings)
    assert f"{tmp_path}/not made/corpusmill.sqlite3 cannot be used: unable to open database file." in str(refused.value)
    assert "CORPUSMILL_DATA_DIR" in str(refused.value)


def test_tables_of_a_newer_version_are_told_as_such(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    upgrade(settings)
    with sqlite3.connect(tmp_path / "corpusmill.sqlite3") as connection:
        connection.execute("update alembic_version set version_num = 'ffff'")
    connection.close()
    with pytest.raises(InvalidSettings, match="another version, newer than this program"):
        upgrade(settings)


def test_a_database_whose_driver_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidSettings, match=r"pip install 'corpusmill\[postgres\]'"):
        upgrade(Settings(database_url="postgresql://somebody@127.0.0.1:1/texts"))
