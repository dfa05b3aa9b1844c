"""Deletions over HTTP, on both databases: done once whatever becomes of their answer, and nothing of them is left."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import inspect, select, update
from typer.testing import CliRunner

from cli.commands import app
from corpora import ingest as read_upload
from corpusmill.errors import NotFound
from corpusmill.settings import Settings
from corpusmill.texts import text_hash
from db import backup, files, forgetting, ingest, references, restore
from db.engine import Engine, create_engine, reading
from db.tables import corpora, idempotency, jobs
from db.workers import Description
from tests.integration.test_races import Bell
from tests.integration.test_references import Echo
from tests.integration.world import Killed
from worker.heartbeat import Heartbeat
from worker.runner import Runner
from worker.serving import serve
from worker.sweep import Sweeper


def test_a_deleted_corpus_is_gone_though_the_answer_to_its_commit_was_lost(
    http: FlaskClient, lose_commit: Callable[[], None], tmp_path: Path
) -> None:
    made = http.post("/api/v1/corpora", data=b'{"text": "a"}\n', content_type="application/x-ndjson").get_json()
    lose_commit()
    assert http.delete(f"/api/v1/corpora/{made['id']}").status_code == 204
    assert http.delete(f"/api/v1/corpora/{made['id']}").status_code == 404
    assert list((tmp_path / "corpora").iterdir()) == []


def test_a_deleted_job_is_gone_with_its_documents_though_the_answer_to_its_commit_was_lost(
    http: FlaskClient, lose_commit: Callable[[], None], tmp_path: Path
) -> None:
    asked = {"task": "classification", "model": "echo", "documents": [{"text": "a"}]}
    made = http.post("/api/v1/jobs", json=asked).get_json()
    assert len(list((tmp_path / "corpora").iterdir())) == 1
    lose_commit()
    assert http.delete(f"/api/v1/jobs/{made['id']}").status_code == 204
    assert http.delete(f"/api/v1/jobs/{made['id']}").status_code == 404
    assert list((tmp_path / "corpora").iterdir()) == []


JOB = {"task": "classification", "model": "echo", "documents": [{"text": "a"}]}


def column(database: Engine, name: str) -> list[object]:
    with reading(database) as connection:
        return list(connection.scalars(select(idempotency.c[name])))


def test_a_deleted_job_takes_with_it_what_its_key_was_answered_and_is_not_made_again(
    http: FlaskClient, database: Engine, tmp_path: Path
) -> None:
    word, key = uuid4().hex, {"Idempotency-Key": "once"}
    asked = JOB | {"name": word, "metadata": {"for": word}}
    made = http.post("/api/v1/jobs", json=asked, headers=key).get_json()
    assert made["name"] == word
    assert http.delete(f"/api/v1/jobs/{made['id']}").status_code == 204
    assert word not in str(column(database, "answer"))
    again = http.post("/api/v1/jobs", json=asked, headers=key)
    assert (again.status_code, again.get_json()["code"]) == (410, "gone")
    assert made["id"] in again.get_json()["detail"]
    other = http.post("/api/v1/jobs", json=asked | {"name": "other"}, headers=key)
    assert (other.status_code, other.get_json()["code"]) == (422, "idempotency_key_reused")
    assert http.get("/api/v1/jobs").get_json()["data"] == []
    assert list((tmp_path / "corpora").iterdir()) == []


def test_a_job_whose_time_is_over_takes_its_answer_with_it(http: FlaskClient, database: Engine, tmp_path: Path) -> None:
    made = http.post("/api/v1/jobs", json=JOB | {"ttl_seconds": 1}, headers={"Idempotency-Key": "once"}).get_json()
    files.remove_job(database, tmp_path, made["id"], expired_only=True)
    assert (
        http.post("/api/v1/jobs", json=JOB | {"ttl_seconds": 1}, headers={"Idempotency-Key": "once"}).get_json() == made
    )
    with database.begin() as connection:
        connection.execute(update(jobs).values(expires_at=0))
    files.remove_job(database, tmp_path, made["id"], expired_only=True)
    again = http.post("/api/v1/jobs", json=JOB | {"ttl_seconds": 1}, headers={"Idempotency-Key": "once"})
    assert again.status_code == 410


def test_a_deleted_corpus_is_not_made_again_by_its_key(http: FlaskClient, tmp_path: Path) -> None:
    key = {"Idempotency-Key": "once", "Content-Type": "application/x-ndjson"}
    made = http.post("/api/v1/corpora", data=b'{"text": "a"}\n', headers=key).get_json()
    assert http.delete(f"/api/v1/corpora/{made['id']}").status_code == 204
    again = http.post("/api/v1/corpora", data=b'{"text": "a"}\n', headers=key)
    assert (again.status_code, again.get_json()["code"]) == (410, "gone")
    assert http.post("/api/v1/corpora", data=b'{"text": "b"}\n', headers=key).status_code == 422
    assert [path for folder in ("corpora", "uploads") for path in (tmp_path / folder).iterdir()] == []


def test_a_deleted_schedule_takes_its_answers_and_those_of_its_runs_with_it(
    http: FlaskClient, database: Engine
) -> None:
    definition = {
        "name": uuid4().hex, "cron": "0 2 * * *", "source": {"type": "corpus", "name": "day"},
        "job": {"task": "classification", "model": "echo"},
    }  # fmt: skip
    made = http.post("/api/v1/schedules", json=definition, headers={"Idempotency-Key": "one"}).get_json()
    address = f"/api/v1/schedules/{made['id']}"
    assert http.post(f"{address}/run", headers={"Idempotency-Key": "two"}).status_code == 202
    assert http.delete(address).status_code == 204
    assert column(database, "answer") == [{}, {}]
    assert http.post("/api/v1/schedules", json=definition, headers={"Idempotency-Key": "one"}).status_code == 410
    assert http.post(f"{address}/run", headers={"Idempotency-Key": "two"}).status_code == 410


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_was_deleted_while_somebody_read_leaves_the_disk_at_a_later_sweep(
    http: FlaskClient, database: Engine, tmp_path: Path
) -> None:
    def traces() -> list[str]:
        return [path.name for path in tmp_path.glob("test.sqlite3*") if word.encode() in path.read_bytes()]

    word = uuid4().hex
    made = http.post("/api/v1/jobs", json=JOB | {"name": word}).get_json()
    sweeper = Sweeper(settings=Settings(data_dir=tmp_path), database=database, doorbell=Bell())  # type: ignore[arg-type]
    with reading(database) as connection:
        connection.execute(select(jobs.c.name)).all()
        assert http.delete(f"/api/v1/jobs/{made['id']}").status_code == 204
        sweeper.sweep()
        assert traces(), "whoever reads sees what was there"
    sweeper.sweep()
    assert traces() == []


def test_a_corpus_that_is_deleted_while_it_is_read_leaves_no_file(
    http: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deleted_meanwhile(upload: Path, kind: Any, options: Any, target: Path) -> Any:
        kept = upload.with_name("opened")  # the reader has it open, and reads on
        upload.rename(kept)
        assert http.delete(f"/api/v1/corpora/{target.name}").status_code == 204
        summary = read_upload(kept, kind, options, target)
        kept.unlink()
        return summary

    monkeypatch.setattr(ingest, "ingest", deleted_meanwhile)
    body = b'{"text": "a"}\n'
    assert http.post("/api/v1/corpora", data=body, content_type="application/x-ndjson").status_code == 404
    assert [path for folder in ("corpora", "uploads") for path in (tmp_path / folder).iterdir()] == []


def tables_with(database: Engine, *words: bytes) -> set[str]:
    """The tables that hold any of the words in any column of any row."""
    found = set()
    with reading(database) as connection:
        for name in inspect(connection).get_table_names():
            for row in connection.exec_driver_sql(f'SELECT * FROM "{name}"'):
                said = b" ".join(value if isinstance(value, bytes) else str(value).encode() for value in row)
                found |= {name for word in words if word in said}
    return found


def files_with(folder: Path, *words: bytes) -> set[str]:
    whole = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name for name, content in whole.items() if any(word in content for word in words)}


def work(database: Engine, folder: Path) -> None:
    """Every shard that waits, by a worker."""
    heartbeat = Heartbeat(
        engine=database, worker_id="worker", lease=60.0, drain_flag=None,
        describe=lambda: Description(hostname="here", device="cpu", models=[]),
    )  # fmt: skip
    serve(Runner(database=database, settings=Settings(data_dir=folder), models=Echo(), heartbeat=heartbeat))


@pytest.mark.parametrize("dropped", [True, False])
def test_nothing_is_left_of_a_text_when_what_it_came_with_is_deleted_once_a_sweeper_has_been_there(
    http: FlaskClient, database: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], *, dropped: bool,
) -> None:  # fmt: skip
    """Everything that takes a text in: documents with ids, fields and references, lines that cannot be read, a document that
    fails, parameters, names, keys and exports. Nothing of it stays in any table, file or log, while another job runs,
    whether the operator had dropped what is kept for reuse or had not."""
    word = uuid4().hex
    documents = [
        {"id": f"{word}-{number}", "text": f"{word} {number}. More of it.", "reference": word, "note": word}
        for number in range(20)
    ] + [{"id": f"{word}-empty", "text": " "}]
    lines = "".join(json.dumps(document) + "\n" for document in documents) + f'{{"text": {word}\n'
    words = [word.encode(), word[::-1].encode(), *(text_hash(str(document["text"])) for document in documents[:20])]
    places = {"data_dir": str(tmp_path), "database_url": database_url.replace("+psycopg", "")}
    for name, value in places.items():
        monkeypatch.setenv(f"CORPUSMILL_{name.upper()}", value)

    def post(path: str, **body: Any) -> str:
        answer = http.post(f"/api/v1{path}", headers={"Idempotency-Key": uuid4().hex}, **body)
        assert answer.status_code in {201, 202}, answer.text
        return str(answer.get_json()["id"])

    def job(task: str, **asked: Any) -> str:
        common = {"model": "echo", "reuse": True, "name": word, "metadata": {"for": word}}
        return post("/jobs", json={"task": task} | common | asked)

    corpus = post(f"/corpora?name={word}", data=lines, content_type="application/x-ndjson")
    made = [
        job("translation", corpus=corpus),
        job("summarization", corpus=corpus, params={"prefix": word}),
        job("classification", documents=documents),
    ]
    work(database, tmp_path)
    address = f"/api/v1/corpora/{corpus}/references"
    for number, method in enumerate(("PUT", "PATCH")):
        attached = json.dumps({"id": f"{word}-{number}", "reference": f"{word} {number}"}) + "\n"
        assert http.open(address, method=method, data=attached, content_type="application/x-ndjson").status_code == 200
    inline = []
    for one in made:
        ended = http.get(f"/api/v1/jobs/{one}").get_json()
        assert (ended["status"], ended["counts"]["failed"]) == ("completed_with_errors", 1)
        inline.append(ended["corpus"])
        for form in ("jsonl", "csv", "parquet"):
            assert http.get(f"/api/v1/jobs/{one}/export?format={form}").status_code == 200
        assert http.get(f"/api/v1/jobs/{one}/metrics").status_code == 200
    assert tables_with(database, *words) >= {"corpora", "jobs", "results", "idempotency", "reused_outputs"}
    assert files_with(tmp_path / "corpora", *words)

    http.post("/api/v1/jobs", json=JOB | {"documents": [{"text": "b"}] * 40, "params": {"delay_ms": 20}})
    other = threading.Thread(target=work, args=(database, tmp_path))
    other.start()
    if dropped:
        for each in set(inline):
            assert CliRunner().invoke(app, ["reuse", "drop", "--corpus", each]).exit_code == 0
    for path in [*(f"/jobs/{each}" for each in made), f"/corpora/{corpus}"]:
        assert http.delete(f"/api/v1{path}").status_code == 204
    assert tables_with(database, *words) == (set() if dropped else {"reused_outputs", "reuse_scopes"})
    assert not files_with(tmp_path / "corpora", *words)
    other.join()
    assert [each["status"] for each in http.get("/api/v1/jobs").get_json()["data"]] == ["completed"]
    Sweeper(settings=Settings(data_dir=tmp_path), database=database, doorbell=Bell()).sweep()  # type: ignore[arg-type]
    assert tables_with(database, *words) == set()
    assert files_with(tmp_path, *words) == set()
    said = capfd.readouterr()
    assert word not in said.out + said.err


TEXTS = [f"{number} of them." for number in range(10)]


def uploaded(http: FlaskClient, *texts: str, ttl: int | None = None) -> str:
    body = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    path = "/api/v1/corpora" + (f"?ttl_seconds={ttl}" if ttl else "")
    return str(http.post(path, data=body, content_type="application/x-ndjson").get_json()["id"])


def worked(http: FlaskClient, database: Engine, folder: Path, **asked: Any) -> str:
    """A job with reuse that has ended."""
    made = http.post("/api/v1/jobs", json={"task": "translation", "model": "echo", "reuse": True} | asked).get_json()
    work(database, folder)
    assert http.get(f"/api/v1/jobs/{made['id']}").get_json()["status"] == "completed"
    return str(made["id"])


def outputs(database: Engine) -> int:
    with reading(database) as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM reused_outputs").scalar_one())


@pytest.fixture
def sweep(database: Engine, tmp_path: Path) -> Callable[[], None]:
    """Every step of a sweeper that has just been started, what is done every ten minutes too."""

    def once() -> None:
        Sweeper(settings=Settings(data_dir=tmp_path), database=database, doorbell=Bell()).sweep()  # type: ignore[arg-type]

    return once


def waits(folder: Path) -> list[str]:
    return [path.name for path in (folder / "forgetting").glob("*")]


def test_what_other_corpora_alone_have_stays_kept(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None]
) -> None:
    mine, others = uploaded(http, *TEXTS[:6]), uploaded(http, *TEXTS[4:])
    for corpus in (mine, others):
        worked(http, database, tmp_path, corpus=corpus)
    assert outputs(database) == 10
    assert http.delete(f"/api/v1/corpora/{mine}").status_code == 204
    assert http.get(f"/api/v1/corpora/{mine}").status_code == 404
    sweep()
    assert (outputs(database), waits(tmp_path)) == (4, [])
    again = http.get(f"/api/v1/jobs/{worked(http, database, tmp_path, corpus=others)}").get_json()
    assert again["reused"] == 4


def test_a_deleted_job_keeps_the_outputs_of_its_corpus_and_forgets_those_of_its_own_documents(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None]
) -> None:
    over = worked(http, database, tmp_path, corpus=uploaded(http, *TEXTS))
    inline = worked(http, database, tmp_path, documents=[{"text": "Its own."}])
    for job, left in ((over, 11), (inline, 10)):
        assert http.delete(f"/api/v1/jobs/{job}").status_code == 204
        sweep()
        assert outputs(database) == left


def test_what_is_kept_outlives_a_corpus_and_a_job_whose_time_is_over(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None]
) -> None:
    worked(http, database, tmp_path, corpus=uploaded(http, *TEXTS, ttl=3600))
    worked(http, database, tmp_path, documents=[{"text": "Its own."}], ttl_seconds=3600)
    with database.begin() as connection:
        for table in (jobs, corpora):
            connection.execute(update(table).values(expires_at=0))
    sweep()
    assert (list((tmp_path / "corpora").iterdir()), waits(tmp_path)) == ([], [])
    assert outputs(database) == 11


def test_where_nothing_was_ever_kept_documents_are_gone_with_the_answer(http: FlaskClient, tmp_path: Path) -> None:
    assert http.delete(f"/api/v1/corpora/{uploaded(http, *TEXTS)}").status_code == 204
    assert (list((tmp_path / "corpora").iterdir()), waits(tmp_path)) == ([], [])


def orphaned_long_ago(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))


def test_documents_that_wait_are_in_no_readers_sight_and_in_nobodys_way(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = uploaded(http, *TEXTS)
    job = worked(http, database, tmp_path, corpus=corpus)
    assert '"text"' in http.get(f"/api/v1/jobs/{job}/export?format=jsonl").text
    assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    assert '"text"' not in http.get(f"/api/v1/jobs/{job}/export?format=jsonl").text
    orphaned_long_ago(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("worker.sweep.forgetting.go_on", lambda *_, **__: False)
        sweep()
    assert waits(tmp_path) == [corpus]
    sweep()
    assert (outputs(database), waits(tmp_path)) == (0, [])


def test_a_deletion_that_is_cut_off_before_the_documents_are_out_of_sight_is_made_up_for(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = uploaded(http, *TEXTS)
    worked(http, database, tmp_path, corpus=corpus)

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("db.files.forgetting.hide", killed)
        with pytest.raises(Killed):
            files.delete_corpus(database, tmp_path, corpus)
    orphaned_long_ago(tmp_path)
    with reading(database) as connection:
        assert files.orphans(connection, tmp_path) == []
    sweep()
    assert (outputs(database), waits(tmp_path), list((tmp_path / "corpora").iterdir())) == (0, [], [])


#: The transactions of a sweeper that forgets four slices of texts: each of them, scopes that are empty then, and the mark.
CUTS = [*(("transact", number) for number in range(1, 7)), ("remove_store", 1)]


@pytest.mark.parametrize(("step", "number"), CUTS)
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_a_sweeper_that_is_killed_while_it_forgets_is_followed_by_one_that_goes_on(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None], monkeypatch: pytest.MonkeyPatch,
    step: str, number: int, *, done: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(forgetting, "_TEXTS_AT_ONCE", 3)
    corpus = uploaded(http, *TEXTS)
    worked(http, database, tmp_path, corpus=corpus)
    assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    real, calls = getattr(forgetting, step), 0

    def dies(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < number:
            return real(*arguments)
        if done:
            real(*arguments)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(forgetting, step, dies)
        with pytest.raises(Killed):
            sweep()
    slices = number - 1 + done if step == "transact" else 4
    assert outputs(database) == max(0, 10 - 3 * slices)
    sweep()
    assert (outputs(database), waits(tmp_path)) == (0, [])
    with reading(database) as connection:
        assert forgetting.waiting(connection) == []


def test_a_sweeper_forgets_slice_by_slice_for_its_time_and_goes_through_none_twice(
    http: FlaskClient, database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "_TEXTS_AT_ONCE", 3)
    corpus = uploaded(http, *TEXTS)
    worked(http, database, tmp_path, corpus=corpus)
    assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    left = []
    while not forgetting.go_on(database, tmp_path, corpus, seconds=0.0):
        left.append(outputs(database))
    assert left == [7, 4, 1, 0]


@pytest.mark.parametrize("moved", [True, False])
def test_a_backup_takes_documents_that_wait_and_the_system_restored_from_it_forgets_them(
    http: FlaskClient, database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, moved: bool
) -> None:
    if database.dialect.name != "sqlite":
        pytest.skip("what files a backup holds is the same for both")
    corpus = uploaded(http, *TEXTS)
    worked(http, database, tmp_path, corpus=corpus)
    if not moved:
        monkeypatch.setattr("db.files.forgetting.hide", lambda *_: None)
        monkeypatch.setattr("db.files.remove_corpus", lambda *_: None)
    assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    monkeypatch.undo()
    place = tmp_path.with_name(f"{tmp_path.name}-backup")
    url = f"sqlite:///{tmp_path / 'test.sqlite3'}"
    assert backup.back_up(Settings(data_dir=tmp_path, database_url=url), place).missing == ()
    there = Settings(data_dir=place.with_name(f"{place.name}-restored"))
    restore.restore(there, place)
    restored = create_engine(there.database)
    assert outputs(restored) == 10
    Sweeper(settings=there, database=restored, doorbell=Bell()).sweep()  # type: ignore[arg-type]
    assert (outputs(restored), waits(there.data_dir), list((there.data_dir / "corpora").iterdir())) == (0, [], [])
    restored.dispose()


def test_documents_that_are_damaged_do_not_stay_because_of_that(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None]
) -> None:
    corpora_ = [uploaded(http, "damaged"), uploaded(http, "whole")]
    for corpus in corpora_:
        worked(http, database, tmp_path, corpus=corpus)
    (tmp_path / "corpora" / corpora_[0] / "documents.jsonl").unlink()
    for corpus in corpora_:
        assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    sweep()
    assert (outputs(database), waits(tmp_path)) == (1, []), "of a text that nobody can read any more"


def test_documents_that_cannot_be_read_now_keep_no_other_corpus_waiting_and_have_their_turn_again(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None]
) -> None:
    first, second = sorted([uploaded(http, "one"), uploaded(http, "two")])
    for corpus in (first, second):
        worked(http, database, tmp_path, corpus=corpus)
        assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    documents = tmp_path / "forgetting" / first / "documents.jsonl"
    documents.rename(tmp_path / "aside")
    documents.mkdir()  # what a disk that fails is to a reader
    sweep()
    assert (outputs(database), waits(tmp_path)) == (1, [first])
    documents.rmdir()
    (tmp_path / "aside").rename(documents)
    sweep()
    assert (outputs(database), waits(tmp_path)) == (0, [])


def test_documents_that_an_ingestor_wrote_again_do_not_stay(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None]
) -> None:
    corpus = uploaded(http, "one")
    worked(http, database, tmp_path, corpus=corpus)
    assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    shutil.copytree(tmp_path / "forgetting" / corpus, tmp_path / "corpora" / corpus)
    sweep()
    assert (outputs(database), waits(tmp_path), list((tmp_path / "corpora").iterdir())) == (0, [], [])


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("step", ["Store", "resolve", "merged", "write_references", "transact"])
@pytest.mark.parametrize("reuse", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_references_for_a_corpus_that_is_deleted_meanwhile_are_for_one_that_is_not_there(
    http: FlaskClient, database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweep: Callable[[], None],
    method: str, step: str, *, reuse: bool,
) -> None:  # fmt: skip
    corpus = uploaded(http, *TEXTS)
    address = f"/api/v1/corpora/{corpus}/references"
    lines = b'{"position": 1, "reference": "x"}\n'
    assert http.put(address, data=lines, content_type="application/x-ndjson").status_code == 200
    if reuse:
        worked(http, database, tmp_path, corpus=corpus)
    real = getattr(references, step)

    def deleted_first(*arguments: Any, **options: Any) -> Any:
        with suppress(NotFound):  # a repetition
            files.delete_corpus(database, tmp_path, corpus)
        return real(*arguments, **options)

    monkeypatch.setattr(references, step, deleted_first)
    lines = b'{"position": 2, "reference": "y"}\n'
    answer = http.open(address, method=method, data=lines, content_type="application/x-ndjson")
    assert answer.status_code == 404, answer.text
    sweep()
    places = ("corpora", "uploads", "forgetting")
    assert [path for folder in places for path in (tmp_path / folder).glob("*")] == []
