"""Which shard is the next: turns between jobs, models that are loaded, and what gives way."""

from __future__ import annotations

from typing import Any

import pytest

from db import shards, turns
from db.engine import Connection, Engine, reading, transact
from tests.integration.steps import LOADED, OTHER, a_job, claim, finish, forget_back_off, jobs_of, lose


def test_jobs_of_one_priority_take_turns_and_higher_ones_go_first(database: Engine) -> None:
    a_job(database, "job_a", shard_size=1)
    a_job(database, "job_b", shard_size=1)
    a_job(database, "job_c", shard_size=5, priority=1)
    order = [jobs_of(database, claim(database)) for _ in range(6)]
    assert order[:2] == ["job_c", "job_c"]
    assert order[2:] == ["job_a", "job_b", "job_a", "job_b"]


def test_a_worker_keeps_to_its_loaded_model_while_nobody_has_waited_long(database: Engine) -> None:
    a_job(database, "job_a", shard_size=1, model=OTHER)
    a_job(database, "job_b", shard_size=1)
    once = [jobs_of(database, claim(database, loaded=LOADED)) for _ in range(2)]
    assert once == ["job_b", "job_a"]  # each is begun before any goes on
    assert [jobs_of(database, claim(database, loaded=LOADED)) for _ in range(3)] == ["job_b"] * 3


@pytest.mark.parametrize("ahead", [False, True])
def test_a_claim_costs_no_more_however_many_shards_wait(ahead: bool, database: Engine) -> None:
    if database.dialect.name != "sqlite":
        pytest.skip("only SQLite counts the steps of a statement")
    steps: list[int] = []
    for documents in (100, 10_000):
        a_job(database, f"job_{documents}", shard_size=1, documents=documents)
        with database.begin() as connection:
            connection.exec_driver_sql("UPDATE jobs SET claimed_at = 1, priority = 0")
            connection.exec_driver_sql(f"UPDATE jobs SET priority = 1 WHERE id = 'job_{documents}'")

        def counted(connection: Connection) -> int:
            driver: Any = connection.connection.driver_connection
            taken = 0

            def step() -> int:
                nonlocal taken
                taken += 1
                return 0

            driver.set_progress_handler(step, 10)
            assert turns.claim_next(connection, owner="worker", lease=30, loaded=LOADED, ahead=ahead) is not None
            driver.set_progress_handler(None, 0)
            return taken

        steps.append(transact(database, counted))
    assert steps[1] < 2 * steps[0]


def made_and_claimed(database: Engine, job_id: str, seconds: float) -> None:
    """As if the job had been made, and claimed if it was, so many seconds earlier."""
    write = "UPDATE jobs SET claimed_at = claimed_at - {0}, created_at = created_at - {0} WHERE id = '{1}'"
    with database.begin() as connection:
        connection.exec_driver_sql(write.format(seconds, job_id))


def test_a_begun_job_is_not_kept_waiting_for_ever_by_new_ones_however_many(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_CANDIDATES", 3)
    a_job(database, "big", shard_size=1)
    assert jobs_of(database, claim(database)) == "big"
    made_and_claimed(database, "big", 30)
    for number in range(5):
        a_job(database, f"job_{number}", shard_size=10)
    first = claim(database, loaded=LOADED)
    assert (jobs_of(database, first), first.overtook) == ("job_0", True)
    assert jobs_of(database, claim(database, loaded=LOADED, overtaking=30.0)) == "big"


def test_new_jobs_are_seen_behind_however_many_begun_ones(database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_CANDIDATES", 3)
    for number in range(5):
        a_job(database, f"job_{number}", shard_size=5)
        claim(database)
    a_job(database, "late", shard_size=10)
    assert jobs_of(database, claim(database)) == "late"


def gives_way(database: Engine, held: shards.Claim, **standing: Any) -> bool:
    with reading(database) as connection:
        return turns.gives_way(connection, held, **standing)


def test_a_shard_claimed_ahead_gives_way_to_a_new_job_and_its_own_keeps_its_turn(database: Engine) -> None:
    a_job(database, "big", shard_size=1)
    claim(database)
    made_and_claimed(database, "big", 30)
    held = claim(database, ahead=True, loaded=LOADED)
    assert not gives_way(database, held, loaded=LOADED)
    late = a_job(database, "late", shard_size=10)
    assert gives_way(database, held, loaded=LOADED)
    assert not gives_way(database, held, loaded=LOADED, beyond={late.key}), "no job that this worker cannot run"
    assert not gives_way(database, held, loaded=LOADED, overtaking=30.0), "it has waited long enough"
    assert transact(database, lambda connection: turns.give_way(connection, held))
    assert jobs_of(database, claim(database, loaded=LOADED)) == "late"
    a_job(database, "later", shard_size=10)
    assert jobs_of(database, claim(database, loaded=LOADED, overtaking=30.0)) == "big"


def test_a_new_job_whose_shard_gives_way_is_still_new(database: Engine) -> None:
    a_job(database, "small", shard_size=10)
    held = claim(database, ahead=True, loaded=LOADED)
    a_job(database, "urgent", shard_size=10, priority=1)
    assert gives_way(database, held, loaded=LOADED)
    transact(database, lambda connection: turns.give_way(connection, held))
    assert not transact(database, lambda connection: turns.give_way(connection, held))
    assert jobs_of(database, claim(database)) == "urgent"
    again = claim(database)
    assert (jobs_of(database, again), again.served) == ("small", None)


def test_a_lost_shard_is_the_next_of_its_job_and_nothing_is_read_ahead_of_it(database: Engine) -> None:
    a_job(database, shard_size=1)
    taken = [claim(database) for _ in range(3)]
    lose(database, taken[1])
    assert claim(database, ahead=True, loaded=LOADED) is None
    again = claim(database, loaded=LOADED)
    assert (again.key, again.losses) == (taken[1].key, 1)
    ahead = claim(database, "other", ahead=True, loaded=LOADED)
    assert ahead.slice.start == 3, "once somebody has it, others read ahead again"


def test_a_lost_shard_keeps_nobody_from_reading_ahead_for_a_job_that_goes_before_its_own(database: Engine) -> None:
    a_job(database, "low", shard_size=1)
    lose(database, claim(database))
    a_job(database, "high", shard_size=1, priority=1)
    assert jobs_of(database, claim(database, ahead=True, loaded=LOADED)) == "high"


def test_a_job_of_poison_documents_leaves_every_other_turn_to_another_job(database: Engine) -> None:
    a_job(database, "poison", shard_size=2)
    a_job(database, "sound", shard_size=1)
    order = []
    while (held := claim(database, loaded=LOADED)) is not None:
        order.append(jobs_of(database, held))
        if order[-1] == "poison":
            lose(database, held)
            transact(database, forget_back_off)
        else:
            finish(database, held)
        if order.count("sound") == 10:
            break
    assert order == ["poison", "sound"] * 10
