"""A big job and small ones on real workers, who say in the database what they claimed after what."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.up import Up, end, eventually, start

WORKERS = 2
SHARD = 10
ENDED = {"completed", "completed_with_errors", "failed", "cancelled"}


@pytest.fixture
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A service with two workers, which says what it has claimed in shards of ten documents."""
    found = start(tmp_path_factory.mktemp("u"), "--workers", str(WORKERS), CORPUSMILL_SHARD_DOCUMENTS=str(SHARD))
    yield found
    end(found)


def submit(up: Up, documents: int) -> str:
    body = {"task": "classification", "model": "echo", "params": {"delay_ms": 50}}
    texts = [{"text": f"document {number}"} for number in range(documents)]
    return str(up.ask("/jobs", body | {"documents": texts})["id"])


def shards(up: Up, job_id: str) -> list[Any]:
    """The claimed shards of a job in the order of their claims, with the time when the job was made."""
    with sqlite3.connect(up.data / "corpusmill.sqlite3") as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute(
            "SELECT s.owner, s.started_at, s.finished_at, j.created_at FROM shards s JOIN jobs j ON j.key = s.job_key "
            "WHERE j.id = ? AND s.started_at IS NOT NULL ORDER BY s.started_at",
            (job_id,),
        )
        return found.fetchall()


def test_ten_documents_beside_a_big_job_wait_for_no_more_than_the_shard_in_progress(up: Up) -> None:
    big = submit(up, 600)
    eventually(lambda: len({one["owner"] for one in shards(up, big)}) == WORKERS)
    for _ in range(3):
        before = len(shards(up, big))
        eventually(lambda before=before: len(shards(up, big)) > before)  # type: ignore[misc]
        small = submit(up, SHARD)
        eventually(lambda small=small: up.ask(f"/jobs/{small}")["status"] in ENDED)  # type: ignore[misc]
        (ours,) = shards(up, small)
        others = shards(up, big)
        overtaken = [one for one in others if ours["created_at"] < one["started_at"] < ours["started_at"]]
        assert len(overtaken) <= WORKERS, "claims that were under way when it came"
        ended = [one for one in others if ours["created_at"] < (one["finished_at"] or 0) < ours["finished_at"]]
        same = [one for one in ended if one["owner"] == ours["owner"]]
        assert len(same) <= 2, "on its device one was in progress, and one being saved"
    up.ask(f"/jobs/{big}/cancel", {})
