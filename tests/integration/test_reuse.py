"""Outputs used again: what a job with reuse runs, gives and counts, on both databases."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import select

from db import job_moves, jobs, losses, turns
from db.engine import Connection, db_now, transact
from tests.integration.reuse_house import Counted, House


def test_a_second_job_runs_only_the_texts_that_are_new(house: House) -> None:
    engine, texts = Counted(), [f"text {number}" for number in range(10)]
    first = house.job(texts)
    assert sorted(house.run(engine)) == sorted(texts)
    second = house.job(["a new one", *texts])
    assert house.run(engine) == ["a new one"]
    assert (house.the(first).reused, house.the(second).reused) == (0, 10)
    assert house.the(second).counts == replace(house.the(first).counts, total=11, succeeded=11)  # type: ignore[type-var]
    assert house.the(second).status == "completed"


def test_results_counts_and_metrics_are_those_of_a_job_without_reuse(house: House) -> None:
    engine, texts = Counted(), [*(f"text {number}" for number in range(30)), "bad one", "", "text 3", "text 3"]
    house.job(texts[5:25])
    house.run(engine)
    plain, reused = house.job(texts, reuse=False), house.job(texts)
    house.run(engine)
    assert house.rows(reused) == house.rows(plain)
    assert house.the(reused).counts == house.the(plain).counts
    assert house.figures(reused) == house.figures(plain)
    assert (house.the(reused).reused, house.the(plain).reused) == (22, 0)


def test_a_job_without_reuse_neither_takes_nor_leaves_outputs(house: House) -> None:
    engine = Counted()
    house.job(["a", "b"], reuse=False)
    house.run(engine)
    assert house.kept() == 0
    house.job(["a", "b"])
    assert sorted(house.run(engine)) == ["a", "b"]
    house.job(["a", "b"], reuse=False)
    assert sorted(house.run(engine)) == ["a", "b"]


def test_failed_results_are_never_used_again_and_retried_ones_are(house: House) -> None:
    engine = Counted()
    first = house.job(["bad a", "good", "other", "more", "bad b"])
    house.run(engine)
    again = house.job(["bad a", "good"])
    assert house.run(engine) == ["bad a"]
    engine.bad = False
    transact(house.database, lambda connection: job_moves.retry(connection, first))
    assert sorted(house.run(engine)) == ["bad a", "bad b"]
    assert house.the(first).reused == 0
    transact(house.database, lambda connection: job_moves.retry(connection, again))
    assert house.run(engine) == []
    assert (house.the(again).reused, house.the(again).counts.succeeded) == (2, 2)  # type: ignore[union-attr]
    assert house.the(again).status == "completed"


def test_documents_kept_of_a_reopened_shard_are_not_counted_twice(house: House) -> None:
    engine = Counted()
    house.job(["a", "b"])
    house.run(engine)
    job_id = house.job(["a", "bad", "b", "c"])
    house.run(engine)
    assert house.the(job_id).reused == 2
    engine.bad = False
    transact(house.database, lambda connection: job_moves.retry(connection, job_id))
    assert house.the(job_id).reused == 2
    assert house.run(engine) == ["bad"]
    assert house.the(job_id).reused == 2
    plain = house.job(["a", "bad", "b", "c"], reuse=False)
    house.run(engine)
    assert house.rows(job_id) == house.rows(plain)
    assert house.figures(job_id) == house.figures(plain)


def test_a_halved_shard_reuses_in_each_half(house: House) -> None:
    engine = Counted()
    house.job(["a", "b", "c"])
    house.run(engine)
    job_id = house.job(["a", "new", "b", "c"])
    with house.database.begin() as connection:
        connection.exec_driver_sql("UPDATE shards SET losses = 1, attempt = 1 WHERE state = 'pending'")
    claim = transact(house.database, lambda connection: turns.claim_next(connection, owner="dead", lease=0.001))
    assert claim is not None
    while (
        transact(house.database, lambda connection: losses.expire(connection, owner="sweep", lease=30))
        == losses.Expired()
    ):
        pass
    with house.database.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM shards WHERE state = 'pending'").scalar() == 2
        connection.exec_driver_sql("UPDATE shards SET not_before = 0")
    assert house.run(engine) == ["new"]
    assert house.the(job_id).reused == 3
    assert house.the(job_id).status == "completed"


def test_outputs_survive_the_job_and_the_corpus_that_they_came_from(house: House) -> None:
    engine = Counted()
    first = house.job(["a", "b"])
    house.run(engine)
    transact(house.database, lambda connection: jobs.remove(connection, first))
    house.job(["b"])
    assert house.run(engine) == []


def test_a_use_is_noted_once_the_last_note_is_old(house: House) -> None:
    engine = Counted()
    house.job(["a"])
    house.run(engine)
    ages = []
    for shift in (86_400, 30 * 86_400):
        with house.database.begin() as connection:
            connection.exec_driver_sql(f"UPDATE reused_outputs SET used_at = used_at - {shift}")
        house.job(["a"])
        assert house.run(engine) == []
        with house.database.begin() as connection:
            age = connection.exec_driver_sql("SELECT used_at FROM reused_outputs").scalar()
        ages.append(transact(house.database, lambda connection, age=age: _now(connection) - age))  # type: ignore[misc]
    assert ages[0] >= 86_400
    assert ages[1] < 3_600


def _now(connection: Connection) -> float:
    return float(connection.execute(select(db_now())).scalar_one())
