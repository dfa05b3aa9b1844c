"""What the API says without a server: its document, its refusals, and the figures that it keeps for a moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask_openapi.openapi import OpenAPI

from api.app import create_app
from api.recent import Recent
from corpusmill.settings import Settings


@pytest.fixture
def app(tmp_path: Path) -> Iterator[OpenAPI]:
    made = create_app(Settings(data_dir=tmp_path))
    yield made
    made.extensions["corpusmill"].database.dispose()


def test_every_operation_says_in_the_document_that_refusals_are_problems(app: OpenAPI) -> None:
    document = app.test_client().get("/openapi.json").get_json()
    for path, item in document["paths"].items():
        for operation in item.values():
            assert "422" not in operation["responses"], path
            refused = operation["responses"]["default"]["content"]
            assert refused == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
            assert "<br" not in operation.get("description", "")


def test_the_document_asks_for_a_key_where_the_server_does(tmp_path: Path, app: OpenAPI) -> None:
    without = app.test_client().get("/openapi.json").get_json()
    guarded = create_app(Settings(data_dir=tmp_path, api_key="a key"))
    with_key = guarded.test_client().get("/openapi.json").get_json()
    assert "securitySchemes" not in without["components"]
    assert "key" in with_key["components"]["securitySchemes"]
    operations = [operation for item in with_key["paths"].values() for operation in item.values()]
    assert all(operation["security"] == [{"key": []}] for operation in operations)
    guarded.extensions["corpusmill"].database.dispose()


def test_an_address_that_is_none_is_answered_with_where_they_are_listed(app: OpenAPI) -> None:
    answer = app.test_client().get("/api/v1/api/v1/jobs")
    assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")
    assert answer.get_json()["detail"] == "There is nothing at /api/v1/api/v1/jobs; /docs lists what there is."


def test_a_method_that_is_not_known_is_answered_with_those_that_are(app: OpenAPI) -> None:
    answer = app.test_client().put("/api/v1/jobs")
    assert answer.status_code == 405
    assert answer.get_json()["detail"] == "/api/v1/jobs answers to GET, HEAD, OPTIONS and POST, not to PUT."


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/v1/jobs"), ("POST", "/api/v1/jobs/job_a/cancel"), ("DELETE", "/api/v1/jobs/job_a")],
)
def test_a_query_that_would_be_ignored_changes_nothing(app: OpenAPI, method: str, path: str) -> None:
    answer = app.test_client().open(
        f"{path}?dry_run=true", method=method, json={"task": "classification", "model": "echo"}
    )
    assert (answer.status_code, answer.get_json()["code"]) == (422, "invalid_request")
    assert [fault["pointer"] for fault in answer.get_json()["errors"]] == ["/dry_run"]


@pytest.mark.parametrize(
    ("body", "media_type", "status", "code", "said"),
    [
        (b'{"task": }', "application/json", 400, "invalid_json", "line 1, column 10"),
        (b"", "application/json", 400, "invalid_json", "empty"),
        (b'"\xff"', "application/json", 400, "invalid_json", "UTF-8"),
        (b"[1]", "application/json", 400, "invalid_json", "must be a JSON object, not a list"),
        (b"{}", "application/x-www-form-urlencoded", 415, "unsupported_format", "Content-Type: application/json"),
        (b"{}", "", 415, "unsupported_format", "Content-Type: application/json"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_with_what_is_wrong_with_it(
    app: OpenAPI, body: bytes, media_type: str, status: int, code: str, said: str
) -> None:
    answer = app.test_client().post("/api/v1/jobs", data=body, content_type=media_type)
    assert (answer.status_code, answer.get_json()["code"]) == (status, code)
    assert said in answer.get_json()["detail"]


def test_an_answer_is_kept_for_a_while_and_a_dear_one_for_longer() -> None:
    now, made = [0.0], []

    def compute(cost: float) -> int:
        now[0] += cost
        made.append(cost)
        return len(made)

    recent = Recent(2.0, clock=lambda: now[0])
    assert [recent.get("a", lambda: compute(0.01)) for _ in range(3)] == [1, 1, 1]
    assert recent.get("b", lambda: compute(1.0)) == 2
    now[0] += 2.1
    assert (recent.get("a", lambda: compute(0.0)), recent.get("b", lambda: compute(1.0))) == (3, 2)
    now[0] += 8.0
    assert recent.get("b", lambda: compute(0.0)) == 4


def test_an_answer_that_failed_is_asked_for_again() -> None:
    recent = Recent(60.0)
    with pytest.raises(ZeroDivisionError):
        recent.get("a", lambda: 1 / 0)
    assert recent.get("a", lambda: 5.0) == 5.0


def test_those_who_ask_together_wait_for_one_answer() -> None:
    recent, made, gate = Recent(60.0), [], threading.Event()

    def compute() -> int:
        gate.wait(10)
        made.append(1)
        return len(made)

    found: list[int] = []
    askers = [threading.Thread(target=lambda: found.append(recent.get("a", compute))) for _ in range(8)]
    for asker in askers:
        asker.start()
    gate.set()
    for asker in askers:
        asker.join(10)
    assert found == [1] * 8


def test_only_so_many_answers_are_kept() -> None:
    recent = Recent(60.0)
    for key in range(1_000):
        recent.get(key, lambda: bytes(1))
    assert len(recent._slots) == 64
