"""The machine: all at once, its clock, its disk, its limits; and `corpusmill up`, which stands for one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.acceptance.stack import Stack, jsonl, started

from .clock import set_wrong, shim_in
from .conftest import Measured
from .databases import Postgresql
from .oracle import Documents, expected
from .processes import ROOT, until
from .rig import Rig
from .test_workers import held_by

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that puts a program's wall clock wrong, the one that SQLite reads in it included."""
    library = shim_in(tmp_path_factory.mktemp("clock"))
    if library is None:
        pytest.skip("no C compiler, which the wrong clock is made with")
    return library


def wrong_by(shim: Path, rig: Rig, name: str, hours: float) -> dict[str, str]:
    """Variables for a program whose clock is wrong; called again with the same name it is set while the program runs."""
    return set_wrong(shim, rig.folder / f"clock-{name}", hours * 3600)


@pytest.mark.fault("F38")
def test_a_worker_two_hours_ahead_and_an_api_two_hours_behind_do_no_harm(
    rig: Rig, shim: Path, corpus: Documents, measured: Measured
) -> None:
    rig.restart("worker-0", **wrong_by(shim, rig, "ahead", 2))
    rig.restart("api", **wrong_by(shim, rig, "behind", -2))
    rig.ready()

    def act() -> str:
        job_id = rig.submit(corpus, delay_ms=2)
        rig.await_ended(job_id)
        return job_id

    job_id, measured.executions = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
    assert measured.executions == measured.shards, "no shard was taken from a worker that lives"
    assert sum(one.losses for one in rig.shards(job_id)) == 0
    not_negative(rig, job_id)


def not_negative(rig: Rig, job_id: str) -> None:
    """No duration or speed is below zero."""
    job = rig.job(job_id)
    assert (job["documents_per_second"] or 0) >= 0
    timings = {name: metric["value"] for name, metric in rig.metrics(job_id).items() if "second" in name}
    assert all(value is None or value >= 0 for value in timings.values()), timings


@pytest.mark.slow
@pytest.mark.fault("F39")
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_set_back_or_on_by_an_hour_as_a_worker_is_killed_does_no_harm(
    rig: Rig, shim: Path, corpus: Documents, measured: Measured, hours: int
) -> None:
    variables = wrong_by(shim, rig, "step", 0)
    rig.restart(*rig.names(), **variables)
    rig.ready()

    def act() -> str:
        job_id = rig.submit(corpus, delay_ms=6)
        rig.await_done(job_id, 0.3)
        held = until(lambda: held_by(rig, "worker-0", job_id), what="worker-0 holds a shard")
        rig.kill("worker-0")
        living = {one.key for one in until(lambda: held_by(rig, "worker-1", job_id), what="worker-1 holds a shard")}
        wrong_by(shim, rig, "step", hours)
        measured.recoveries.append(rig.recovery(job_id, held))
        rig.await_ended(job_id)
        lost = {one.key for one in rig.shards(job_id) if one.losses}
        assert not lost & living, "nothing is taken from a worker that lives"
        return job_id

    job_id, measured.executions = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
    not_negative(rig, job_id)


@pytest.mark.fault("F49")
def test_everything_killed_at_once_goes_on_unattended_when_started(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    def act() -> str:
        job_id = rig.submit(corpus, delay_ms=6)
        rig.await_done(job_id, 0.2)
        held = rig.await_running(job_id)
        rig.kill(*rig.names())
        rig.broker.process.kill()
        rig.database.down()
        started = time.monotonic()
        rig.up()
        rig.recovery(job_id, held)
        measured.recoveries.append(time.monotonic() - started)
        rig.await_ended(job_id)
        return job_id

    job_id, measured.executions = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)


@pytest.mark.fault("F50")
def test_up_killed_leaves_no_orphan_and_its_directory_to_one_successor_only(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest, corpus: Documents, measured: Measured
) -> None:
    settings = {"lease_seconds": "5", "sweep_seconds": "0.5", "shard_documents": "50"}
    if kind == "postgresql":
        settings["database_url"] = Postgresql(request.getfixturevalue("postgresql")()).url.replace("+psycopg", "")
    with started(tmp_path, **settings) as stack:
        refused = second_start(tmp_path)
        assert refused.returncode != 0
        assert str(stack.process.pid) in refused.stderr
        job = stack.submit(
            task="classification", model="echo", corpus=stack.upload(jsonl(corpus))["id"], params={"delay_ms": 3}
        )
        stack.wait(job["id"], lambda now: now["counts"]["pending"] < 1_600)
        children = psutil.Process(stack.process.pid).children(recursive=True)
        stack.process.kill()
        stack.process.wait()
        fault = time.monotonic()
        with started(tmp_path, **settings) as successor:
            servers = [one for one in valkeys(tmp_path) if one.status() != psutil.STATUS_ZOMBIE]
            assert len(servers) == 1, "one broker, and one writer of its log"
            psutil.wait_procs(children, timeout=20)
            assert not [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
            pending = successor.get(f"/jobs/{job['id']}")["counts"]["pending"]
            successor.wait(job["id"], lambda now: now["counts"]["pending"] < max(1, pending))
            measured.recoveries.append(time.monotonic() - fault)
            same(successor, job["id"], corpus)


def second_start(data_dir: Path) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CORPUSMILL_")}
    command = [sys.executable, "-m", "cli", "up", "--port", "0", "--data", str(data_dir), "--device", "cpu"]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)


def valkeys(data_dir: Path) -> list[psutil.Process]:
    """Servers whose working directory is this data directory's."""
    found = []
    for one in psutil.process_iter():
        try:
            if "valkey" in one.name() and Path(one.cwd()) == data_dir / "broker":
                found.append(one)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def same(stack: Stack, job_id: str, corpus: Documents) -> None:
    """Every document once, and right."""
    ended = stack.wait(job_id)
    assert ended["status"] == "completed"
    found = stack.results(job_id)
    assert [one["position"] for one in found] == list(range(len(corpus)))
    assert [one["output"] for one in found] == [expected(one) for one in corpus]
