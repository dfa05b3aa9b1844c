"""Requests that are done though the database's answer to their COMMIT was lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flask.testing import FlaskClient

import api.jobs
from api.idempotency import first_answer
from db import corpora
from db.engine import Connection, Engine
from tests.integration.programs import work


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


@pytest.fixture
def lose_removal(lose_commit: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The API loses the database's answer when it first removes a corpus."""
    real, first = corpora.remove, iter([lose_commit])

    def removing(connection: Connection, corpus_id: str) -> corpora.Corpus:
        next(first, lambda: None)()
        return real(connection, corpus_id)

    monkeypatch.setattr(corpora, "remove", removing)


@pytest.mark.usefixtures("lose_removal")
def test_documents_that_cannot_be_used_are_told_of_though_the_answer_to_their_removal_was_lost(
    http: FlaskClient, tmp_path: Path
) -> None:
    body = b'{"task": "classification", "model": "echo", "documents": [{"text": "a", "more": NaN}]}'
    answer = http.post("/api/v1/jobs", data=body, content_type="application/json")
    assert answer.status_code == 422, answer.text
    assert answer.get_json()["errors"][0]["pointer"].startswith("/documents/0")
    assert list((tmp_path / "corpora").iterdir()) == []


@pytest.mark.usefixtures("lose_removal")
def test_the_later_of_two_equal_requests_gets_the_first_answer_though_that_to_its_removal_was_lost(
    http: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"task": "classification", "model": "echo", "documents": [{"text": "a"}]}
    first = http.post("/api/v1/jobs", json=asked, headers={"Idempotency-Key": "once"})
    unseen = iter([None])
    monkeypatch.setattr(api.jobs, "first_answer", lambda *given: next(unseen, first_answer(*given)))
    again = http.post("/api/v1/jobs", json=asked, headers={"Idempotency-Key": "once"})
    assert (again.status_code, again.get_json()) == (202, first.get_json())
    assert len(list((tmp_path / "corpora").iterdir())) == 1
