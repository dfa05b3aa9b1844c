"""Links between the processes that are cut, slow, lossy, or lose the one answer that matters."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from .conftest import Measured
from .holders import held_by, let_write, rows_of, wait_before_writing
from .links import broker_link, database_link
from .oracle import Documents
from .processes import until
from .rig import BOUND, Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.fault("F21")
def test_cut_connections_and_lost_replies_to_commits_change_nothing(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    with database_link(rig, seed=21) as (link, url):
        rig.restart("worker-0", "worker-1", "sweep-0", database_url=url)
        rig.ready()

        def act() -> str:
            job_id = rig.submit(corpus, delay_ms=4)
            link.commits = 0.2
            for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
                rig.await_done(job_id, share)
                rig.database.query(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            link.commits = 0.0
            measured.recoveries.append(rig.recovery(job_id, []))
            rig.await_ended(job_id)
            return job_id

        job_id, measured.executions = rig.executions(act)
        measured.shards = len(rig.shards(job_id))
        measured.note = f"{link.lost_commits} replies to COMMIT lost"
        assert link.lost_commits > 5
        rig.verify(job_id, corpus)
        assert sum(one.losses for one in rig.shards(job_id)) == 0, "it is charged to no shard"


@pytest.mark.fault("F25")
@pytest.mark.parametrize("seconds", [60, 120])
def test_a_broker_out_of_reach_costs_the_waiting_only(
    rig: Rig, corpus: Documents, measured: Measured, seconds: int
) -> None:
    with broker_link(rig) as (link, url):
        rig.restart("worker-0", "worker-1", broker_url=url)
        rig.ready()
        job_id = rig.submit(corpus, delay_ms=5)
        rig.await_done(job_id, 0.2)
        link.cut = True
        # A worker lives on what it finds without bells; a second job waits for one.
        other = rig.submit(corpus, delay_ms=1)
        end = time.monotonic() + seconds
        until(lambda: time.monotonic() > end, seconds + 5)
        link.cut = False
        started = time.monotonic()
        for one in (job_id, other):
            rig.recovery(one, rig.running(one), seconds=60)
        measured.recoveries.append(time.monotonic() - started)
        for one in (job_id, other):
            rig.await_ended(one)
            rig.verify(one, corpus)
            assert sum(shard.losses for shard in rig.shards(one)) == 0, "leases are renewed without the broker"


@pytest.mark.fault("F26")
def test_a_worker_cut_off_from_the_database_for_longer_than_its_lease_writes_nothing_late(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    with database_link(rig) as (link, url):
        writes = wait_before_writing(rig, "worker-0", database_url=url)

        def act() -> str:
            job_id = rig.submit(corpus, delay_ms=10)
            until(writes.exists, what="it is about to write")
            link.cut = True
            mine = held_by(rig, "worker-0", job_id)
            let_write(writes)
            measured.recoveries.append(rig.recovery(job_id, mine))
            taken = {one.key for one in mine}
            until(
                lambda: all(one.state == "done" for one in rig.shards(job_id) if one.key in taken),
                BOUND,
                "done by others",
            )
            before = rows_of(rig, job_id, mine)
            link.cut = False
            until(lambda: taken & rig.refused("worker-0"), BOUND, "it wanted to write late, and was refused")
            rig.await_ended(job_id)
            rig.ready()
            assert rows_of(rig, job_id, mine) == before
            return job_id

        job_id, measured.executions = rig.executions(act)
        measured.shards = len(rig.shards(job_id))
        rig.verify(job_id, corpus)


@pytest.mark.timeout(700)
@pytest.mark.fault("F27")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_slow_and_lossy_network_makes_it_slower_and_nothing_else(
    rig: Rig, corpus: Documents, measured: Measured, seed: int
) -> None:
    few = corpus[:200]
    rig.baseline(few)
    with ExitStack() as stack:
        link, url = stack.enter_context(broker_link(rig, seed))
        links = [link]
        link.delay, link.loss = 0.5, 0.3
        # A renewal is half a dozen exchanges: the default lease allows for that, the other tests' 5 seconds do not.
        over = {"broker_url": url, "lease_seconds": "30"}
        if rig.database.kind == "postgresql":
            second, over["database_url"] = stack.enter_context(database_link(rig, seed))
            second.delay, second.loss = 0.5, 0.3
            links.append(second)
        rig.restart("worker-0", **over)
        rig.kill("worker-1")
        job_id = rig.submit(few, delay_ms=1)
        rig.await_ended(job_id, 500)
        for one in links:
            one.delay = one.loss = 0.0
        measured.shards = len(rig.shards(job_id))
        rig.verify(job_id, few)
    measured.note = (
        "by a proxy on the worker's links and a switch between hosts, of our own, in place of tc netem: 500 ms to the "
        "broker and to PostgreSQL"
    )
