"""A transaction that is tried again while the database is away."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, text
from structlog.testing import capture_logs

from corpusmill.errors import DatabaseUnavailable
from db.engine import Engine, transact


@pytest.mark.parametrize(("failures", "lines"), [(4, 0), (20, 1)])
def test_a_long_wait_says_once_for_what_and_a_short_one_nothing(
    database: Engine, monkeypatch: pytest.MonkeyPatch, failures: int, lines: int
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    tries = 0

    def work(connection: Connection) -> int:
        nonlocal tries
        tries += 1
        if tries <= failures:
            raise DatabaseUnavailable("The database takes nothing more: its disk is full.")
        return int(connection.execute(text("SELECT 7")).scalar_one())

    with capture_logs() as logged:
        assert transact(database, work, patience=600.0) == 7
    said = [line for line in logged if line["event"] == "waiting for the database"]
    assert [line["why"] for line in said] == ["The database takes nothing more: its disk is full."] * lines


def test_whoever_has_waited_long_enough_hears_why(database: Engine) -> None:
    def work(connection: Connection) -> None:
        raise DatabaseUnavailable("The database did not answer.")

    with pytest.raises(DatabaseUnavailable, match="did not answer"):
        transact(database, work, patience=0.2)
