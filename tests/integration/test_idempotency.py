"""How long an idempotency key is kept, over HTTP and on both databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select, update

from db.engine import Engine, reading
from db.tables import idempotency
from tests.integration import programs

HOUR = 3600.0
CORPUS = {"data": b'{"text": "a"}\n', "content_type": "application/x-ndjson"}
JOB = {"json": {"task": "classification", "model": "echo", "documents": [{"text": "a"}]}}


@pytest.fixture
def sweep(database: Engine, tmp_path: Path) -> Callable[[], None]:
    """Every step of a sweeper that has just been started, what is done every ten minutes too."""

    def once() -> None:
        programs.sweep(database, tmp_path)

    return once


def grow_older(database: Engine, seconds: float) -> None:
    with database.begin() as connection:
        connection.execute(update(idempotency).values(created_at=idempotency.c.created_at - seconds))


def keys(database: Engine) -> int:
    with reading(database) as connection:
        return int(connection.scalar(select(func.count()).select_from(idempotency)) or 0)


@pytest.mark.parametrize(("path", "asked"), [("/api/v1/jobs", JOB), ("/api/v1/corpora", CORPUS)])
def test_a_key_gives_the_same_answer_for_a_day_and_is_then_forgotten(
    http: FlaskClient, database: Engine, sweep: Callable[[], None], path: str, asked: dict[str, object]
) -> None:
    def post() -> tuple[int, dict[str, object]]:
        answer = http.post(path, headers={"Idempotency-Key": "once"}, **asked)
        return answer.status_code, answer.get_json()

    first = post()
    assert first[0] in {201, 202}
    grow_older(database, 23 * HOUR)
    sweep()
    assert post() == first
    assert keys(database) == 1
    grow_older(database, 2 * HOUR)
    sweep()
    assert keys(database) == 0
    second = post()
    assert second[0] == first[0]
    assert second[1]["id"] != first[1]["id"]
    assert post() == second
    assert len(http.get(path).get_json()["data"]) == 2


def test_a_key_that_has_had_its_day_is_free_though_no_sweeper_has_run(http: FlaskClient, database: Engine) -> None:
    made = []
    for _ in range(2):
        made.append(http.post("/api/v1/jobs", headers={"Idempotency-Key": "once"}, **JOB).get_json()["id"])
        grow_older(database, 25 * HOUR)
    assert len(set(made)) == 2
