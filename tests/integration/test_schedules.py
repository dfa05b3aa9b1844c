"""Schedules over HTTP, on both databases: made once, shown, changed, run by hand, deleted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from corpusmill.schedules import ScheduleDefinition
from db import runs, schedules
from db.engine import Engine, transact

DEFINITION: dict[str, Any] = {
    "name": "reviews",
    "cron": "30 2 * * *",
    "timezone": "Europe/Berlin",
    "source": {"type": "sql", "place": "shop", "table": "reviews", "key": "id"},
    "job": {"task": "classification", "model": "echo"},
    "sinks": [{"type": "table", "place": "shop", "table": "labels"}],
}


def made(http: FlaskClient, **fields: Any) -> dict[str, Any]:
    answer = http.post("/api/v1/schedules", json=DEFINITION | fields)
    assert answer.status_code == 201, answer.get_json()
    body: dict[str, Any] = answer.get_json()
    return body


def runs_of(http: FlaskClient, schedule: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get(f"/api/v1/schedules/{schedule['id']}/runs").get_json()["data"]
    return found


def test_a_schedule_is_made_with_its_defaults_and_its_next_five_fires(http: FlaskClient) -> None:
    schedule = made(http)
    assert (schedule["catch_up"], schedule["overlap"], schedule["enabled"]) == ("latest", "skip", True)
    fires = [datetime.fromisoformat(fire) for fire in schedule["next_fires"]]
    assert len(fires) == 5
    assert datetime.now(UTC) < fires[0] < datetime.now(UTC) + timedelta(days=1, hours=1)
    assert http.get(f"/api/v1/schedules/{schedule['id']}").get_json() == schedule
    assert http.get("/api/v1/schedules", query_string={"name": "reviews"}).get_json()["data"] == [schedule]
    assert http.get("/api/v1/schedules", query_string={"name": "other"}).get_json()["data"] == []


def test_a_repetition_with_the_same_key_makes_no_second_schedule(http: FlaskClient) -> None:
    answers = [
        http.post("/api/v1/schedules", json=DEFINITION, headers={"Idempotency-Key": "one"}).get_json() for _ in range(2)
    ]
    assert answers[0] == answers[1]
    other = http.post("/api/v1/schedules", json=DEFINITION | {"name": "b"}, headers={"Idempotency-Key": "one"})
    assert (other.status_code, other.get_json()["code"]) == (422, "idempotency_key_reused")
    assert len(http.get("/api/v1/schedules").get_json()["data"]) == 1


def test_a_second_schedule_of_a_name_is_a_conflict(http: FlaskClient) -> None:
    made(http)
    answer = http.post("/api/v1/schedules", json=DEFINITION)
    assert (answer.status_code, answer.get_json()["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("fields", "pointer", "said"),
    [
        ({"timezon": "UTC"}, "/timezon", "Did you mean timezone?"),
        ({"cron": "61 * * * *"}, "/cron", "bad minute"),
        ({"source": {**DEFINITION["source"], "keyy": "id"}}, "/source/keyy", "Did you mean key?"),
        ({"source": {**DEFINITION["source"], "place": "shoppe"}}, "/source/place", "Did you mean shop?"),
        ({"job": {"task": "classification", "model": "echo", "params": {"k": 1}}}, "/job/params/k", "Unknown field"),
        ({"report": {"fail_if": [{"figure": "failed_shar", "above": 0}]}}, "/report/fail_if/0/figure", "failed_share?"),
    ],
)
def test_what_cannot_run_is_refused_where_it_stands(
    http: FlaskClient, fields: dict[str, Any], pointer: str, said: str
) -> None:
    answer = http.post("/api/v1/schedules", json=DEFINITION | fields)
    assert answer.status_code == 422
    assert {fault["pointer"]: fault["message"] for fault in answer.get_json()["errors"]}[pointer].count(said) == 1


def test_a_model_that_is_not_there_is_refused_before_the_first_night(http: FlaskClient) -> None:
    job = {"task": "classification", "model": "no/such-model"}
    answer = http.post("/api/v1/schedules", json=DEFINITION | {"job": job})
    assert (answer.status_code, answer.get_json()["code"]) == (422, "unknown_model")


def test_what_was_stored_before_file_names_had_to_hold_the_run_is_still_read_and_mended_by_a_change(
    http: FlaskClient, database: Engine
) -> None:
    sinks = [{"type": "files", "place": "out", "path": "labels.parquet"}]
    stored = ScheduleDefinition.model_validate(DEFINITION | {"sinks": sinks})
    transact(
        database,
        lambda connection: schedules.create(connection, id="sched_old", definition=stored, next_fire_at=None),
    )
    shown = http.get("/api/v1/schedules/sched_old")
    assert (shown.status_code, shown.get_json()["sinks"][0]["path"]) == (200, "labels.parquet")
    refused = http.post("/api/v1/schedules", json=DEFINITION | {"name": "new", "sinks": sinks})
    assert (refused.status_code, refused.get_json()["errors"][0]["pointer"]) == (422, "/sinks/0/path")
    refused = http.patch("/api/v1/schedules/sched_old", json={"cron": "0 3 * * *"})
    assert (refused.status_code, refused.get_json()["errors"][0]["pointer"]) == (422, "/sinks/0/path")
    sinks[0]["path"] = "labels-{run}.parquet"
    assert http.patch("/api/v1/schedules/sched_old", json={"cron": "0 3 * * *", "sinks": sinks}).status_code == 200


def test_a_change_takes_the_place_of_what_was_there(http: FlaskClient) -> None:
    schedule = made(http)
    address = f"/api/v1/schedules/{schedule['id']}"
    changed = http.patch(address, json={"window": {"start": "22:00", "end": "06:00"}}).get_json()
    assert (changed["window"], changed["revision"]) == ({"start": "22:00", "end": "06:00"}, 2)
    assert changed["next_fires"] == schedule["next_fires"]
    assert http.patch(address, json={"window": {"start": "22:00", "end": "06:00"}}).get_json()["revision"] == 2
    hourly = http.patch(address, json={"cron": "0 * * * *"}).get_json()
    assert hourly["next_fires"] != schedule["next_fires"]
    off = http.patch(address, json={"enabled": False}).get_json()
    assert (off["enabled"], off["next_fires"]) == (False, [])
    on = http.patch(address, json={"enabled": True}).get_json()
    assert on["next_fires"] == hourly["next_fires"]
    refused = http.patch(address, json={"enabeld": True})
    assert (refused.status_code, refused.get_json()["errors"][0]["pointer"]) == (422, "/enabeld")


def test_a_run_by_hand_is_a_row_with_what_the_contract_says(http: FlaskClient) -> None:
    schedule = made(http, enabled=False)
    address = f"/api/v1/schedules/{schedule['id']}"
    started = [http.post(f"{address}/run", headers={"Idempotency-Key": "now"}) for _ in range(2)]
    assert [answer.status_code for answer in started] == [202, 202]
    assert started[0].get_json() == started[1].get_json()
    [run] = runs_of(http, schedule)
    expected = {
        "trigger": "manual", "status": "waiting", "job": None, "new_documents": 0, "reused_documents": 0, "report": None
    }  # fmt: skip
    assert {name: run[name] for name in expected} == expected
    assert http.get(f"{address}/runs/{run['id']}").get_json() == run
    assert http.post(f"{address}/run").status_code == 409
    other = made(http, name="other")
    assert http.get(f"/api/v1/schedules/{other['id']}/runs/{run['id']}").status_code == 404


def test_runs_come_in_pages_newest_first(http: FlaskClient, database: Engine) -> None:
    from db import schedules

    schedule = made(http)

    def fire(connection: Any) -> None:
        row = schedules.get(connection, schedule["id"])
        for day in range(5):
            runs.fire(connection, row, day * 86_400.0, "cron", status="skipped")

    transact(database, fire)
    address = f"/api/v1/schedules/{schedule['id']}/runs"
    found, cursor = [], None
    for _ in range(3):
        page = http.get(address, query_string={"limit": 2} | ({"cursor": cursor} if cursor else {})).get_json()
        found += [run["fire_time"][:10] for run in page["data"]]
        cursor = page["next_cursor"]
    assert found == [f"1970-01-0{day}" for day in (5, 4, 3, 2, 1)]
    assert cursor is None


def test_a_change_whose_commit_lost_its_answer_is_made_once(http: FlaskClient, lose_commit: Callable[[], None]) -> None:
    schedule = made(http)
    lose_commit()
    changed = http.patch(f"/api/v1/schedules/{schedule['id']}", json={"enabled": False})
    assert changed.status_code == 200, changed.get_json()
    assert (changed.get_json()["revision"], changed.get_json()["enabled"]) == (2, False)


def test_a_deletion_whose_commit_lost_its_answer_is_done(http: FlaskClient, lose_commit: Callable[[], None]) -> None:
    schedule = made(http)
    lose_commit()
    assert http.delete(f"/api/v1/schedules/{schedule['id']}").status_code == 204
    assert http.delete(f"/api/v1/schedules/{schedule['id']}").status_code == 404


@pytest.mark.parametrize("overlap", ["skip", "queue", "cancel"])
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "now"}])
def test_a_run_by_hand_whose_commit_lost_its_answer_is_started_once(
    http: FlaskClient, lose_commit: Callable[[], None], overlap: str, headers: dict[str, str]
) -> None:
    schedule = made(http, overlap=overlap)
    lose_commit()
    started = http.post(f"/api/v1/schedules/{schedule['id']}/run", headers=headers)
    assert started.status_code == 202, started.get_json()
    assert runs_of(http, schedule) == [started.get_json()]
    [run] = runs_of(http, schedule)
    assert run["status"] == "waiting"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"source": {"type": "sql", "place": "shop", "query": "DELETE FROM x", "key": "id"}}, "/source/query"),
        ({"source": {"type": "sql", "place": "shop", "query": "SELECT 1 # )", "key": "id"}}, "/source/query"),
        ({"source": {"type": "folder", "place": "in", "pattern": "../*.txt"}}, "/source/pattern"),
        ({"sinks": [{"type": "files", "place": "in", "path": "../../{run}"}]}, "/sinks/0/path"),
        ({"report": {"to": {"place": "in", "path": "/etc/{run}"}}}, "/report/to/path"),
    ],
)
def test_what_would_fail_every_night_is_refused_when_it_is_made(
    http: FlaskClient, change: dict[str, Any], pointer: str
) -> None:
    answer = http.post("/api/v1/schedules", json=DEFINITION | change)
    assert answer.status_code == 422, answer.get_json()
    assert [fault["pointer"] for fault in answer.get_json()["errors"]] == [pointer]


def test_a_schedule_whose_place_has_gone_can_be_disabled_and_no_answer_names_a_file_of_the_server(
    http: FlaskClient, tmp_path: Path
) -> None:
    schedule = made(http)
    for broken in ("", None):
        (tmp_path / "places.toml").write_text(broken) if broken is not None else (tmp_path / "places.toml").unlink()
        changed = http.patch(f"/api/v1/schedules/{schedule['id']}", json={"cron": "5 5 * * *"})
        assert changed.status_code in {422, 500}
        assert str(tmp_path) not in changed.text
    stopped = http.patch(f"/api/v1/schedules/{schedule['id']}", json={"enabled": False})
    assert (stopped.status_code, stopped.get_json()["enabled"]) == (200, False)


def test_what_is_not_there_is_404_in_every_way(http: FlaskClient) -> None:
    for method, path in [
        ("get", ""), ("patch", ""), ("delete", ""), ("post", "/run"), ("get", "/runs"), ("get", "/runs/run_x")
    ]:  # fmt: skip
        answer = getattr(http, method)(f"/api/v1/schedules/sched_x{path}", json={} if method == "patch" else None)
        assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found"), (method, path)


def test_a_deleted_schedule_is_gone_with_its_runs(http: FlaskClient) -> None:
    schedule = made(http)
    http.post(f"/api/v1/schedules/{schedule['id']}/run")
    assert http.delete(f"/api/v1/schedules/{schedule['id']}").status_code == 204
    assert http.get(f"/api/v1/schedules/{schedule['id']}").status_code == 404
    assert made(http)["id"] != schedule["id"]
