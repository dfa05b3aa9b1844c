"""A sweeper is killed in the middle of a night, at each step in turn; another goes on, and nothing shows of it."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.nights import Shop

from .conftest import Make
from .processes import ROOT, python, until
from .rig import BOUND, Rig

#: Functions of `db` in whose transaction the sweeper dies, before or after it is committed, from the first stage on.
STEPS = ["ledger.want:after", "ledger.mark_gone:before", "corpora.create:after", "jobs.create:after", "ledger.doubt:after",
         "ledger.settle:before", "ledger.settle_gone:after", "runs.end:before"]  # fmt: skip
DEFINITION: dict[str, Any] = {
    "name": "nights", "cron": "0 0 * 6 *", "overlap": "queue",
    "source": {"type": "sql", "place": "shop", "table": "reviews", "key": "id", "text_field": "body",
               "sync": "mirror"},
    "job": {"task": "classification", "model": "echo"},
    "sinks": [{"type": "table", "place": "shop", "table": "nights_labels"}],
}  # fmt: skip


def fire(rig: Rig, at: datetime) -> None:
    """Write the run of a slot, and leave it to the sweepers."""
    command = python("-m", "cli", "schedule", "tick", "--no-wait", "--at", at.isoformat())
    subprocess.run(command, cwd=ROOT, env=rig.environ(), capture_output=True, timeout=60, check=True)


@pytest.mark.slow
@pytest.mark.fault("night")
@pytest.mark.timeout(1_800)
def test_a_sweeper_that_is_killed_at_any_step_of_a_night_changes_nothing(make_rig: Make, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop.sqlite3")
    places = tmp_path / "places.toml"
    places.write_text(f'[databases.shop]\nurl = "sqlite:///{shop.path}"\n')
    rig = make_rig(workers=1, places_file=str(places))
    rig.up()
    rig.kill("sweep-0")
    schedule = rig.request("POST", "/schedules", json=DEFINITION).json()["id"]
    labelled: set[tuple[str, str]] = set()
    start = datetime(datetime.now(UTC).year + 1, 6, 1, 1, tzinfo=UTC)

    def last() -> dict[str, Any]:
        run: dict[str, Any] = rig.request("GET", f"/schedules/{schedule}/runs").json()["data"][0]
        return run

    for night, step in enumerate([*STEPS, ""]):
        shop.day(new=20)
        name = f"sweep-{night + 1}"
        if step:
            first = rig.start(
                f"{name}0", FAULTS_POINT=f"night:{step}", FAULTS_ONCE=str(tmp_path / f"once-{night}")
            )  # fmt: skip
            fire(rig, start + timedelta(days=night))
            until(lambda first=first: not first.alive, BOUND, f"the sweeper dies at {step}")  # type: ignore[misc]
            assert last()["finished_at"] is None
        else:
            fire(rig, start + timedelta(days=night))
        rig.start(name)
        until(lambda: last()["finished_at"], BOUND, f"the run ends after {step}")
        rig.kill(name)
        run, rows = last(), shop.rows()
        assert run["status"] == "succeeded", (step, run)
        results = rig.request("GET", f"/jobs/{run['job']}/results", params={"limit": 1000}).json()["data"]
        new = {(id, text) for id, text in rows.items()} - labelled
        assert sorted(result["id"] for result in results) == sorted(id for id, _ in new), (step, run)
        assert run["counts"]["gone"] == len({id for id, _ in labelled} - rows.keys()), (step, run)
        labelled = set(rows.items())
        assert shop.labels("nights").keys() == rows.keys(), step
    final = rig.submit([{"id": id, "text": text} for id, text in shop.rows().items()])
    rig.start("sweep-last")
    rig.await_ended(final)
    results = rig.request("GET", f"/jobs/{final}/results", params={"limit": 1000}).json()["data"]
    assert {id: row["label"] for id, row in shop.labels("nights").items()} == {
        result["id"]: result["output"]["label"] for result in results
    }
