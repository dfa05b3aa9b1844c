"""Uploads that are cut off, on both databases: their row, their files and their key are kept together or not at all."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event, func, select

import api.jobs
from corpusmill.errors import StorageFull
from corpusmill.settings import Settings
from db import corpora, files, ingest
from db.engine import Engine, reading, transact
from db.tables import corpora as corpus_table
from db.tables import idempotency, jobs
from tests.integration.programs import sweep, work

BODY = b'{"text": "a"}\n{"text": "b"}\n'
KEY = {"Idempotency-Key": "once"}
JOB = {"task": "classification", "model": "echo"}


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
    sweep(database, folder)


@pytest.mark.parametrize("commit", ["its row", pytest.param("its lease", marks=pytest.mark.slow), "its outcome"])
@pytest.mark.parametrize("answered", [pytest.param(True, marks=pytest.mark.slow), False], ids=["answered", "in doubt"])
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


def submit(http: FlaskClient, *documents: dict[str, Any]) -> Any:
    return http.post("/api/v1/jobs", json=JOB | {"documents": documents or [{"text": "a"}]}, headers=KEY)


def nothing_of_it(database: Engine, folder: Path) -> bool:
    """Whether no row, no key and no file is left of what was refused."""
    with reading(database) as connection:
        rows = [connection.scalar(select(func.count()).select_from(one)) for one in (corpus_table, idempotency, jobs)]
    return (rows, [*(folder / "uploads").glob("*"), *(folder / "corpora").glob("*")]) == ([0, 0, 0], [])


def back_in_time(outage: Outage, monkeypatch: pytest.MonkeyPatch, before: Callable[[], None] = lambda: None) -> None:
    """The database is back when a refused request is taken back."""
    real = files.take_back

    def taking(*given: Any, **named: Any) -> None:
        outage.over()
        before()
        real(*given, **named)

    monkeypatch.setattr(files, "take_back", taking)


@pytest.mark.parametrize("request_of", [upload, submit])
@pytest.mark.parametrize("commit", ["its row", pytest.param("its lease", marks=pytest.mark.slow), "its outcome"])
@pytest.mark.parametrize("answered", [pytest.param(True, marks=pytest.mark.slow), False], ids=["answered", "in doubt"])
def test_what_is_refused_is_taken_back_whole_where_the_database_comes_back_in_time(
    http: FlaskClient, database: Engine, outage: Outage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    request_of: Callable[[FlaskClient], Any], commit: str, answered: bool,
) -> None:  # fmt: skip
    back_in_time(outage, monkeypatch)
    after = {"its row": 1, "its lease": 2, "its outcome": 3}[commit]
    outage.after(after, answered=answered)
    refused = request_of(http)
    assert refused.status_code == 503
    assert nothing_of_it(database, tmp_path)
    assert request_of(http).status_code in {201, 202}


@pytest.mark.parametrize("ended", [False, True])
def test_a_job_that_was_committed_though_its_answer_was_lost_keeps_its_documents(
    http: FlaskClient, database: Engine, outage: Outage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, ended: bool
) -> None:
    back_in_time(outage, monkeypatch, before=(lambda: work(database, tmp_path)) if ended else lambda: None)
    outage.after(4, answered=False)
    assert submit(http).status_code == 503
    job = submit(http).get_json()
    work(database, tmp_path)
    assert http.get(f"/api/v1/jobs/{job['id']}").get_json()["status"] == "completed"
    assert http.get(f"/api/v1/corpora/{job['corpus']}/documents").get_json()["data"][0]["text"] == "a"
    assert len(http.get("/api/v1/jobs").get_json()["data"]) == 1


def test_a_job_whose_key_another_has_taken_by_a_moment_leaves_none_of_its_documents(
    http: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert submit(http).status_code == 202
    kept = list((tmp_path / "corpora").iterdir())
    monkeypatch.setattr(api.jobs, "first_answer", lambda *_: None)
    refused = submit(http, {"text": "other"})
    assert (refused.status_code, refused.get_json()["code"]) == (422, "idempotency_key_reused")
    assert list((tmp_path / "corpora").iterdir()) == kept


FAILURES = {
    OSError(errno.ENOSPC, "no room"): (507, "storage_full"),
    OSError(errno.EFBIG, "no longer"): (507, "storage_full"),
    OSError(errno.EROFS, "read-only"): (507, "storage_full"),
    StorageFull("no room"): (507, "storage_full"),
    OSError(errno.EMFILE, "no descriptor"): (503, "resources_unavailable"),
    OSError(errno.ENFILE, "no descriptor"): (503, "resources_unavailable"),
    OSError(errno.EAGAIN, "no process"): (503, "resources_unavailable"),
    OSError(errno.ENOMEM, "no memory"): (503, "resources_unavailable"),
    OSError(errno.EIO, "a fault"): (500, "internal"),
}
STAGES = {"claimed": "db.ingest._start", "read": "db.ingest.ingest", "done": "db.planning.plan_waiting"}


@pytest.mark.parametrize("request_of", [upload, submit])
@pytest.mark.parametrize(
    ("stage", "failure"),
    [
        # One of each kind at once, the others when there is time for them.
        *(pytest.param("read", one, marks=[] if at % 4 == 0 else pytest.mark.slow) for at, one in enumerate(FAILURES)),
        *((stage, [*FAILURES][-1]) for stage in ("claimed", "done")),
    ],
)
def test_what_the_machine_has_no_room_or_means_for_is_refused_and_taken_back_whole(
    http: FlaskClient, database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    request_of: Callable[[FlaskClient], Any], stage: str, failure: Exception,
) -> None:  # fmt: skip
    def failing(*_: object, **__: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(STAGES[stage], failing)
        answer = request_of(http)
    assert (answer.status_code, answer.get_json()["code"]) == FAILURES[failure]
    assert ("Retry-After" in answer.headers) == (answer.status_code == 503)
    assert nothing_of_it(database, tmp_path)
    assert request_of(http).status_code in {201, 202}


def test_an_upload_for_whose_reader_there_is_no_process_is_refused_and_taken_back_whole(
    http: FlaskClient, database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "fork")

    monkeypatch.setattr(subprocess, "Popen", failing)
    asked = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
    answer = http.post("/api/v1/corpora", data=gzip.compress(BODY), headers=asked | KEY)
    assert (answer.status_code, answer.get_json()["code"]) == (503, "resources_unavailable")
    assert nothing_of_it(database, tmp_path)


def test_a_body_that_the_disk_does_not_take_leaves_nothing(
    http: FlaskClient, database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(path: Path, body: bytes) -> None:
        with path.open("wb") as file:
            file.write(body[:3])
        raise OSError(errno.ENOSPC, "as the disk says")

    monkeypatch.setattr(Path, "write_bytes", cut)
    assert submit(http).status_code == 507
    assert nothing_of_it(database, tmp_path)


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


def test_nothing_is_put_where_a_file_system_is_not_mounted(http: FlaskClient, database: Engine, tmp_path: Path) -> None:
    """What is mounted later would hide it, and until then an empty folder would look as if all corpora were lost."""
    corpus = http.post("/api/v1/corpora", data=BODY, content_type="application/x-ndjson").get_json()["id"]
    folders = [tmp_path / name for name in ("corpora", "uploads")]
    elsewhere = [folder.rename(tmp_path / f"{folder.name} elsewhere") for folder in folders]
    lines: dict[str, Any] = {"data": BODY, "content_type": "application/x-ndjson"}
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/api/v1/corpora", lines),
        ("/api/v1/jobs", {"json": JOB | {"documents": [{"text": "a"}]}}),
        (f"/api/v1/corpora/{corpus}/references", lines),
        ("/api/v1/jobs", {"json": JOB | {"corpus": corpus}}),
    ]
    for path, sent in requests:
        refused = http.open(path, method="PUT" if "references" in path else "POST", **sent)
        assert (refused.status_code, refused.get_json()["code"]) == (503, "resources_unavailable"), refused.text
        assert not any(folder.exists() for folder in folders)
    for folder, aside in zip(folders, elsewhere, strict=True):
        aside.rename(folder)
    assert http.post("/api/v1/corpora", **lines).status_code == 201
    with reading(database) as connection:
        assert connection.scalar(select(func.count()).select_from(corpus_table)) == 2, "nothing of what was refused"
