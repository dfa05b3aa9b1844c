"""Deletions over HTTP, on both databases: done once whatever becomes of their answer, and nothing of them is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, update

from corpusmill.settings import Settings
from db import files
from db.engine import Engine, reading
from db.tables import idempotency, jobs
from tests.integration.test_races import Bell
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
