"""No sweeper, one too many, and one that dies."""

from __future__ import annotations

import time

import pytest

from .conftest import Measured
from .injections import empty_under_idle_workers, lose_a_message
from .oracle import Documents
from .processes import until
from .rig import SETTINGS, Rig

pytestmark = pytest.mark.timeout(300)

#: Seconds without a sweeper after which a loss counts as seen: two leases and sweeps.
_UNRECOVERED = 2 * (float(SETTINGS["lease_seconds"]) + float(SETTINGS["sweep_seconds"]))


@pytest.mark.fault("negative control F2")
def test_without_a_sweeper_the_loss_of_a_message_is_seen(rig: Rig, corpus: Documents, measured: Measured) -> None:
    few = corpus[:40]
    job_id = lose_a_message(rig, few)
    rig.start("worker-1")
    rig.kill("sweep-0")
    must_not_recover(rig, job_id)
    rig.start("sweep-0")
    rig.await_ended(job_id)
    rig.verify(job_id, few)


@pytest.mark.fault("negative control F15")
def test_without_a_sweeper_the_emptying_of_the_broker_is_seen(rig: Rig, corpus: Documents, measured: Measured) -> None:
    job_id = rig.submit(corpus, delay_ms=5)
    rig.await_done(job_id, 0.1)
    rig.freeze("sweep-0")
    empty_under_idle_workers(rig)
    must_not_recover(rig, job_id)
    rig.thaw("sweep-0")
    rig.await_ended(job_id)
    rig.verify(job_id, corpus)


def must_not_recover(rig: Rig, job_id: str) -> None:
    """The worker listens, and the job does not go on: the harness sees a loss where there is one."""
    until(lambda: rig.broker.listeners() > 0, what="a worker listens")
    with pytest.raises(TimeoutError):
        rig.recovery(job_id, [], seconds=_UNRECOVERED)


@pytest.mark.fault("F40")
def test_three_sweepers_do_everything_once(rig: Rig, corpus: Documents, measured: Measured) -> None:
    rig.start("sweep-1")
    rig.start("sweep-2")

    def act() -> str:
        job_id = rig.submit(corpus, delay_ms=5)
        rig.await_done(job_id, 0.2)
        held = rig.await_running(job_id)
        rig.kill("worker-0", "worker-1")
        rig.broker.client.flushall()
        rig.start("worker-0")
        rig.start("worker-1")
        measured.recoveries.append(rig.recovery(job_id, held))
        rig.await_ended(job_id)
        return job_id

    job_id, measured.executions = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
    assert max(one.losses for one in rig.shards(job_id)) == 1, "no loss is charged twice"
    assert measured.executions <= measured.shards + 4, "what each worker ran and read ahead"


@pytest.mark.slow
@pytest.mark.fault("F41")
def test_where_one_sweeper_dies_for_good_another_goes_on(rig: Rig, corpus: Documents, measured: Measured) -> None:
    rig.start("sweep-1")

    def act() -> str:
        job_id = rig.submit(corpus, delay_ms=5)
        rig.await_done(job_id, 0.2)
        held = rig.await_running(job_id)
        rig.kill("sweep-0", "worker-0", "worker-1")
        rig.broker.client.flushall()
        started = time.monotonic()
        rig.start("worker-0")
        rig.recovery(job_id, held, seconds=60.0)
        measured.recoveries.append(time.monotonic() - started)
        rig.await_ended(job_id)
        return job_id

    job_id, measured.executions = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
