"""Workers that die, are told to end, or come back."""

from __future__ import annotations

import random
import signal
from typing import Any

import psutil
import pytest

from .conftest import Measured
from .failpoints import HANG, SLEEP
from .holders import ended, held_by, hold_frozen, let_write, rows_of, successor, wait_before_writing
from .injections import kill_holder, kill_one_that_holds, lose_a_message
from .messages import rewritten
from .oracle import Documents, documents
from .processes import until
from .rig import BOUND, RECOVERY, Rig

pytestmark = pytest.mark.timeout(300)


@pytest.mark.fault("F1")
def test_a_worker_killed_in_mid_shard_loses_nothing(rig: Rig, corpus: Documents, measured: Measured) -> None:
    def act() -> str:
        job_id = rig.submit(corpus, delay_ms=6)
        rig.await_done(job_id, 0.2)
        held = until(lambda: held_by(rig, "worker-0", job_id), what="worker-0 holds a shard")
        rig.kill("worker-0")
        measured.recoveries.append(rig.recovery(job_id, held))
        rig.await_ended(job_id)
        return job_id

    job_id, measured.executions = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)


@pytest.mark.fault("F2")
def test_a_worker_killed_before_it_could_note_its_message_loses_nothing(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    few = corpus[:40]
    job_id = lose_a_message(rig, few)
    rig.thaw("sweep-0")
    rig.start("worker-1", FAULTS_ONCE=str(rig.folder / "once-stuck"))
    measured.recoveries.append(rig.recovery(job_id, []))
    rig.await_ended(job_id)
    rig.verify(job_id, few)


@pytest.mark.fault("F5")
def test_a_worker_killed_between_commit_and_acknowledgement_repeats_nothing(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    def act() -> str:
        job_id, held = die_at(rig, "after_commit", corpus)
        (saved,) = [one for one in rig.shards(job_id) if one.state == "done"]
        assert (len(rig.results(job_id)), saved.attempt) == (saved.stop - saved.start, 1)
        before = rows_of(rig, job_id, [saved])
        # What the dead worker had in its hands comes again, which would take hours: while others are to be run, and when
        # nothing is. One of them may speak of another shard than was saved.
        messages = rig.broker.handed_out()
        assert messages
        messages.append(rewritten(messages[0], [saved.key]))
        rig.broker.push(*messages)
        rig.thaw("worker-1")
        measured.recoveries.append(rig.recovery(job_id, held))
        rig.await_ended(job_id)
        until(lambda: rig.broker.waiting == 0, what="all is answered")
        rig.broker.push(*messages)
        until(lambda: rig.broker.waiting == 0, what="what came again is answered")
        rig.ready()
        assert rows_of(rig, job_id, [saved]) == before, "the shard is as it was saved"
        assert rig.ran().count((saved.start, saved.stop - 1)) - ran.count((saved.start, saved.stop - 1)) == 1
        return job_id

    ran = rig.ran()
    job_id, measured.executions = rig.executions(act)
    rig.killed_workers += 1
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
    repeated = [one for one in rig.shards(job_id) if one.attempt > 1]
    assert len(repeated) <= 2, "of what the dead worker held that which ran and that which was read ahead, and no other"
    assert measured.executions <= measured.shards + 2


@pytest.mark.fault("F6")
def test_a_worker_killed_before_the_commit_leaves_no_row_of_the_shard(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    def act() -> str:
        job_id, held = die_at(rig, "before_commit", corpus)
        assert rig.results(job_id) == []
        rig.thaw("worker-1")
        measured.recoveries.append(rig.recovery(job_id, held))
        rig.await_ended(job_id)
        now = {one.key: one.attempt for one in rig.shards(job_id)}
        assert [now[one.key] for one in held] == [2] * len(held), "each of them was run again, once"
        return job_id

    job_id, measured.executions = rig.executions(act)
    rig.killed_workers += 1
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
    repeated = [one for one in rig.shards(job_id) if one.attempt > 1]
    assert len(repeated) in (1, 2, 3), "what the dead worker was saving, ran and had read ahead, and no other"


def die_at(rig: Rig, point: str, corpus: Documents) -> tuple[str, list[Any]]:
    """A job whose only worker has died with the first shard that it saved, and what it held besides; worker-1 is stopped."""
    rig.freeze("worker-1")
    token = rig.folder / f"once-{point}"
    token.unlink(missing_ok=True)
    rig.restart("worker-0", FAULTS_POINT=point, FAULTS_ONCE=str(token))
    until(lambda: rig.broker.listeners() == 1, BOUND, "worker-0 listens")
    job_id = rig.submit(corpus, delay_ms=1)
    rig.processes["worker-0"].wait()
    rig.whole(job_id)
    return job_id, rig.running(job_id)


@pytest.mark.fault("F28")
def test_a_worker_that_was_given_up_and_comes_back_writes_nothing(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    def act() -> str:
        job_id = rig.submit(corpus, delay_ms=8)
        held = hold_frozen(rig, job_id)
        measured.recoveries.append(rig.recovery(job_id, held))
        until(lambda: ended(rig, job_id, held), BOUND, "others have ended its shards")
        before = rows_of(rig, job_id, held)
        rig.thaw("worker-0")
        rig.await_ended(job_id)
        assert rows_of(rig, job_id, held) == before
        return job_id

    job_id, measured.executions = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
    until(lambda: len(rig.shards(job_id)) == measured.shards)
    rig.broker.client.delete("unacked", "unacked_index")


@pytest.mark.fault("F28")
@pytest.mark.parametrize("when", ["running", "done"])
def test_a_write_that_comes_after_the_lease_is_refused_whether_the_successor_runs_or_has_ended(
    rig: Rig, corpus: Documents, measured: Measured, when: str
) -> None:
    few = corpus[:50]
    rig.corpus(few)
    # The lease gives the other time enough before the watchdog, whose patience is two leases, ends the one that is stopped.
    writes = wait_before_writing(rig, *rig.worker_names(), lease_seconds="8")

    def act() -> str:
        job_id = rig.submit(few, delay_ms=20)
        until(writes.exists, what="a worker is about to write")
        (zombie,) = [name for name in rig.worker_names() if held_by(rig, name, job_id)]
        rig.freeze(zombie)
        (mine,) = rig.running(job_id)
        rig.whole(job_id)
        until(lambda: successor(rig, job_id, mine).state == when, BOUND, f"another's is {when}")
        before = rows_of(rig, job_id, [mine])
        let_write(writes)
        rig.thaw(zombie)
        until(lambda: mine.key in rig.refused(zombie), BOUND, "it wanted to write and was refused")
        rig.await_ended(job_id)
        (after,) = rows_of(rig, job_id, [mine])
        assert after[:3] == (mine.key, mine.attempt + 1, before[0][2]), "the shard is the successor's"
        assert when == "running" or [after] == before
        return job_id

    job_id, measured.executions = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, few)
    assert measured.executions == 2 * measured.shards


@pytest.mark.slow
@pytest.mark.fault("F3")
def test_a_child_killed_alone_is_replaced_by_its_parent(rig: Rig, corpus: Documents, measured: Measured) -> None:
    def act() -> str:
        job_id = rig.submit(corpus, delay_ms=6)
        rig.await_done(job_id, 0.2)
        held = until(lambda: held_by(rig, "worker-0", job_id), what="worker-0 holds a shard")
        kill_holder(held)
        # The lease, 5 s, and half a second's sweep; then worker-1 is through with a shard of 0.3 s before it takes them.
        measured.recoveries.append(rig.recovery(job_id, held, seconds=10.0))
        rig.await_ended(job_id)
        return job_id

    parent = rig.processes["worker-0"].pid
    job_id, measured.executions = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
    assert rig.processes["worker-0"].alive
    assert rig.processes["worker-0"].pid == parent
    rig.ready()


@pytest.fixture(scope="module")
def many() -> Documents:
    """A corpus of 400 shards."""
    return documents(20_000)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.fault("F4")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_kills_of_workers_lose_nothing(rig: Rig, many: Documents, measured: Measured, seed: int) -> None:
    rig.baseline(many, 300)
    chance = random.Random(seed)
    kills = 25
    killed: list[str] = []

    def act() -> str:
        job_id = rig.submit(many, delay_ms=8)
        for number in range(1, kills + 1):
            # By progress: were each to follow on the last, one shard would be lost until its documents are blamed.
            rig.await_done(job_id, number / (kills + 2), 2 * BOUND)
            name, _ = kill_one_that_holds(rig, job_id, chance, alone=chance.random() < 0.5)
            rig.whole(job_id)
            rig.start(name)
            killed.append(name)
        rig.await_ended(job_id, 300)
        return job_id

    job_id, measured.executions = rig.executions(act)
    measured.shards = len(many) // 50
    rig.verify(job_id, many)
    assert len(killed) == kills
    assert measured.executions <= measured.shards + 2 * kills
    measured.note = f"{kills} kills of one that held shards, for each seed"


@pytest.mark.slow
@pytest.mark.fault("F7")
def test_a_rolling_deploy_consumes_no_attempt(rig: Rig, corpus: Documents, measured: Measured) -> None:
    def act() -> tuple[str, float]:
        job_id = rig.submit(corpus, delay_ms=4)
        slowest = 0.0
        for share, names in ((0.1, ["worker-0"]), (0.3, ["worker-1"]), (0.5, rig.worker_names()), (0.7, ["api"])):
            rig.await_done(job_id, share)
            rig.await_running(job_id)
            slowest = max(slowest, rig.stop(*names))
            rig.start_all(*names)
        measured.recoveries.append(rig.recovery(job_id, []))
        rig.await_ended(job_id)
        return job_id, slowest

    (job_id, slowest), measured.executions = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    measured.note = f"slowest end {slowest:.1f} s"
    assert slowest <= 35
    rig.verify(job_id, corpus)
    assert sum(one.losses for one in rig.shards(job_id)) == 0


@pytest.mark.slow
@pytest.mark.fault("F7")
@pytest.mark.parametrize("word", [HANG, SLEEP])
def test_a_worker_told_to_end_in_a_batch_that_never_ends_gives_its_shards_back_and_ends(
    rig: Rig, corpus: Documents, measured: Measured, word: str
) -> None:
    job_id, stuck = stuck_in_native_code(rig, corpus, word)
    seconds = rig.stop("worker-0")
    assert seconds <= 35
    measured.note = f"slowest end {seconds:.1f} s"
    assert rig.running(job_id) == []
    rig.start("worker-1", FAULTS_ONCE=str(rig.folder / "once-stuck"))
    measured.recoveries.append(rig.recovery(job_id, []))
    rig.await_ended(job_id)
    rig.verify(job_id, stuck)
    assert sum(one.losses for one in rig.shards(job_id)) == 0


@pytest.mark.slow
@pytest.mark.fault("F7")
def test_a_worker_told_to_end_while_the_database_is_away_ends_and_leaves_its_leases_to_run_out(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    job_id, stuck = stuck_in_native_code(rig, corpus, SLEEP)
    rig.database.down()
    seconds = rig.stop("worker-0")
    assert seconds <= 35
    measured.note = f"slowest end {seconds:.1f} s"
    assert "their leases run out" in (rig.folder / "worker-0.log").read_text(errors="replace")
    rig.database.up()
    rig.start("worker-1", FAULTS_ONCE=str(rig.folder / "once-stuck"))
    measured.recoveries.append(rig.recovery(job_id, rig.running(job_id), STUCK_LEASE + RECOVERY))
    rig.await_ended(job_id)
    rig.verify(job_id, stuck)


#: Seconds. A lease of the usual length: what holds the interpreter's lock renews none, and a short one would be over too
#: soon.
STUCK_LEASE = 30.0


def stuck_in_native_code(rig: Rig, corpus: Documents, word: str) -> tuple[str, Documents]:
    """A job in whose second shard the one worker hangs, the first time that it is run; and its documents."""
    rig.kill("worker-1")
    token = rig.folder / "once-stuck"
    token.unlink(missing_ok=True)
    rig.restart("worker-0", FAULTS_ONCE=str(token), lease_seconds=str(STUCK_LEASE))
    rig.ready()
    stuck = [dict(one) for one in corpus[:200]]
    stuck[60]["text"] += word
    job_id = rig.submit(stuck)
    until(token.exists, what="a batch hangs")
    return job_id, stuck


@pytest.mark.slow
@pytest.mark.fault("F8")
def test_impatient_signals_lose_nothing(rig: Rig, corpus: Documents, measured: Measured) -> None:
    def act() -> str:
        job_id = rig.submit(corpus, delay_ms=8)
        rig.await_done(job_id, 0.2)
        held = rig.await_running(job_id)
        first, second = (rig.processes[name] for name in rig.worker_names())
        psutil.Process(first.pid).send_signal(signal.SIGQUIT)
        second.terminate()
        second.terminate()
        for one in (first, second):
            one.await_stopped(60)
        rig.start_all(*rig.worker_names())
        measured.recoveries.append(rig.recovery(job_id, held))
        rig.await_ended(job_id)
        return job_id

    job_id, measured.executions = rig.executions(act)
    measured.shards = len(rig.shards(job_id))
    rig.killed_workers += 2
    rig.verify(job_id, corpus)
