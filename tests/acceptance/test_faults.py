"""Faults in the middle of a job: workers killed and the broker emptied, and no document the worse for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.databases import new_database

from .stack import Stack, jsonl, started

DOCUMENTS = [{"id": f"d{k}", "text": f"The text of document {k}.", "reference": str(k % 4)} for k in range(1_500)]
#: What a job took, not what came of it.
EFFORT = {"documents_per_second", "tokens_per_second", "padding_share", "slot_occupancy", "device_busy_share"}
SETTINGS = {"shard_documents": "25", "lease_seconds": "2", "sweep_seconds": "0.5"}


def outcome(stack: Stack, job_id: str) -> tuple[list[Any], dict[str, Any]]:
    """What must not depend on what happened meanwhile: the outputs, and the metrics but those of the effort it took."""
    exported = [json.loads(line) for line in stack.export(job_id).splitlines()]
    kept = {
        name: metric
        for name, metric in stack.metrics(job_id).items()
        if name not in EFFORT and not name.startswith("seconds/")
    }
    return exported, kept


def ended_at_least(documents: int) -> Any:
    return lambda job: job["counts"]["total"] - job["counts"]["pending"] >= documents


def flush_broker(stack: Stack) -> None:
    with redis.Redis(unix_socket_path=str(stack.data_dir / "broker" / "valkey.sock")) as client:
        client.flushall()


# the fault tests that are not slow are all of SQLite
@pytest.mark.parametrize("kind", [pytest.param("sqlite", marks=pytest.mark.slow), "postgresql"])
def test_killed_workers_and_an_emptied_broker_change_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = dict(SETTINGS)
    if kind == "postgresql":
        settings["database_url"] = new_database(request.getfixturevalue("postgresql_server"))
    with started(tmp_path, "--workers", "2", **settings) as stack:
        corpus = stack.upload(jsonl(DOCUMENTS))
        body = {"task": "classification", "model": "echo", "corpus": corpus["id"]}
        undisturbed = stack.wait(stack.submit(**body)["id"])
        disturbed = stack.submit(**body, params={"delay_ms": 8})
        for share in (100, 400, 700):
            stack.wait(disturbed["id"], ended_at_least(share))
            stack.kill_workers()
            stack.wait(disturbed["id"], ended_at_least(share + 150))
            flush_broker(stack)
        ended = stack.wait(disturbed["id"])
        assert ended["counts"] == {"total": 1_500, "succeeded": 1_500, "failed": 0, "cancelled": 0, "pending": 0}
        assert [result["position"] for result in stack.results(disturbed["id"])] == list(range(1_500))
        assert outcome(stack, disturbed["id"]) == outcome(stack, undisturbed["id"])


def test_a_stopped_system_goes_on_where_it_was_when_started_again(tmp_path: Path) -> None:
    with started(tmp_path, **SETTINGS) as stack:
        corpus = stack.upload(jsonl(DOCUMENTS))
        job = stack.submit(task="classification", model="echo", corpus=corpus["id"], params={"delay_ms": 5})
        stack.wait(job["id"], ended_at_least(100))
        assert stack.stop() == 0
    with started(tmp_path, **SETTINGS) as stack:
        ended = stack.wait(job["id"])
        assert ended["status"] == "completed"
        assert len(stack.results(job["id"])) == 1_500


def test_a_job_submitted_while_the_broker_is_away_runs_when_it_is_back(tmp_path: Path) -> None:
    with started(tmp_path, **SETTINGS) as stack:
        flush_broker(stack)
        servers = stack.processes("valkey-server")
        assert servers
        for process in servers:
            process.kill()
        job = stack.submit(task="classification", model="echo", documents=DOCUMENTS[:50])
        assert stack.wait(job["id"])["status"] == "completed"
