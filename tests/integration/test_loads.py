"""A worker that is lost while it loads a model says something against the model, and nothing against the documents."""

from __future__ import annotations

import time
from typing import Any

from db import job_moves, jobs, loads, losses, shards
from db.engine import Engine, reading, transact
from db.workers import Description
from tests.integration.steps import a_job, claim, rows
from worker.heartbeat import Heartbeat


def load(database: Engine, owner: str, *, lease: float = 30.0) -> shards.Claim:
    """A claim whose model is being loaded."""
    held: shards.Claim = claim(database, owner, lease=lease)
    assert transact(database, lambda connection: loads.begin(connection, held))
    return held


def die(database: Engine, owner: str) -> None:
    """The worker's process dies, its parent has noticed, and a sweeper comes by."""
    transact(database, lambda connection: losses.lapse(connection, owner, but=""))
    expire(database)


def expire(database: Engine) -> None:
    transact(database, lambda connection: losses.expire(connection, owner="sweep", lease=30.0))
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE shards SET not_before = 0")


def the(database: Engine, column: str, table: str = "shards") -> list[Any]:
    with reading(database) as connection:
        return list(connection.exec_driver_sql(f"SELECT {column} FROM {table} ORDER BY key").scalars())


def status(database: Engine, job_id: str = "job_a") -> tuple[str, str | None]:
    with reading(database) as connection:
        job = jobs.get(connection, job_id)
    return job.status, (job.error or {}).get("code")


def test_two_workers_lost_in_a_row_while_they_load_it_fail_the_job_and_charge_no_document(database: Engine) -> None:
    a_job(database)
    load(database, "one")
    die(database, "one")
    assert status(database) == ("queued", None)
    load(database, "two")
    die(database, "two")
    assert status(database) == ("failed", "model_fault")
    assert the(database, "losses") == [0, 0]
    assert the(database, "failed") == [5, 5]


def test_workers_that_are_told_to_end_while_they_load_count_for_nothing(database: Engine) -> None:
    a_job(database)
    for owner in ("one", "two", "three"):
        held = load(database, owner)
        transact(database, lambda connection, held=held: shards.release(connection, held))  # type: ignore[misc]
        load(database, f"{owner}:killed")
        transact(database, lambda connection, owner=owner: shards.release_all(connection, f"{owner}:"))  # type: ignore[misc]
        expire(database)
    assert status(database) == ("queued", None)
    assert the(database, "load_losses", "jobs") == [0]


def test_workers_cut_off_together_while_they_load_count_once_and_not_at_all_when_one_comes_back(
    database: Engine,
) -> None:
    a_job(database, shard_size=2)
    held = [load(database, owner, lease=0.001) for owner in ("one", "two", "three")]
    time.sleep(0.05)
    expire(database)
    assert status(database) == ("queued", None)
    assert the(database, "load_losses", "jobs") == [1]
    heartbeat = Heartbeat(
        engine=database, worker_id="one", lease=1.0, drain_flag=None,
        describe=lambda: Description(hostname="here", device="cpu", models=[]),
    )  # fmt: skip
    heartbeat.hold(held[0]).loading = True
    heartbeat.start()
    deadline = time.monotonic() + 30
    while the(database, "load_losses", "jobs") != [0]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    heartbeat.stop()


def test_workers_that_die_with_their_parents_count_when_they_do_so_one_after_the_other(database: Engine) -> None:
    a_job(database)
    for owner in ("one", "two"):
        load(database, owner, lease=0.001)
        time.sleep(0.05)
        expire(database)
    assert status(database) == ("failed", "model_fault")


def test_a_model_that_could_be_loaded_in_between_is_not_to_blame(database: Engine) -> None:
    a_job(database)
    load(database, "one")
    die(database, "one")
    held = load(database, "two")
    transact(database, lambda connection: loads.end(connection, held))
    load(database, "three")
    die(database, "three")
    assert status(database) == ("running", None)


def test_a_worker_lost_after_the_load_is_charged_to_its_shard(database: Engine) -> None:
    a_job(database)
    held = load(database, "one")
    transact(database, lambda connection: loads.end(connection, held))
    die(database, "one")
    assert the(database, "losses") == [1, 0]
    assert the(database, "load_losses", "jobs") == [0]


def test_a_load_that_an_older_program_gave_up_is_not_taken_for_that_of_a_later_claim(database: Engine) -> None:
    a_job(database, shard_size=10)
    load(database, "one")
    with database.begin() as connection:  # as one does that does not know of loads
        connection.exec_driver_sql("UPDATE shards SET state = 'pending', owner = NULL, lease_until = NULL")
    claim(database, "two")
    die(database, "two")
    assert the(database, "losses") == [1]


def test_what_a_worker_held_besides_is_not_charged_for_a_load(database: Engine) -> None:
    a_job(database)
    claim(database, "one")
    load(database, "one")
    die(database, "one")
    assert the(database, "losses") == [0, 0]
    assert the(database, "load_losses", "jobs") == [1]


def test_a_load_that_raises_what_nobody_foresaw_counts_as_one_that_kills(database: Engine) -> None:
    a_job(database)
    for owner in ("one", "two"):
        held = load(database, owner)
        transact(database, lambda connection, held=held: shards.surrender(connection, held))  # type: ignore[misc]
        expire(database)
    assert status(database) == ("failed", "model_fault")
    assert the(database, "losses") == [0, 0]


def test_a_worker_that_is_too_small_for_the_model_fails_no_job_that_another_one_runs(database: Engine) -> None:
    a_job(database, shard_size=2)
    runs = load(database, "large")
    transact(database, lambda connection: loads.end(connection, runs))
    for _ in range(3):
        load(database, "small:1")
        lapsed = transact(database, lambda connection: losses.lapse(connection, "small:", but="small:2"))
        assert lapsed == losses.Lapsed(shards=1, too_large=frozenset({runs.job_key}))
    assert status(database) == ("running", None)
    assert set(the(database, "losses")) == {0}


def test_a_shard_that_ends_shows_that_the_model_can_be_loaded(database: Engine) -> None:
    a_job(database, shard_size=2)
    held = claim(database, "one")
    transact(database, lambda connection: shards.release(connection, held))
    load(database, "two")
    die(database, "two")
    assert the(database, "load_losses", "jobs") == [1]
    held = claim(database, "one")
    transact(database, lambda connection: shards.finish(connection, held, rows=rows(held.slice), usage={}, partial={}))
    assert the(database, "load_losses", "jobs") == [0]


def test_what_a_lost_worker_held_beside_a_load_is_not_charged_though_its_lease_ran_out_before(database: Engine) -> None:
    a_job(database)
    claim(database, "one", lease=0.001)
    load(database, "one")
    time.sleep(0.05)
    expire(database)
    assert the(database, "losses") == [0, 0]


def test_what_a_worker_had_given_up_by_itself_is_charged_though_it_loads_another_model_meanwhile(
    database: Engine,
) -> None:
    a_job(database)
    held = claim(database, "one")
    transact(database, lambda connection: shards.surrender(connection, held))
    load(database, "one")
    expire(database)
    assert the(database, "losses") == [1, 0]


def test_a_retry_begins_to_count_anew(database: Engine) -> None:
    a_job(database)
    for owner in ("one", "two"):
        load(database, owner)
        die(database, owner)
    transact(database, lambda connection: job_moves.retry(connection, "job_a"))
    load(database, "three")
    die(database, "three")
    assert status(database)[0] in {"queued", "running"}
