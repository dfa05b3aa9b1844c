"""Everything at once, by chance."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import httpx2
import psutil
import pytest

from .conftest import Measured
from .databases import away
from .oracle import Documents
from .processes import until
from .rig import Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

#: How long each soak lasts: ten minutes in `make faults`, a minute elsewhere, unless the environment says otherwise.
SECONDS = float(os.environ.get("FAULTS_SOAK_SECONDS", "600" if "FAULTS_OUTCOMES" in os.environ else "60"))


@pytest.mark.fault("F54")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_faults_change_nothing(rig: Rig, corpus: Documents, measured: Measured, seed: int) -> None:
    chance = random.Random(seed)
    faults: list[Callable[[], None]] = [
        lambda: restart(rig, chance.choice(rig.worker_names())),
        lambda: kill_child(rig, chance.choice(rig.worker_names())),
        lambda: drain(rig, chance.choice(rig.worker_names())),
        lambda: restart(rig, "sweep-0"),
        lambda: restart(rig, "api"),
        lambda: lose_broker(rig, persistent=chance.random() < 0.5),
        lambda: empty_broker(rig),
        lambda: lose_database(rig, chance.uniform(0.5, 5.0)),
        lambda: zombie(rig, chance.choice(rig.worker_names()), chance.uniform(1.0, 9.0)),
        lambda: everything(rig),
    ]
    end = time.monotonic() + SECONDS
    injected = 0
    jobs: list[str] = []
    while time.monotonic() < end:
        until(rig.answers, 120, "the API answers")
        job_id = submit(rig, corpus)
        if job_id is None:
            continue
        jobs.append(job_id)
        for share in (0.2, 0.4, 0.6, 0.8):
            await_supervised(rig, job_id, share * len(corpus))
            chance.choice(faults)()
            injected += 1
        await_supervised(rig, job_id, len(corpus))
        rig.await_ended(job_id, 200)
    rig.up()
    for job_id in jobs:
        measured.shards += len(rig.shards(job_id))
        rig.verify(job_id, corpus)
    measured.note = f"{injected} faults in {len(jobs)} jobs in {SECONDS:.0f} s"


def await_supervised(rig: Rig, job_id: str, documents: float) -> None:
    """Block until so many documents have ended. A program that has ended by itself meanwhile is started again, as its
    supervisor would: a worker's parent does so when its helper that keeps account of semaphores is killed."""

    def reached() -> bool:
        rig.start_all(*rig.names())
        return rig.done(job_id) >= documents

    until(reached, 180, f"{documents:.0f} documents of {job_id} ended")


def submit(rig: Rig, corpus: Documents) -> str | None:
    """A job, or None where the API died under it; its own may have been committed and is then run beside ours."""
    with suppress(httpx2.HTTPError, AssertionError):
        return rig.submit(corpus, delay_ms=5)
    return None


def restart(rig: Rig, name: str) -> None:
    rig.kill(name)
    rig.start(name)


def kill_child(rig: Rig, name: str) -> None:
    for child in rig.processes[name].children():
        with suppress(psutil.NoSuchProcess):
            child.kill()


def drain(rig: Rig, name: str) -> None:
    rig.stop(name)
    rig.start(name)


def lose_broker(rig: Rig, *, persistent: bool) -> None:
    rig.broker.process.kill()
    rig.killed_workers += len(rig.worker_names())
    rig.broker.start(persistent=persistent)


def empty_broker(rig: Rig) -> None:
    rig.broker.client.flushall()


def lose_database(rig: Rig, seconds: float) -> None:
    with away(rig.database):
        end = time.monotonic() + seconds
        until(lambda: time.monotonic() > end)


def zombie(rig: Rig, name: str, seconds: float) -> None:
    rig.freeze(name)
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end)
    rig.processes[name].signal(signal.SIGCONT)


def everything(rig: Rig) -> None:
    rig.kill(*rig.names())
    rig.broker.process.kill()
    rig.database.down()
    rig.up()
