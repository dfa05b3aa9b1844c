"""What a shard costs that is lost or given back, and what a clock does that is set back."""

from __future__ import annotations

import time
from typing import Any

import pytest

from corpusmill.errors import LeaseLost
from corpusmill.shards import Slice
from corpusmill.status import Status
from db import losses, shards, workers
from db.engine import Connection, Engine, reading, transact
from db.results import ResultRow
from tests.integration.steps import a_job, claim, finish, forget_back_off, jobs_of, stored, the_job


def test_a_worker_that_lost_its_lease_writes_nothing(database: Engine) -> None:
    job = a_job(database, shard_size=10)
    late = claim(database, "late", lease=0.01)
    time.sleep(0.05)
    expired = transact(database, lambda connection: losses.expire(connection, owner="sweep", lease=30))
    assert expired.again == 1
    current = claim(database, "current")
    assert current.attempt == late.attempt + 1
    with pytest.raises(LeaseLost):
        finish(database, late, "late")
    assert stored(database, job) == []
    assert finish(database, current, "current")
    assert {row.output["label"] for row in stored(database, job) if row.output} == {"current"}
    with pytest.raises(LeaseLost):
        finish(database, late, "late")


def test_a_shard_given_back_charges_no_loss(database: Engine) -> None:
    a_job(database, shard_size=10)
    held = claim(database)
    assert transact(database, lambda connection: shards.release(connection, held))
    again = claim(database)
    assert again.losses == 0
    assert again.attempt == 2


def test_a_poison_document_is_found_by_halving(database: Engine) -> None:
    a_job(database, shard_size=8, documents=8)
    poison, lost = 5, 0
    while True:
        held = claim(database, lease=0.001)
        if held is None:
            expired = transact(database, lambda connection: losses.expire(connection, owner="sweep", lease=30))
            if expired.blamed:
                (blamed,) = expired.blamed
                break
            transact(database, forget_back_off)
        elif held.slice.start <= poison < held.slice.stop:
            lost += 1
            time.sleep(0.01)
        else:
            transact(database, lambda connection: shards.renew(connection, [held], lease=30))  # noqa: B023
            finish(database, held)
    assert blamed.slice == Slice(poison, poison + 1)
    assert lost <= 2 + 3 + 2
    failed = ResultRow(
        position=poison, document_id="5", status="failed", output=None, error={"code": "worker_lost"}, n_tokens=0,
        n_segments=0, truncated=False,
    )  # fmt: skip
    finish(database, blamed, rows_=[failed])
    while (held := claim(database)) is not None:
        finish(database, held)
    ended = the_job(database)
    assert ended.status is Status.COMPLETED_WITH_ERRORS
    assert ended.counts is not None
    assert (ended.counts.succeeded, ended.counts.failed) == (7, 1)


def set_clock_back(database: Engine, seconds: float) -> None:
    """As if the database's clock had been set back by so many seconds: what is written lies ahead by them."""
    with database.begin() as connection:
        connection.exec_driver_sql(f"UPDATE shards SET lease_until = lease_until + {seconds}")
        connection.exec_driver_sql(f"UPDATE shards SET not_before = not_before + {seconds} WHERE not_before > 0")
        connection.exec_driver_sql(f"UPDATE workers SET seen_at = seen_at + {seconds}")
        connection.exec_driver_sql(
            f"UPDATE jobs SET created_at = created_at + {seconds}, claimed_at = claimed_at + {seconds}"
        )


def beat(database: Engine, *held: shards.Claim, lease: float) -> dict[int, Any]:
    """What the heartbeat of a worker does."""

    def write(connection: Connection) -> dict[int, Any]:
        workers.seen(connection, held[0].owner, workers.Description(hostname="h", device="cpu", models=[]), None)
        return dict(shards.renew(connection, held, lease=lease))

    return transact(database, write)


def expired(database: Engine, lease: float) -> int:
    return transact(database, lambda connection: losses.expire(connection, owner="sweep", lease=lease)).again


def test_a_dead_workers_lease_does_not_outlast_it_by_as_much_as_the_clock_is_set_back(database: Engine) -> None:
    a_job(database)
    lease = 0.5
    dead, living = claim(database, "dead", lease=lease), claim(database, "living", lease=lease)
    beat(database, dead, lease=lease)
    beat(database, living, lease=lease)
    set_clock_back(database, 3600)
    assert expired(database, lease) == 0, "those that live get the time to renew theirs"
    assert beat(database, living, lease=30.0) == {living.key: "run"}
    time.sleep(lease)
    assert expired(database, lease) == 1
    assert claim(database).key == dead.key


def test_a_worker_with_a_longer_lease_than_the_sweepers_keeps_it(database: Engine) -> None:
    a_job(database)
    held = claim(database, "patient", lease=300.0)
    beat(database, held, lease=300.0)
    assert expired(database, 0.01) == 0
    time.sleep(0.05)
    assert expired(database, 0.01) == 0


def test_so_does_one_that_has_not_beaten_yet_where_its_claim_shows_that_the_clock_is_right(database: Engine) -> None:
    a_job(database)
    held = claim(database, "new", lease=300.0)
    assert expired(database, 0.01) == 0
    time.sleep(0.05)
    assert expired(database, 0.01) == 0
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE shards SET started_at = started_at + 3600, lease_until = lease_until + 3600")
    lost = expired(database, 0.01)  # none as a rule, but on a busy machine as much may have gone by within
    time.sleep(0.05)
    assert lost + expired(database, 0.01) == 1
    assert claim(database).key == held.key


def test_a_pause_does_not_last_longer_by_as_much_as_the_clock_is_set_back(database: Engine) -> None:
    a_job(database, shard_size=10)
    for _ in range(2):
        held = claim(database)
        transact(database, lambda connection: shards.surrender(connection, held))  # noqa: B023
        expired(database, 30.0)
        transact(database, forget_back_off)
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE shards SET not_before = 1e12")
    with reading(database) as connection:
        assert shards.waiting_count(connection, 9) == len(shards.to_publish(connection, 9)) == 2
    assert claim(database) is not None


def test_a_job_that_was_served_before_the_clock_was_set_back_has_its_turn_soon(database: Engine) -> None:
    a_job(database, "before", shard_size=1)
    claim(database)
    set_clock_back(database, 3600)
    a_job(database, "after", shard_size=1)
    claim(database)
    assert [jobs_of(database, claim(database)) for _ in range(4)] == ["before", "after"] * 2
