"""Jobs that are large: everything at once under one of 40,000 documents, and a million enqueued."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .conftest import Make, Measured
from .holders import ended, held_by, hold_frozen, rows_of
from .injections import empty_broker, kill_one_that_holds, lose_broker
from .oracle import Documents, documents
from .processes import until
from .rig import BOUND, Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]


@pytest.mark.fault("long job")
def test_forty_thousand_documents_survive_thirty_faults_with_hardly_a_shard_run_twice(
    make_rig: Make, measured: Measured
) -> None:
    """Each fault comes when a further thirty-second of the documents has ended, and the job is under way when it comes.

    A kill costs the execution under way, and that of a shard which was run and not yet saved; one that was only read ahead
    was never executed. So 20 kills and a worker given up cost 21 to 42 executions, and mostly one each: with 4,000 shards
    of 10 documents 1 % is 40.
    """
    rig = make_rig(shard_documents="10", lease_seconds="5")
    rig.up()
    corpus = documents(40_000)
    rig.baseline(corpus, 600)
    chance = random.Random(20)
    faults = [kill_worker] * 20 + [lose_everything_rung] * 5 + [flush] * 4 + [outlive_the_lease]
    chance.shuffle(faults)
    kills = 0

    def act() -> str:
        nonlocal kills
        # Slow enough for two workers to be at it for longer than thirty recoveries take, one after the other.
        job_id = rig.submit(corpus, delay_ms=18)
        for number, fault in enumerate(faults, start=1):
            rig.await_done(job_id, number / (len(faults) + 2), 300)
            assert rig.left(job_id), f"the job is under way when fault {number} comes"
            kills += fault(rig, job_id, chance, measured)
        assert rig.left(job_id), "and when the last is over"
        rig.await_ended(job_id, 600)
        return job_id

    job_id, measured.executions = rig.executions(act)
    assert kills == 20, "each of a worker that held shards"
    measured.shards = len(rig.shards(job_id))
    # One that was by chance in two workers that were killed, one after the other, is halved.
    assert 4_000 <= measured.shards < 4_040
    rig.verify(job_id, corpus)
    more = measured.executions / measured.shards - 1
    measured.note = f"40,000 results, metrics equal, {more:.2%} more executions than shards"
    assert more <= 0.01


def kill_worker(rig: Rig, job_id: str, chance: random.Random, measured: Measured) -> int:
    """Kill one that holds shards; 1."""
    name, lost = kill_one_that_holds(rig, job_id, chance)
    rig.start(name)
    measured.recoveries.append(rig.recovery(job_id, lost))
    return 1


def lose_everything_rung(rig: Rig, job_id: str, chance: random.Random, measured: Measured) -> int:
    lose_broker(rig, persistent=False)
    measured.recoveries.append(rig.recovery(job_id, []))
    return 0


def flush(rig: Rig, job_id: str, chance: random.Random, measured: Measured) -> int:
    empty_broker(rig)
    measured.recoveries.append(rig.recovery(job_id, []))
    return 0


def outlive_the_lease(rig: Rig, job_id: str, chance: random.Random, measured: Measured) -> int:
    held = hold_frozen(rig, job_id)
    measured.recoveries.append(rig.recovery(job_id, held))
    until(lambda: ended(rig, job_id, held), BOUND, "others have ended its shards")
    before = rows_of(rig, job_id, held)
    rig.thaw("worker-0")
    until(lambda: held_by(rig, "worker-0", job_id), BOUND, "it takes part again")
    assert rows_of(rig, job_id, held) == before
    return 0


MILLION = 1_000_000
#: Bytes that the broker may hold above what it holds when idle, and that any process of the API may ever have.
_BROKER, _API = 10e6, 400e6


@pytest.mark.fault("F52")
def test_a_million_documents_enqueued_take_no_room_in_the_broker(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    response = rig.request(
        "POST", "/corpora", content=lines(MILLION), headers={"Content-Type": "application/x-ndjson"}, timeout=300
    )
    assert response.status_code == 201, response.text
    uploaded = response.json()["id"]
    until(lambda: rig.request("GET", f"/corpora/{uploaded}").json()["status"] == "ready", 600, "it is read")
    # With nobody there to hear the bells, as many as ever will wait; with workers, as many as are in hand besides.
    rig.stop(*rig.worker_names())
    idle = used(rig)
    most = {"broker": 0.0, "api": 0.0}

    def watched(condition: bool) -> bool:
        most["broker"] = max(most["broker"], used(rig) - idle)
        most["api"] = max(most["api"], *(peak(one) for one in api(rig)))
        return condition

    response = rig.request(
        "POST", "/jobs", json={"task": "classification", "model": "echo", "corpus": uploaded}, timeout=300
    )
    assert response.status_code == 202, response.text
    watched(True)  # what the request itself took, too: a process's peak is of all its life
    job_id = response.json()["id"]
    until(lambda: watched(len(rig.broker.messages()) >= 256), BOUND, "the window is full")
    rig.start_all(*rig.worker_names())
    until(lambda: watched(rig.done(job_id) >= 30_000), 300, "thirty thousand are done")
    assert rig.request("POST", f"/jobs/{job_id}/cancel", timeout=300).status_code == 202
    assert rig.await_ended(job_id, 300) == "cancelled"
    counts = rig.job(job_id)["counts"]
    assert counts["succeeded"] + counts["cancelled"] == counts["total"] == MILLION
    measured.note = (
        f"20,000 shards; broker at most {most['broker'] / 1e6:.1f} MB above idle, API's largest process "
        f"{most['api'] / 1e6:.0f} MB"
    )
    assert most["broker"] < _BROKER
    assert most["api"] < _API
    until(lambda: rig.broker.waiting == 0, BOUND, "the queue drains")
    assert rig.request("DELETE", f"/jobs/{job_id}", timeout=300).status_code == 204
    assert rig.request("DELETE", f"/corpora/{uploaded}", timeout=300).status_code == 204


def lines(count: int) -> Iterator[bytes]:
    """A corpus as it goes over the wire, ten thousand lines at a time."""
    for start in range(0, count, 10_000):
        yield "".join(
            f'{{"id": "d{k}", "text": "The text of document {k}."}}\n' for k in range(start, start + 10_000)
        ).encode()


def used(rig: Rig) -> float:
    """Bytes that the broker says it uses."""
    return float(rig.broker.client.info("memory")["used_memory"])


def api(rig: Rig) -> list[psutil.Process]:
    return [psutil.Process(rig.processes["api"].pid), *rig.processes["api"].children()]


def peak(process: psutil.Process) -> float:
    """Bytes that a process has had in memory at most, since it started; those that it has, where the system does not say."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
        (size,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        return 1024.0 * int(size)
    except (OSError, ValueError):
        pass
    try:
        return float(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0.0
