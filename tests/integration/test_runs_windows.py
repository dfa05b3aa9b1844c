"""Runs and the hours in which they may use the device."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from db import job_moves, runs, schedules
from db.engine import now, reading, transact
from db.tables import runs as table
from pipeline.running import Runner
from pipeline.ticking import tick
from tests.integration.world import MIDNIGHT, Killed, World, put_off

WINDOW = {"start": "22:00", "end": "06:00"}


def seconds_put_off(world: World, run_id: str) -> float:
    with reading(world.database) as connection:
        until: float = connection.execute(select(table.c.not_before).where(table.c.id == run_id)).scalar_one()
    return until - now(world.database)


def clock_fires(world: World, **fields: Any) -> str:
    """A run of the clock now, of a schedule with a window."""
    schedule = world.schedule(window=WINDOW, **fields)
    transact(
        world.database,
        lambda connection: schedules.fired(connection, schedule.key, next_fire_at=now(world.database) - 1),
    )
    [run_id] = tick(world.database)
    return run_id


def test_a_process_that_dies_when_the_window_closes_leaves_no_job_paused_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.shelf.documents = {"a": "one"}
    run_id = clock_fires(world)
    moment = [MIDNIGHT + 5 * 3600]
    clock = lambda: moment[0]  # noqa: E731
    while world.run(run_id).job_id is None:
        put_off(world.database, run_id)
        world.runner(clock).step()
    moment[0] = MIDNIGHT + 7 * 3600
    runner = world.runner(clock)
    after = Runner._after

    def dies(*_: Any) -> Any:
        raise Killed

    monkeypatch.setattr(Runner, "_after", dies)
    put_off(world.database, run_id)
    with pytest.raises(Killed):
        runner.step()
    monkeypatch.setattr(Runner, "_after", after)
    moment[0] = MIDNIGHT + 22 * 3600
    for _ in range(3):
        put_off(world.database, run_id)
        world.runner(clock).step()
    assert (world.run(run_id).status, world.job_of(run_id).status) == ("running", "queued")


def test_a_job_that_somebody_paused_stays_paused_over_the_hours_outside_the_window(world: World) -> None:
    world.shelf.documents = {"a": "one"}
    run_id = clock_fires(world)
    hours = [23, 31, 47]
    for hour in hours:
        for _ in range(2):
            put_off(world.database, run_id)
            world.runner(lambda hour=hour: MIDNIGHT + hour * 3600).step()  # type: ignore[misc]
        if hour == hours[0]:
            transact(
                world.database, lambda connection: job_moves.request_pause(connection, world.job_of(run_id).id)
            )  # fmt: skip
    assert world.job_of(run_id).status == "paused"


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_outside_its_window_is_left_alone_until_it_opens_and_can_be_cancelled(world: World, begun: bool) -> None:
    world.shelf.documents = {"a": "one"}
    run_id = clock_fires(world)
    if begun:
        for _ in range(2):
            put_off(world.database, run_id)
            world.runner(lambda: MIDNIGHT + 5 * 3600).step()
    for hour in (7, 7):
        put_off(world.database, run_id)
        world.runner(lambda hour=hour: MIDNIGHT + hour * 3600).step()  # type: ignore[misc]
    assert seconds_put_off(world, run_id) > 60
    put_off(world.database, run_id)
    world.runner(lambda: MIDNIGHT + 22 * 3600 - 20).step()
    assert seconds_put_off(world, run_id) <= 20, "it opens in twenty seconds"
    transact(world.database, lambda connection: runs.request_cancel(connection, world.run(run_id).schedule_key))
    world.runner(lambda: MIDNIGHT + 7 * 3600).step()
    assert world.run(run_id).status == "cancelled"
