"""Deletions over HTTP, on both databases: done once whatever becomes of their answer, and nothing of them is left."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import inspect, select, update
from typer.testing import CliRunner

from cli.commands import app
from corpora import ingest as read_upload
from corpusmill.settings import Settings
from corpusmill.texts import text_hash
from db import files, ingest
from db.engine import Engine, reading
from db.tables import idempotency, jobs
from tests.integration.programs import sweep, sweeper_of, work


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
    sweeper = sweeper_of(database, Settings(data_dir=tmp_path))
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
    sweep(database, tmp_path)
    assert tables_with(database, *words) == set()
    assert files_with(tmp_path, *words) == set()
    said = capfd.readouterr()
    assert word not in said.out + said.err
