"""What a newer version has stored, met by the programs of this one: left to that version's, and in nobody's way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from corpusmill.settings import Settings
from db import jobs, runs
from db.engine import Engine, reading, transact
from pipeline.ticking import tick
from tests.integration.programs import runner_of
from worker.serving import serve

PLACES = '[databases.shop]\nurl = "sqlite:////nowhere/shop.sqlite3"\n'


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    (tmp_path / "places.toml").write_text(PLACES)
    return Settings(
        data_dir=tmp_path, database_url=database_url.replace("+psycopg", ""), lease_seconds=60.0,
        broker_url=f"redis+socket://{tmp_path}/none.sock", places_file=tmp_path / "places.toml",
    )  # fmt: skip


@pytest.fixture
def http(settings: Settings) -> Iterator[FlaskClient]:
    app = create_app(settings)
    yield app.test_client()
    app.extensions["corpusmill"].database.dispose()
    app.extensions["corpusmill"].doorbell.close()


def submit(http: FlaskClient) -> str:
    asked = {"task": "translation", "model": "echo", "documents": [{"text": "a"}, {"text": "b"}]}
    answer = http.post("/api/v1/jobs", json=asked)
    assert answer.status_code == 202, answer.text
    return str(answer.get_json()["id"])


def schedule(http: FlaskClient, name: str) -> str:
    answer = http.post("/api/v1/schedules", json={
        "name": name, "cron": "0 2 * * *", "job": {"task": "classification", "model": "echo"},
        "source": {"type": "sql", "place": "shop", "table": "reviews", "key": "id"},
        "sinks": [{"type": "table", "place": "shop", "table": "labels"}],
    })  # fmt: skip
    assert answer.status_code == 201, answer.text
    return str(answer.get_json()["id"])


def change(database: Engine, table: str, id: str, column: str, *, at: tuple[str, ...], value: Any) -> None:
    """Writes a field that this version does not know into what is stored, as a newer version would."""

    def write(connection: Any) -> None:
        query = f"SELECT {column} FROM {table} WHERE id = '{id}'"
        kept = connection.exec_driver_sql(query).scalar_one()
        stored = json.loads(kept) if isinstance(kept, str) else kept
        place = stored
        for part in at[:-1]:
            place = place[int(part)] if isinstance(place, list) else place[part]
        place[at[-1]] = value
        marks = "?" if connection.dialect.name == "sqlite" else "%s"
        connection.exec_driver_sql(f"UPDATE {table} SET {column} = {marks} WHERE id = '{id}'", (json.dumps(stored),))

    transact(database, write)


def work(database: Engine, settings: Settings) -> None:
    serve(runner_of(database, settings))


@pytest.mark.parametrize("at", [("invented",), ("generation", "invented")])
def test_a_field_that_is_not_used_is_in_no_jobs_way(
    http: FlaskClient, database: Engine, settings: Settings, at: tuple[str, ...]
) -> None:
    job = submit(http)
    change(database, "jobs", job, "params", at=at, value=None)
    work(database, settings)
    assert http.get(f"/api/v1/jobs/{job}").get_json()["counts"]["succeeded"] == 2
    assert http.get(f"/api/v1/jobs/{job}/metrics").status_code == 200


@pytest.mark.parametrize(("at", "value"), [(("generation", "invented"), 3), (("engine",), "invented")])
def test_a_job_that_asks_for_what_is_not_known_waits_for_newer_workers_and_is_charged_nothing(
    http: FlaskClient, database: Engine, settings: Settings, at: tuple[str, ...], value: Any
) -> None:
    newer, mine = submit(http), submit(http)
    change(database, "jobs", newer, "params", at=at, value=value)
    work(database, settings)
    with reading(database) as connection:
        assert jobs.get(connection, mine).status == "completed"
        assert jobs.get(connection, newer).status == "queued"
        found = connection.exec_driver_sql("SELECT state, losses FROM shards ORDER BY key").all()
    assert [tuple(row) for row in found] == [("pending", 0), ("done", 0)]


def test_a_schedule_that_asks_for_what_is_not_known_keeps_no_other_from_firing(
    http: FlaskClient, database: Engine
) -> None:
    newer, mine = schedule(http, "newer"), schedule(http, "mine")
    change(database, "schedules", newer, "definition", at=("sinks", "0", "invented"), value=3)
    with reading(database) as connection:
        due = connection.exec_driver_sql("SELECT max(next_fire_at) FROM schedules").scalar_one()
    fired = tick(database, at=float(due) + 1)
    with reading(database) as connection:
        assert [runs.get(connection, run).schedule_id for run in fired] == [mine]
    answer = http.get(f"/api/v1/schedules/{newer}")
    assert (answer.status_code, answer.get_json()["code"]) == (503, "newer_version")
    assert "/sinks/0/invented" in answer.get_json()["detail"]


def test_a_run_that_asks_for_what_is_not_known_is_left_to_newer_programs_and_others_go_on(
    http: FlaskClient, database: Engine
) -> None:
    started = [
        http.post(f"/api/v1/schedules/{schedule(http, name)}/run").get_json()["id"] for name in ("newer", "mine")
    ]
    change(database, "runs", started[0], "definition", at=("source", "invented"), value="x")
    taken = [
        transact(database, lambda connection: runs.claim(connection, owner="me", lease=30.0)) for _ in range(3)
    ]  # fmt: skip
    assert [one.run.id if one else None for one in taken] == [None, started[1], None]
    with reading(database) as connection:
        found = connection.exec_driver_sql(f"SELECT status, owner FROM runs WHERE id = '{started[0]}'").one()
    assert tuple(found) == ("waiting", None)
