"""Jobs that are cancelled or deleted while they run, and messages that speak of them afterwards."""

from __future__ import annotations

import pytest

from .conftest import Measured
from .messages import rewritten
from .oracle import Documents
from .processes import until
from .rig import Rig

pytestmark = pytest.mark.timeout(300)


@pytest.mark.fault("F42")
def test_a_cancelled_job_stops_and_stays_cancelled(rig: Rig, corpus: Documents, measured: Measured) -> None:
    job_id = rig.submit(corpus, delay_ms=12)
    rig.await_done(job_id, 0.1)
    held = rig.await_running(job_id)
    assert rig.request("POST", f"/jobs/{job_id}/cancel").status_code == 202
    # One of those who run it dies before it hears of the cancellation, or while it does.
    rig.kill("worker-0")
    rig.start("worker-0")
    measured.recoveries.append(rig.recovery(job_id, held))
    assert rig.await_ended(job_id) == "cancelled"
    job = rig.job(job_id)
    counts = job["counts"]
    assert counts["pending"] == 0
    assert counts["succeeded"] + counts["failed"] + counts["cancelled"] == counts["total"] == len(corpus)
    assert counts["cancelled"] > len(corpus) // 4
    rows = results(rig, job_id)
    assert rows == counts["succeeded"]
    # A worker that starts afterwards does not take it up again.
    rig.ready()
    other = rig.submit(corpus[:100])
    rig.await_ended(other)
    assert rig.job(job_id) | {"etag": None} == job | {"etag": None}
    rig.clean(job_id)


@pytest.mark.slow
@pytest.mark.fault("F42")
def test_a_cancelled_job_ends_within_a_batch_of_each_worker(rig: Rig, corpus: Documents, measured: Measured) -> None:
    batches = rig.folder / "batches"
    batches.unlink(missing_ok=True)
    rig.restart(*rig.worker_names(), FAULTS_BATCHES=str(batches))
    rig.ready()
    # A batch of one document, and longer than it takes a worker to look: a shard would last two minutes and a half.
    job_id = rig.submit(corpus[:200], delay_ms=3_000)

    def run() -> list[str]:
        return batches.read_text(encoding="ascii").split() if batches.exists() else []

    until(lambda: len(set(run())) == rig.workers, what="each worker has run a batch")
    assert rig.request("POST", f"/jobs/{job_id}/cancel").status_code == 202
    before = run()
    assert rig.await_ended(job_id) == "cancelled"
    until(lambda: not rig.running(job_id), what="nobody holds a shard of it")
    assert all(run().count(worker) - before.count(worker) <= 1 for worker in set(before))
    counts = rig.job(job_id)["counts"]
    assert counts["succeeded"] == results(rig, job_id)
    assert counts["succeeded"] + counts["cancelled"] == counts["total"] == 200
    rig.clean(job_id)


def results(rig: Rig, job_id: str) -> int:
    found = rig.database.query(
        "SELECT count(*) AS n FROM results r JOIN jobs j ON j.key = r.job_key WHERE j.id = :id", id=job_id
    )
    return int(found[0].n)


@pytest.mark.slow
@pytest.mark.fault("F43")
def test_a_job_deleted_while_it_runs_leaves_no_row(rig: Rig, corpus: Documents, measured: Measured) -> None:
    job_id = rig.submit(corpus, delay_ms=4)
    rig.await_done(job_id, 0.2)
    key = rig.database.query("SELECT key FROM jobs WHERE id = :id", id=job_id)[0].key
    assert rig.request("DELETE", f"/jobs/{job_id}").status_code == 204
    other = rig.submit(corpus)
    rig.await_ended(other)
    rig.verify(other, corpus)
    for table in ("shards", "results", "metrics"):
        assert rig.database.query(f"SELECT count(*) AS n FROM {table} WHERE job_key = :key", key=key)[0].n == 0
    assert rig.request("GET", f"/jobs/{job_id}").status_code == 404


@pytest.mark.slow
@pytest.mark.fault("F43")
def test_a_job_paused_in_mid_job_stands_still_and_goes_on_where_it_was(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    def act() -> str:
        job_id = rig.submit(corpus, delay_ms=4)
        rig.await_done(job_id, 0.2)
        assert rig.request("POST", f"/jobs/{job_id}/pause").status_code == 202
        until(lambda: rig.job(job_id)["status"] == "paused", what="the job is paused")
        stood = rig.done(job_id)
        rig.kill("worker-0")
        rig.start("worker-0")
        other = rig.submit(corpus[:500])
        rig.await_ended(other)
        assert rig.done(job_id) == stood, "nothing of it was run while others were"
        assert rig.request("POST", f"/jobs/{job_id}/resume").status_code == 202
        measured.recoveries.append(rig.recovery(job_id, []))
        rig.await_ended(job_id)
        return job_id

    job_id, _ = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
    assert sum(one.losses for one in rig.shards(job_id)) == 0


@pytest.mark.slow
@pytest.mark.fault("F37")
def test_messages_out_of_order_and_of_jobs_that_are_gone_are_answered_and_forgotten(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    rig.freeze("worker-0", "worker-1")
    deleted, cancelled = rig.submit(corpus), rig.submit(corpus)
    stale = rig.broker.messages()
    rig.broker.client.flushall()
    assert rig.request("DELETE", f"/jobs/{deleted}").status_code == 204
    assert rig.request("POST", f"/jobs/{cancelled}/cancel").status_code == 202
    job_id = rig.submit(corpus, delay_ms=1)
    fresh = rig.broker.messages()
    rig.broker.client.delete("corpusmill.shards")
    unknown = [rewritten(fresh[0], [10**9 + k]) for k in range(20)]
    rig.broker.push(*stale, *reversed(fresh), *unknown, *stale)
    rig.thaw("worker-0", "worker-1")
    rig.await_ended(job_id)
    rig.verify(job_id, corpus)
    until(lambda: rig.broker.waiting == 0, what="the stale messages are answered")
    assert results(rig, cancelled) == 0
