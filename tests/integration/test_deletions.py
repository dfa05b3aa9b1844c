"""Deletions over HTTP whose commit loses its answer, on both databases: done once, and said to be done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flask.testing import FlaskClient


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
