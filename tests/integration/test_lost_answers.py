"""Requests that are done though the database's answer to their COMMIT was lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from db.engine import Engine
from tests.integration.test_deletions import work


@pytest.mark.parametrize("move", ["pause", "resume", "cancel", "retry"])
def test_a_move_whose_answer_was_lost_is_done_once_and_said_to_be_done(
    http: FlaskClient, database: Engine, lose_commit: Callable[[], None], tmp_path: Path, move: str
) -> None:
    asked = {"task": "classification", "model": "echo", "documents": [{"text": "a"}, {"text": " "}]}
    job_id = http.post("/api/v1/jobs", json=asked).get_json()["id"]
    if move == "retry":
        work(database, tmp_path)
    if move == "resume":
        assert http.post(f"/api/v1/jobs/{job_id}/pause").status_code == 202
    lose_commit()
    answer = http.post(f"/api/v1/jobs/{job_id}/{move}")
    assert answer.status_code == 202, answer.text
    after = {"pause": "paused", "resume": "queued", "cancel": "cancelled", "retry": "running"}[move]
    assert answer.get_json()["status"] == after
