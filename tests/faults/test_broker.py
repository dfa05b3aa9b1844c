"""A broker that dies, forgets, repeats itself, hangs or is full."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import httpx2
import pytest
from celery import Celery

from corpusmill.messages import SHARD_QUEUE

from .conftest import Measured
from .injections import empty_under_idle_workers
from .oracle import Documents
from .processes import ROOT, until
from .rig import BOUND, RECOVERY, SETTINGS, Rig

pytestmark = pytest.mark.timeout(300)


@pytest.mark.fault("F13")
def test_a_broker_killed_and_started_again_with_its_log_goes_on(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    broker_restart(rig, corpus, measured, persistent=True)


@pytest.mark.fault("F14")
def test_a_broker_that_comes_back_empty_is_rung_again(rig: Rig, corpus: Documents, measured: Measured) -> None:
    broker_restart(rig, corpus, measured, persistent=False)


def broker_restart(rig: Rig, corpus: Documents, measured: Measured, *, persistent: bool) -> None:
    """The broker dies twice under the same workers: while they run a job, and while the bells for one lie in its queue."""
    parents = [rig.processes[name].pid for name in rig.worker_names()]

    def act() -> list[str]:
        first = rig.submit(corpus, delay_ms=6)
        rig.await_done(first, 0.2)
        rig.broker.process.kill()
        start_again(rig, persistent=persistent)
        rig.recovery(first, [])
        rig.await_ended(first)
        rig.ready()
        rig.freeze("sweep-0", *rig.worker_names())
        second = rig.submit(corpus, delay_ms=2)
        assert rig.broker.waiting >= 30
        rig.broker.process.kill()
        rig.thaw(*rig.worker_names())
        assert rig.done(second) == 0
        start_again(rig, persistent=persistent)
        if not persistent:
            rig.thaw("sweep-0")
        # With its log the broker rings by itself, no sweeper runs. It was away for 2 s; the workers try again after 2 and
        # then 4 seconds, so that they are back within 4.
        measured.recoveries.append(rig.recovery(second, [], seconds=10.0 if persistent else RECOVERY))
        rig.thaw("sweep-0")
        rig.await_ended(second)
        return [first, second]

    jobs, measured.executions = rig.executions(act)
    rig.killed_workers += 2  # what they had in their hands could not be given back to a dead broker
    for job_id in jobs:
        measured.shards += len(rig.shards(job_id))
        rig.verify(job_id, corpus)
        assert sum(one.losses for one in rig.shards(job_id)) == 0
    assert [rig.processes[name].pid for name in rig.worker_names()] == parents
    assert all(rig.processes[name].alive for name in rig.worker_names()), "they lived, and found it again"


def start_again(rig: Rig, *, persistent: bool) -> None:
    """Start the broker, 2 s after it died."""
    returns = time.monotonic() + 2
    until(lambda: time.monotonic() > returns, 10)
    rig.broker.start(persistent=persistent)


@pytest.mark.fault("F15")
def test_an_emptied_broker_is_rung_again(rig: Rig, corpus: Documents, measured: Measured) -> None:
    def act() -> str:
        job_id = rig.submit(corpus, delay_ms=3)
        for share in (0.1, 0.4, 0.7):
            rig.await_done(job_id, share)
            empty_under_idle_workers(rig)
            measured.recoveries.append(rig.recovery(job_id, []))
        rig.await_ended(job_id)
        return job_id

    job_id, measured.executions = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
    assert sum(one.losses for one in rig.shards(job_id)) == 0


@pytest.mark.fault("F36")
def test_every_message_delivered_four_times_changes_nothing(rig: Rig, corpus: Documents, measured: Measured) -> None:
    logs = [(rig.folder / f"{name}.log").read_text(errors="replace") for name in rig.worker_names()]
    lost = sum(log.count("Connection to broker lost") for log in logs)

    def act() -> str:
        rig.freeze("worker-0", "worker-1")
        job_id = rig.submit(corpus, delay_ms=1)
        messages = rig.broker.messages()
        assert len(messages) >= 30
        for _ in range(3):
            rig.broker.push(*messages)
        rig.thaw("worker-0", "worker-1")
        measured.recoveries.append(rig.recovery(job_id, []))
        rig.await_ended(job_id)
        return job_id

    job_id, measured.executions = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
    assert measured.executions == measured.shards
    logs = [(rig.folder / f"{name}.log").read_text(errors="replace") for name in rig.worker_names()]
    assert sum(log.count("Connection to broker lost") for log in logs) == lost, "a sound connection is kept"
    until(lambda: rig.broker.waiting == 0, what="the repeated messages are answered")


@pytest.mark.slow
@pytest.mark.fault("F16")
def test_a_broker_that_hangs_holds_up_no_request(rig: Rig, corpus: Documents, measured: Measured) -> None:
    rig.baseline(corpus)
    rig.broker.process.signal(signal.SIGSTOP)
    seconds = 45.0
    end = time.monotonic() + seconds
    jobs, slowest = [], 0.0
    for _ in range(3):
        asked = time.monotonic()
        # No answer waits for the broker: the producer's own limits end after about two seconds.
        jobs.append(rig.submit(corpus, delay_ms=1, timeout=5))
        slowest = max(slowest, time.monotonic() - asked)
    assert slowest <= 5
    until(lambda: time.monotonic() > end, 60)
    rig.broker.process.signal(signal.SIGCONT)
    started = time.monotonic()
    # To resume is to commit again; the three jobs, 6 seconds of delays each, may take a busy machine longer.
    measured.recoveries.append(rig.recovery(jobs[0], [], seconds=60.0))
    for job_id in jobs:
        rig.await_ended(job_id)
    measured.note = f"slowest 202 {slowest:.1f} s, all three ended {time.monotonic() - started:.0f} s after it"
    for job_id in jobs:
        rig.verify(job_id, corpus)
        assert sum(one.losses for one in rig.shards(job_id)) == 0, "a fault of the broker is charged to no shard"


@pytest.mark.slow
@pytest.mark.fault("F17")
def test_an_api_that_starts_without_a_broker_takes_jobs_that_run_later(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    rig.kill("api", "worker-0", "worker-1")
    rig.broker.process.kill()
    for name in ("api", "worker-0", "worker-1"):
        rig.start(name)
    until(lambda: healthy(rig), BOUND, "the API is up")
    assert not rig.answers(), "it says that it is not ready"
    job_id = rig.submit(corpus, delay_ms=1)
    rig.broker.start()
    measured.recoveries.append(rig.recovery(job_id, []))
    rig.await_ended(job_id)
    rig.verify(job_id, corpus)
    assert sum(one.losses for one in rig.shards(job_id)) == 0


def healthy(rig: Rig) -> bool:
    try:
        return rig.http.get("/healthz", timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False


@pytest.mark.slow
@pytest.mark.fault("F18")
def test_a_full_broker_loses_nothing(rig: Rig, corpus: Documents, measured: Measured) -> None:
    refusals = refused(rig)
    rig.freeze(*rig.worker_names())
    job_id = rig.submit(corpus, delay_ms=2)
    rig.broker.client.config_set("maxmemory", "1")
    rig.thaw(*rig.worker_names())
    # A worker takes a message off the queue and cannot note that it has it: the message is nowhere any more.
    until(lambda: refused(rig) > refusals, BOUND, "a worker meets the refusal")
    other = rig.submit(corpus[:100])
    held = time.monotonic() + 2 * float(SETTINGS["lease_seconds"])
    while time.monotonic() < held:
        supervise(rig)
        response = rig.http.get("/readyz", timeout=30)
        assert response.status_code == 503
        assert response.json()["checks"]["broker"] == "has no memory left (maxmemory)"
    said = doctor(rig)
    assert said.returncode == 1
    assert "no memory left" in said.stdout
    rig.broker.client.config_set("maxmemory", "0")
    started = time.monotonic()
    supervise(rig)
    until(rig.answers, BOUND, "ready again")
    rig.await_ended(other)
    measured.recoveries.append(time.monotonic() - started)
    rig.await_ended(job_id)
    rig.ready()
    rig.killed_workers += 2
    rig.verify(job_id, corpus)
    rig.verify(other, corpus[:100])
    assert sum(one.losses for each in (job_id, other) for one in rig.shards(each)) == 0


def refused(rig: Rig) -> int:
    """How often workers have said that the broker had no memory for what they wanted to write."""
    logs = [(rig.folder / f"{name}.log").read_text(errors="replace") for name in rig.worker_names()]
    return sum(log.count("command not allowed when used memory") for log in logs)


def supervise(rig: Rig) -> None:
    """Start the workers that have ended, as their supervisor does."""
    for name in rig.worker_names():
        rig.start(name)


@pytest.mark.slow
@pytest.mark.fault("F19")
def test_a_broker_that_may_evict_is_refused_by_workers_and_the_doctor(rig: Rig, measured: Measured) -> None:
    rig.stop("worker-0")
    rig.broker.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        said = doctor(rig)
        status = rig.start("worker-0").wait()
    finally:
        rig.broker.client.config_set("maxmemory-policy", "noeviction")
    assert said.returncode == 1
    assert "noeviction" in said.stdout + said.stderr
    assert status == 1
    assert "it must be noeviction" in (rig.folder / "worker-0.log").read_text(errors="replace")
    measured.note = "by a worker that starts, and by `corpusmill doctor`"


@pytest.mark.slow
@pytest.mark.fault("deaf worker")
def test_a_worker_that_hears_no_doorbell_any_more_ends_and_its_successor_goes_on(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    few = corpus[:200]
    rig.kill("worker-1")
    rig.restart("worker-0", FAULTS_POINT="by_word", FAULTS_DEAF="5")
    rig.ready()
    with Celery(broker=rig.broker.url) as app:
        until(lambda: app.control.cancel_consumer(SHARD_QUEUE, reply=True), what="its consumer is cancelled")
    until(lambda: rig.broker.listeners() == 0, what="nobody listens")
    job_id = rig.submit(few)
    rig.processes["worker-0"].wait()
    assert "this worker takes none" in (rig.folder / "worker-0.log").read_text(errors="replace")
    assert rig.done(job_id) == 0
    rig.start("worker-0")  # as its supervisor does
    measured.recoveries.append(rig.recovery(job_id, []))
    rig.await_ended(job_id)
    rig.verify(job_id, few)
    assert sum(one.losses for one in rig.shards(job_id)) == 0


def doctor(rig: Rig) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "doctor"]
    return subprocess.run(command, cwd=ROOT, env=rig.environ(), capture_output=True, text=True, check=False)
