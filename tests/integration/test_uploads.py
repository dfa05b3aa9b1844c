"""Uploads that are cut off, on both databases: their row, their files and their key are kept together or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event

from corpusmill.settings import Settings
from db import corpora, ingest
from db.engine import Engine, reading, transact
from tests.integration.test_races import Bell
from worker.sweep import Sweeper

BODY = b'{"text": "a"}\n{"text": "b"}\n'
KEY = {"Idempotency-Key": "once"}


def upload(http: FlaskClient) -> Any:
    return http.post("/api/v1/corpora", data=BODY, content_type="application/x-ndjson", headers=KEY)


class Outage:
    """Takes the API's database away once it has committed so many writing transactions, of which the last is `answered`
    or not, until it is `over`."""

    def __init__(self, http: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
        application: Any = http.application
        self.database: Engine = application.extensions["corpusmill"].database
        self.dialect: Any = self.database.dialect
        self.left: int | None = None
        self.answered = True
        self.away = False
        self._writes = False
        for name in ("do_commit", "do_begin"):
            monkeypatch.setattr(self.dialect, name, getattr(self, name)(getattr(self.dialect, name)))
        event.listen(self.database, "commit", self._note)

    def after(self, commits: int, *, answered: bool) -> None:
        self.left, self.answered = commits, answered

    def over(self) -> None:
        self.left, self.away = None, False

    def _note(self, connection: Any) -> None:
        self._writes = bool(connection.get_execution_options().get("corpusmill_writes"))

    def do_begin(self, begin: Callable[[Any], None]) -> Callable[[Any], None]:
        def beginning(connection: Any) -> None:
            if self.away:
                raise self.dialect.dbapi.OperationalError("the database is away")
            begin(connection)

        return beginning

    def do_commit(self, commit: Callable[[Any], None]) -> Callable[[Any], None]:
        def committing(connection: Any) -> None:
            commit(connection)
            if self.left is None or not self._writes:
                return
            self.left -= 1
            if self.left == 0:
                self.left, self.away = None, True
                if not self.answered:
                    raise self.dialect.dbapi.OperationalError("the connection is lost")

        return committing


@pytest.fixture
def outage(http: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> Outage:
    """An outage that outlasts everybody's patience, which is short here."""
    monkeypatch.setattr(transact, "__kwdefaults__", {"patience": 0.2})
    monkeypatch.setattr(ingest, "transact", lambda *given, **_: transact(*given))
    return Outage(http, monkeypatch)


def read_left(database: Engine, folder: Path) -> None:
    """What the sweeper does with uploads that were left lying, once their leases have run out and an hour is over."""
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE corpora SET created_at = 1")
        connection.exec_driver_sql("UPDATE corpora SET lease_until = 1 WHERE lease_until IS NOT NULL")
    with reading(database) as connection:
        waiting = corpora.unclaimed(connection, grace=0.0)
    for corpus_id in waiting:
        ingest.run(database, Settings(data_dir=folder), corpus_id)
    for path in (folder / "uploads").iterdir():
        os.utime(path, (1, 1))
    Sweeper(settings=Settings(data_dir=folder), database=database, doorbell=Bell()).sweep()  # type: ignore[arg-type]


@pytest.mark.parametrize("commit", ["its row", "its lease", "its outcome"])
@pytest.mark.parametrize("answered", [True, False], ids=["answered", "in doubt"])
def test_an_upload_whose_database_goes_away_after_a_commit_is_whole_when_it_is_sent_again(
    http: FlaskClient, database: Engine, outage: Outage, tmp_path: Path, commit: str, answered: bool
) -> None:
    outage.after({"its row": 1, "its lease": 2, "its outcome": 3}[commit], answered=answered)
    assert upload(http).status_code == 503
    outage.over()
    again = upload(http)
    assert again.status_code == 201
    read_left(database, tmp_path)
    (listed,) = http.get("/api/v1/corpora").get_json()["data"]
    assert listed["id"] == again.get_json()["id"], "the key names one corpus, and there is no other"
    assert (listed["status"], listed["error"]) == ("ready", None)
    documents = http.get(f"/api/v1/corpora/{listed['id']}/documents").get_json()["data"]
    assert [one["text"] for one in documents] == ["a", "b"]
    assert list((tmp_path / "uploads").iterdir()) == []


def test_an_upload_whose_database_comes_back_in_time_is_taken_back_whole(
    http: FlaskClient, outage: Outage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = ingest.run

    def running(*given: Any) -> None:
        try:
            real(*given)
        finally:
            outage.over()

    monkeypatch.setattr(ingest, "run", running)
    outage.after(1, answered=True)
    assert upload(http).status_code == 503
    assert http.get("/api/v1/corpora").get_json()["data"] == []
    assert [*(tmp_path / "uploads").iterdir(), *(tmp_path / "corpora").glob("*")] == []
    assert upload(http).get_json()["status"] == "ready"


def test_an_upload_on_which_its_reader_fails_is_rejected_and_none_of_it_is_quoted(
    http: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("a secret text")

    monkeypatch.setattr(ingest, "ingest", failing)
    made = upload(http).get_json()
    assert (made["status"], made["error"]["code"]) == ("rejected", "reader_failed")
    assert "RuntimeError" in made["error"]["message"]
    out, err = capfd.readouterr()
    assert "secret" not in str(made) + out + err
    assert list((tmp_path / "uploads").iterdir()) == []
