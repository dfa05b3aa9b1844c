"""A job and its shards from the first claim to the end, and what moves in between."""

from __future__ import annotations

import threading

import pytest

from corpusmill.errors import Conflict, LeaseLost, NotFound
from corpusmill.shards import Slice
from corpusmill.status import Status
from db import corpora, job_moves, jobs, shards
from db.engine import Engine, reading, transact
from db.results import ResultRow
from tests.integration.steps import OTHER, a_job, claim, finish, rows, stored, the_job


def test_a_job_runs_through_its_shards_and_ends_with_the_last(database: Engine) -> None:
    job = a_job(database)
    assert job.status is Status.QUEUED
    first, second = claim(database), claim(database)
    assert [first.slice, second.slice] == [Slice(0, 5), Slice(5, 10)]
    assert claim(database) is None
    assert not finish(database, second)
    assert the_job(database).status is Status.RUNNING
    assert finish(database, first)
    ended = the_job(database)
    assert ended.status is Status.COMPLETED
    assert ended.counts is not None
    assert (ended.counts.succeeded, ended.counts.pending) == (10, 0)
    assert [row.position for row in stored(database, job)] == list(range(10))


def test_a_commit_whose_answer_was_lost_may_be_repeated(database: Engine) -> None:
    job = a_job(database, shard_size=10)
    held = claim(database)
    assert finish(database, held)
    assert not finish(database, held)
    assert len(stored(database, job)) == 10


def test_cancelling_ends_what_waits_and_tells_what_runs(database: Engine) -> None:
    job = a_job(database)
    held = claim(database)
    cancelled = transact(database, lambda connection: job_moves.request_cancel(connection, "job_a"))
    assert cancelled.status is Status.CANCELLING
    intents = transact(database, lambda connection: shards.renew(connection, [held], lease=30))
    assert intents == {held.key: "cancel"}
    assert finish(database, held, rows_=rows(Slice(0, 2)))
    ended = the_job(database)
    assert ended.status is Status.CANCELLED
    assert ended.counts is not None
    assert (ended.counts.succeeded, ended.counts.cancelled) == (2, 8)
    assert len(stored(database, job)) == 2
    assert claim(database) is None


def test_a_job_that_has_ended_cannot_be_cancelled(database: Engine) -> None:
    a_job(database, shard_size=10)
    finish(database, claim(database))
    with pytest.raises(Conflict):
        transact(database, lambda connection: job_moves.request_cancel(connection, "job_a"))


def test_a_job_whose_model_cannot_run_fails_at_once_and_alone(database: Engine) -> None:
    broken = a_job(database, model=OTHER)
    a_job(database, "job_b")
    held = claim(database)
    transact(database, lambda connection: jobs.fail(connection, broken.key, code="model_fault", message="No weights."))
    failed = the_job(database)
    assert failed.status is Status.FAILED
    assert failed.error == {"code": "model_fault", "message": "No weights."}
    assert failed.counts is not None
    assert failed.counts.pending == 0
    with pytest.raises(LeaseLost):
        finish(database, held)
    assert the_job(database, "job_b").status is Status.QUEUED


def test_a_deleted_job_leaves_nothing_and_its_worker_writes_nothing(database: Engine) -> None:
    job = a_job(database)
    held = claim(database)
    transact(database, lambda connection: jobs.remove(connection, "job_a"))
    with pytest.raises(LeaseLost):
        finish(database, held)
    assert stored(database, job) == []
    with pytest.raises(NotFound):
        the_job(database)


def test_the_key_of_a_deleted_job_is_never_used_again(database: Engine) -> None:
    first = a_job(database)
    held = claim(database)
    transact(database, lambda connection: jobs.remove(connection, "job_a"))
    second = a_job(database, "job_b")
    assert second.key > first.key
    assert claim(database).key > held.key


def test_a_corpus_is_kept_while_an_open_job_uses_it(database: Engine) -> None:
    a_job(database, shard_size=10)
    with pytest.raises(Conflict, match="job_a"):
        transact(database, lambda connection: corpora.remove(connection, "corpus_a"))
    finish(database, claim(database))
    transact(database, lambda connection: corpora.remove(connection, "corpus_a"))
    assert the_job(database).corpus_key is None


def test_two_claims_at_once_never_take_one_shard(database: Engine) -> None:
    a_job(database, shard_size=1, documents=40)
    taken: list[int] = []

    def work(owner: str) -> None:
        while (held := claim(database, owner)) is not None:
            taken.append(held.slice.start)

    threads = [threading.Thread(target=work, args=(f"worker-{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(40))


def test_two_last_shards_at_once_end_the_job_once(database: Engine) -> None:
    a_job(database, shard_size=5)
    held = [claim(database, "one"), claim(database, "two")]
    ended: list[bool] = []
    threads = [threading.Thread(target=lambda one=one: ended.append(finish(database, one))) for one in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == [False, True]
    assert the_job(database).status is Status.COMPLETED


def test_pages_of_jobs_are_chosen_by_status(database: Engine) -> None:
    for name in ("job_a", "job_b", "job_c"):
        a_job(database, name, shard_size=10)
    finish(database, claim(database))
    with reading(database) as connection:
        every = jobs.page(connection, before=None, limit=2)
        ended = jobs.page(connection, before=None, limit=10, statuses=[Status.COMPLETED])
        queued = jobs.page(connection, before=None, limit=10, statuses=[Status.QUEUED])
    assert [job.id for job in every] == ["job_c", "job_b"]
    assert [job.id for job in ended] == ["job_a"]
    assert [job.id for job in queued] == ["job_c", "job_b"]


def test_results_keep_texts_that_databases_quarrel_about(database: Engine) -> None:
    job = a_job(database, shard_size=1, documents=1)
    odd = 'quote " backslash \\ newline \n tab \t nul \0 emoji \U0001f600 \\N'
    row = ResultRow(
        position=0, document_id="\\N", status="succeeded", output={"translation": odd}, error=None, n_tokens=3,
        n_segments=1, truncated=True,
    )  # fmt: skip
    finish(database, claim(database), rows_=[row])
    (read,) = stored(database, job)
    assert read.output == {"translation": odd.replace("\0", "�")}
    assert read.document_id == "\\N"
    assert read.truncated is True
