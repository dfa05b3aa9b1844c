"""Two versions of the programs at work on one job, and messages of a version that is not ours."""

from __future__ import annotations

import subprocess

import pytest

from .conftest import Make, Measured
from .holders import held_by
from .later import REVISION, later_version
from .messages import of_type, rewritten
from .oracle import Documents
from .processes import python, until
from .rig import Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.fault("F44")
def test_tables_are_expanded_under_a_job_that_old_and_new_workers_run_together(
    make_rig: Make, corpus: Documents, measured: Measured
) -> None:
    rig = make_rig()
    rig.up()
    rig.baseline(corpus)
    (before,) = rig.database.query("SELECT version_num FROM alembic_version")
    later = later_version(rig.folder / "later", before.version_num)

    def act() -> str:
        # Two minutes for one worker: it must not be through before the other one has started.
        job_id = rig.submit(corpus, delay_ms=60)
        rig.await_done(job_id, 0.02)
        rig.await_running(job_id)
        said = subprocess.run(
            python("-m", "cli", "db", "upgrade"), cwd=later, env=rig.environ(PYTHONPATH=str(later)),
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
        # One of each, and an API of the later version, whose bells say more than the old worker knows.
        for name in ("worker-1", "api"):
            rig.stop(name)
            rig.start(name, tree=later)
        until(rig.answers, what="the API of the later version answers")
        until(lambda: all(held_by(rig, name, job_id) for name in rig.worker_names()), 120, "both hold shards of it")
        measured.recoveries.append(rig.recovery(job_id, []))
        return job_id

    job_id, measured.executions = rig.executions(lambda: ended(rig, act()))
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
    assert sum(one.losses for one in rig.shards(job_id)) == 0
    assert measured.executions <= measured.shards + 2, "what the worker that was replaced gave back, and no more"
    assert written_by(rig, job_id) == {None, REVISION}
    # A job of the later API for the old worker alone, and then back: old programs everywhere, on the expanded tables.
    rig.stop("worker-1")
    second = rig.submit(corpus, delay_ms=1)
    rig.await_ended(second)
    rig.verify(second, corpus)
    rig.stop("api")
    for name in rig.names():
        rig.start(name)
    rig.ready()
    third = rig.submit(corpus, delay_ms=1)
    rig.await_ended(third)
    rig.verify(third, corpus)
    assert written_by(rig, third) == {None}


def ended(rig: Rig, job_id: str) -> str:
    rig.await_ended(job_id, 240)
    return job_id


def written_by(rig: Rig, job_id: str) -> set[str | None]:
    """The versions that wrote the job's shards last; None for the old one, which does not say."""
    return {
        row.later
        for row in rig.database.query(
            "SELECT s.later FROM shards s JOIN jobs j ON j.key = s.job_key WHERE j.id = :id", id=job_id
        )
    }


def waiting_messages(rig: Rig, corpus: Documents) -> tuple[str, list[bytes]]:
    """A job for which nobody has heard a bell yet: no worker and no sweeper runs. The messages of its bells, taken away."""
    rig.stop(*rig.worker_names())
    rig.freeze("sweep-0")
    job_id = rig.submit(corpus, delay_ms=1)
    messages = rig.broker.messages()
    rig.broker.client.delete("corpusmill.shards")
    return job_id, messages


@pytest.mark.fault("F45")
def test_a_message_that_says_more_than_this_version_knows_is_answered_all_the_same(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    job_id, messages = waiting_messages(rig, corpus)
    rig.broker.push(rewritten(messages[0], [7, "later", {"model": "x"}], {"later": True}, later="header"))
    rig.start_all(*rig.worker_names())
    measured.recoveries.append(rig.recovery(job_id, []))
    rig.thaw("sweep-0")
    rig.await_ended(job_id)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)


@pytest.mark.fault("F45")
def test_messages_that_this_version_cannot_read_are_put_aside_and_rung_for_again(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    job_id, messages = waiting_messages(rig, corpus)
    foreign = [rewritten(message, task="corpusmill.shard.later") for message in messages[:8]]
    foreign += [of_type(message, "application/x-python-serialize") for message in messages[8:12]]
    foreign += [of_type(message, "application/x-later") for message in messages[12:16]]
    rig.broker.push(*foreign)
    rig.start_all(*rig.worker_names())
    parents = [rig.processes[name].pid for name in rig.worker_names()]
    until(lambda: rig.broker.waiting == rig.broker.unacknowledged == 0, what="they are put aside")
    assert rig.done(job_id) == 0, "nothing came of them"
    rig.thaw("sweep-0")
    measured.recoveries.append(rig.recovery(job_id, []))
    rig.await_ended(job_id)
    measured.shards = len(rig.shards(job_id))
    rig.verify(job_id, corpus)
    assert [rig.processes[name].pid for name in rig.worker_names()] == parents
    assert all(rig.processes[name].alive for name in rig.worker_names()), "none of them ended a worker"
