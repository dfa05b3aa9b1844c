"""Pause, resume, cancel, retry and delete: what each may be asked of, and that counts always add up."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from corpusmill.errors import Conflict, LeaseLost, NotFound
from corpusmill.shards import Slice
from corpusmill.status import ENDED, MOVES, Status
from db import jobs, losses, results, shards, tables
from db.engine import Engine, reading, transact
from db.shards import Claim
from tests.integration.moves import PAUSES, ask, finish, rows, stored
from tests.integration.steps import a_job, claim, the_job


def test_a_paused_job_is_claimed_by_nobody_until_it_is_resumed(database: Engine) -> None:
    a_job(database)
    assert ask(database, "pause").status is Status.PAUSED
    assert claim(database) is None
    assert ask(database, "pause").status is Status.PAUSED
    assert ask(database, "resume").status is Status.QUEUED
    assert claim(database) is not None


def test_a_job_pauses_when_its_last_running_shard_is_given_back(database: Engine) -> None:
    a_job(database)
    held = claim(database)
    assert ask(database, "pause").status is Status.RUNNING
    transact(database, lambda connection: shards.release(connection, held))
    assert the_job(database).status is Status.PAUSED
    ask(database, "resume")
    again = claim(database)
    assert (again.slice, again.losses) == (held.slice, 0)


def test_a_paused_job_can_be_cancelled_and_a_cancelled_one_cannot_be_resumed(database: Engine) -> None:
    a_job(database)
    ask(database, "pause")
    assert ask(database, "cancel").status is Status.CANCELLED
    for move in ("pause", "resume", "retry"):
        with pytest.raises(Conflict, match=f"is cancelled; {move} is for jobs that are"):
            ask(database, move)
    with pytest.raises(NotFound):
        ask(database, "pause", "job_unknown")


def test_a_retry_runs_the_failed_documents_of_the_shards_that_hold_them(database: Engine) -> None:
    job = a_job(database)
    first, second = claim(database), claim(database)
    finish(database, first, rows(first.slice, failed=frozenset({1, 3})), seconds={"model": 1.0}, tokens=5)
    finish(database, second, rows(second.slice), seconds={"model": 1.0}, tokens=5)
    ended = the_job(database)
    assert ended.status is Status.COMPLETED_WITH_ERRORS

    again = ask(database, "retry")
    assert again.status is Status.RUNNING
    assert again.counts is not None
    assert (again.counts.succeeded, again.counts.failed, again.counts.pending) == (8, 0, 2)
    assert sorted(stored(database, job)) == [0, 2, 4, 5, 6, 7, 8, 9]

    held = claim(database)
    assert (held.slice, held.kept) == (first.slice, 3)
    assert claim(database) is None
    with reading(database) as connection:
        assert [row.position for row in results.kept(connection, job.key, held.slice)] == [0, 2, 4]
    new = [row for row in rows(held.slice) if row.position in {1, 3}]
    assert finish(database, held, new, seconds={"model": 0.5}, tokens=2)
    ended = the_job(database)
    assert ended.status is Status.COMPLETED
    assert stored(database, job) == dict.fromkeys(range(10), "succeeded")
    with reading(database) as connection:
        usage = connection.execute(select(tables.shards.c.usage).order_by(tables.shards.c.start)).scalars().all()
    assert usage[0] == {"seconds": {"model": 1.5}, "tokens": 7}


def test_a_shard_that_was_opened_again_and_lost_is_halved_with_what_it_kept(database: Engine) -> None:
    job = a_job(database, shard_size=10)
    held = claim(database)
    finish(database, held, rows(held.slice, failed=frozenset({7})))
    ask(database, "retry")
    for _ in range(2):
        claim(database, lease=-1.0)
        transact(database, lambda connection: losses.expire(connection, owner="sweeper", lease=30.0))
        with database.begin() as connection:
            connection.exec_driver_sql("UPDATE shards SET not_before = 0")
    halves = [claim(database), claim(database)]
    assert [(half.slice, half.kept) for half in halves] == [(Slice(0, 5), 5), (Slice(5, 10), 4)]
    finish(database, halves[0], [])
    finish(database, halves[1], [row for row in rows(halves[1].slice) if row.position == 7])
    assert the_job(database).status is Status.COMPLETED
    assert stored(database, job) == dict.fromkeys(range(10), "succeeded")


def test_a_cancelled_retry_keeps_what_had_succeeded(database: Engine) -> None:
    job = a_job(database)
    held = claim(database)
    finish(database, held, rows(held.slice, failed=frozenset({0})))
    other = claim(database)
    finish(database, other, rows(other.slice))
    ask(database, "retry")
    assert ask(database, "cancel").status is Status.CANCELLED
    counts = the_job(database).counts
    assert counts is not None
    assert (counts.succeeded, counts.cancelled, counts.failed) == (9, 1, 0)
    assert len(stored(database, job)) == 9


def test_only_failures_of_documents_that_still_exist_can_be_retried(database: Engine) -> None:
    a_job(database)
    for held in (claim(database), claim(database)):
        finish(database, held, rows(held.slice))
    with pytest.raises(Conflict, match="is completed; retry is for jobs that are"):
        ask(database, "retry")
    a_job(database, "job_b")
    for held in (claim(database), claim(database)):
        finish(database, held, rows(held.slice, failed=frozenset({2})))
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE jobs SET corpus_key = NULL WHERE id = 'job_b'")
    with pytest.raises(Conflict, match="was deleted: nothing can be run again"):
        ask(database, "retry", "job_b")


class JobLife(RuleBasedStateMachine):
    """A job under every move in any order, by workers that finish, fail, give back and lose its shards; once it is deleted
    another takes its place, while they still hold shards of the first."""

    def __init__(self, database: Engine) -> None:
        super().__init__()
        self.database = database
        self.job = a_job(database, shard_size=4, documents=12)
        self.held: list[Claim] = []
        #: Shards that were held when the job, which had failed, was opened again: whoever still runs one comes too late.
        self.stale: set[tuple[int, int]] = set()

    def teardown(self) -> None:
        transact(self.database, lambda connection: jobs.remove(connection, "job_a"))

    @rule(move=st.sampled_from(sorted(PAUSES)))
    def asked(self, move: str) -> None:
        before = the_job(self.database)
        legal = before.status in MOVES[move]
        try:
            ask(self.database, move)
        except Conflict:
            # a retry may be refused for want of a failure, and a move that stands already is no conflict
            assert not legal or move == "retry"
        else:
            assert legal
            if move == "retry":
                self.stale |= {(held.key, held.attempt) for held in self.held}

    @rule()
    def claimed(self) -> None:
        held = claim(self.database)
        if held is not None:
            assert the_job(self.database).intent == "run"
            self.held.append(held)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def finished(self, data: st.DataObject) -> None:
        held = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        with reading(self.database) as connection:
            done = frozenset(row.position for row in results.kept(connection, held.job_key, held.slice))
        bad = data.draw(st.frozensets(st.integers(held.slice.start, held.slice.stop - 1)))
        try:
            finish(self.database, held, rows(held.slice, bad - done, done))
        except LeaseLost:
            late = (held.key, held.attempt) in self.stale or held.job_key != self.job.key
            assert late or the_job(self.database).status in ENDED | {Status.CANCELLING}
        else:
            assert held.job_key == self.job.key, "of a job that is deleted nothing is written"

    @precondition(lambda self: self.held)
    @rule()
    def given_back(self) -> None:
        held = self.held.pop()
        transact(self.database, lambda connection: shards.release(connection, held))

    @precondition(lambda self: self.held)
    @rule()
    def lost(self) -> None:
        held = self.held.pop()
        transact(self.database, lambda connection: shards.surrender(connection, held))
        expired = transact(self.database, lambda connection: losses.expire(connection, owner="sweeper", lease=30.0))
        for blamed in expired.blamed:
            finish(self.database, blamed, rows(blamed.slice, frozenset(range(blamed.slice.start, blamed.slice.stop))))
        with self.database.begin() as connection:
            connection.exec_driver_sql("UPDATE shards SET not_before = 0")

    @rule()
    def broken(self) -> None:
        """The model turns out to be unusable: the job ends, and its undone documents fail without a row each."""
        transact(self.database, lambda connection: jobs.fail(connection, self.job.key, code="model", message="gone"))

    @precondition(lambda self: self.held or the_job(self.database).status in ENDED)
    @rule()
    def deleted(self) -> None:
        transact(self.database, lambda connection: jobs.remove(connection, "job_a"))
        with pytest.raises(NotFound):
            the_job(self.database)
        self.job = a_job(self.database, shard_size=4, documents=12)

    @invariant()
    def nothing_is_left_of_a_deleted_job(self) -> None:
        with reading(self.database) as connection:
            for table in (tables.shards, tables.results):
                assert set(connection.scalars(select(table.c.job_key).distinct())) <= {self.job.key}

    @invariant()
    def counts_add_up_and_agree_with_the_rows(self) -> None:
        job = the_job(self.database)
        counts = job.counts
        assert counts is not None
        assert counts.succeeded + counts.failed + counts.cancelled + counts.pending == 12
        assert min(counts.succeeded, counts.failed, counts.cancelled, counts.pending) >= 0
        found = list(stored(self.database, job).values())
        assert found.count("succeeded") == counts.succeeded
        assert found.count("failed") == counts.failed or job.error
        assert (job.status in ENDED) == (counts.pending == 0)


def test_a_job_lives_by_its_picture_whatever_comes_in_whatever_order(database: Engine) -> None:
    run_state_machine_as_test(
        lambda: JobLife(database),  # type: ignore[arg-type]  # any factory will do
        settings=settings(
            max_examples=25 if database.dialect.name == "sqlite" else 15, stateful_step_count=25, deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
