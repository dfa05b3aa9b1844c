"""A database that dies, is locked, deadlocks or loses its connections."""

from __future__ import annotations

import time

import httpx2
import pytest

from .conftest import Measured
from .databases import away
from .oracle import Documents
from .rig import Rig

pytestmark = pytest.mark.timeout(300)


@pytest.mark.fault("F20")
@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_a_database_that_is_away_for_several_leases_costs_time_only(
    rig: Rig, corpus: Documents, measured: Measured, seconds: int
) -> None:
    few = corpus[:300]
    rig.baseline(few)

    accepted = 0

    def act() -> str:
        nonlocal accepted
        job_id = rig.submit(corpus, delay_ms=2)
        rig.await_done(job_id, 0.3)
        with away(rig.database):
            returns = time.monotonic() + seconds
            said = []
            while time.monotonic() < returns:
                said.append(submit_quickly(rig, few, returns - time.monotonic()))
            assert set(said) <= {503, 202, None}
            # A write waits 30 s for SQLite's lock, and may get it when it is free again.
            accepted = said.count(202)
            assert 503 in said or (rig.database.kind == "sqlite" and seconds < 30)
        measured.recoveries.append(rig.recovery(job_id, []))
        rig.await_ended(job_id)
        return job_id

    job_id, measured.executions = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
    assert sum(one.losses for one in rig.shards(job_id)) == 0, "a fault of the database is charged to no shard"
    # Whatever was taken meanwhile, its caller having heard of it or not, is done as well.
    taken = rig.database.query(
        "SELECT id FROM jobs WHERE key > (SELECT key FROM jobs WHERE id = :id) ORDER BY key", id=job_id
    )
    assert len(taken) >= accepted
    for (other,) in taken:
        rig.await_ended(other)
        rig.verify(other, few)
        assert sum(one.losses for one in rig.shards(other)) == 0


def submit_quickly(rig: Rig, corpus: Documents, seconds: float) -> int | None:
    """The status of a job submitted while the database is away; None where the answer did not come in time."""
    asked = {"task": "classification", "model": "echo", "corpus": rig.corpus(corpus)}
    try:
        return rig.request("POST", "/jobs", json=asked, timeout=max(0.5, seconds)).status_code
    except httpx2.TimeoutException:
        return None


@pytest.mark.slow
@pytest.mark.fault("F22")
def test_many_workers_on_one_database_get_in_no_others_way(rig: Rig, corpus: Documents, measured: Measured) -> None:
    # On SQLite they wait 50 ms for its lock instead of 30 s, and then try again.
    met = rig.folder / "busy"
    met.unlink(missing_ok=True)
    rig.restart(*rig.worker_names(), FAULTS_BUSY=str(met))
    rig.start_all(*(f"worker-{number}" for number in range(2, 8)), FAULTS_BUSY=str(met))
    rig.ready()

    def act() -> list[str]:
        jobs = [rig.submit(corpus) for _ in range(6)]
        for job_id in jobs:
            rig.await_ended(job_id)
        return jobs

    before = deadlocks(rig)
    jobs, measured.executions = rig.executions(act)
    assert deadlocks(rig) == before, "each would cost a second, and come again"
    for job_id in jobs:
        measured.shards += len(rig.shards(job_id))
        rig.verify(job_id, corpus)
        assert sum(one.losses for one in rig.shards(job_id)) == 0
    if rig.database.kind == "sqlite":
        refused = len(met.read_text(encoding="ascii"))
        assert refused > 0
        measured.note = f"SQLite's lock was refused {refused} times"


def deadlocks(rig: Rig) -> int:
    """How many the server has found so far; SQLite, with one writer at a time, knows none."""
    if rig.database.kind == "sqlite":
        return 0
    found = rig.database.query("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return int(found[0].deadlocks)


@pytest.mark.slow
@pytest.mark.fault("F51")
def test_an_older_backup_under_a_newer_broker_runs_what_is_missing(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    job_id = rig.submit(corpus, delay_ms=3)
    rig.await_done(job_id, 0.3)
    held = rig.await_running(job_id)
    rig.kill(*rig.names())
    rig.database.save()
    saved = rig.done(job_id)
    rig.start_all(*rig.names())
    rig.await_done(job_id, 0.7)
    rig.kill(*rig.names())
    rig.database.restore()
    assert rig.done(job_id) == saved
    rig.start_all(*rig.names())
    measured.recoveries.append(rig.recovery(job_id, held))
    rig.await_ended(job_id)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
