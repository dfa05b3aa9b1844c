"""When runs are fired and when they go on, on both databases: each slot once, whatever comes late or by hand."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from corpusmill.errors import Conflict
from db import jobs, runs, schedules
from db.engine import now, reading, transact
from db.runs import Run
from db.schedules import Schedule
from pipeline.ticking import run_now, tick
from tests.integration.world import DAY, MIDNIGHT, World, put_off


def test_each_slot_fires_once_whatever_the_number_of_tickers(world: World) -> None:
    schedule = world.schedule(catch_up="all", overlap="queue", cron="0 * * * *")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: tick(world.database, at=MIDNIGHT + DAY), range(8)))
    assert sum(len(ids) for ids in found) == 25
    fired = [run.fire_time for run in world.runs(schedule)]
    assert fired == [MIDNIGHT + hour * 3600 for hour in range(25)]
    with reading(world.database) as connection:
        assert schedules.get(connection, schedule.id).next_fire_at == MIDNIGHT + DAY + 3600


@pytest.mark.parametrize(
    ("catch_up", "late", "expected"),
    [("all", 60, [0, 1, 2, 3]), ("latest", 7_200, [3]), ("none", 7_200, []), ("none", 60, [3])],
)
def test_slots_that_were_missed_are_made_up_for_as_the_schedule_says(
    world: World, catch_up: str, late: float, expected: list[int]
) -> None:
    schedule = world.schedule(catch_up=catch_up, overlap="queue")
    tick(world.database, at=MIDNIGHT + 3 * DAY + late)
    assert [(run.fire_time - MIDNIGHT) / DAY for run in world.runs(schedule)] == expected


def test_a_slot_of_the_past_is_fired_by_hand_once(world: World) -> None:
    schedule = world.schedule()
    assert len(tick(world.database, at=MIDNIGHT - 3 * DAY + 60, by_hand=True)) == 1
    assert tick(world.database, at=MIDNIGHT - 3 * DAY + 7_200, by_hand=True) == []
    assert [run.fire_time for run in world.runs(schedule)] == [MIDNIGHT - 3 * DAY]


def following(world: World, schedule: Schedule) -> float | None:
    with reading(world.database) as connection:
        return schedules.get(connection, schedule.id).next_fire_at


def due_at(world: World, schedule: Schedule, moment: float) -> None:
    transact(world.database, lambda connection: schedules.fired(connection, schedule.key, next_fire_at=moment))


def midnight(world: World) -> float:
    """The last one by the database's clock."""
    return now(world.database) // DAY * DAY


@pytest.mark.parametrize("catch_up", ["none", "latest", "all"])
@pytest.mark.parametrize("overlap", ["skip", "queue", "cancel"])
@pytest.mark.parametrize("late", [60, 7_200])
def test_a_slot_that_is_asked_for_by_hand_is_fired_at_once_and_once_whatever_the_policies(
    world: World, catch_up: str, overlap: str, late: float
) -> None:
    """Busy or not, and however late: what a policy drops or skips could never be made up for again."""
    schedule, slot = world.schedule(catch_up=catch_up, overlap=overlap), midnight(world) - DAY
    tick(world.database, at=MIDNIGHT)
    due_at(world, schedule, slot)
    fired = [tick(world.database, at=slot + late, by_hand=True) for _ in range(3)]
    assert [len(ids) for ids in fired] == [1, 0, 0]
    run = world.run(fired[0][0])
    assert (run.fire_time, run.status, run.trigger) == (slot, "waiting", "tick")
    assert {run.status for run in world.runs(schedule)} == {"waiting"}
    assert following(world, schedule) == slot + DAY


def test_a_hand_without_a_time_fires_what_is_due_and_goes_on_at_any_hour(world: World) -> None:
    schedule = world.schedule(window={"start": "22:00", "end": "06:00"}, catch_up="none")
    assert tick(world.database, by_hand=True) == []
    slot = midnight(world)
    due_at(world, schedule, slot)
    [run_id] = tick(world.database, by_hand=True)
    assert (world.run(run_id).fire_time, world.run(run_id).trigger) == (slot, "tick")
    world.runner(clock=lambda: MIDNIGHT + 12 * 3600).step()
    assert world.run(run_id).status == "succeeded"


@pytest.mark.parametrize(("catch_up", "ahead", "fired"), [("latest", 3_650, 1), ("all", 3_650, 1), ("all", 3, 3)])
def test_a_time_ahead_that_is_given_by_hand_leaves_the_next_slot_where_it_is(
    world: World, catch_up: str, ahead: int, fired: int
) -> None:
    """A wrong year fires the one slot that it names, and the schedule goes on every night."""
    schedule, tomorrow = world.schedule(catch_up=catch_up), midnight(world) + DAY
    due_at(world, schedule, tomorrow)
    wrong = tomorrow + (ahead - 1) * DAY + 60
    assert [len(tick(world.database, at=wrong, by_hand=True)) for _ in range(2)] == [fired, 0]
    assert following(world, schedule) == tomorrow
    assert max(run.fire_time for run in world.runs(schedule)) == wrong - 60


def test_a_slot_is_fired_once_by_the_clock_and_any_number_of_hands(world: World) -> None:
    schedule, slot = world.schedule(overlap="queue"), midnight(world)
    due_at(world, schedule, slot)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda hand: tick(world.database, at=slot + 60, by_hand=bool(hand % 2)), range(8))
    assert sum(len(ids) for ids in found) == 1
    assert following(world, schedule) == slot + DAY


@pytest.mark.parametrize(
    ("overlap", "statuses"),
    [("skip", ["waiting", "skipped"]), ("queue", ["waiting", "waiting"]), ("cancel", ["cancelled", "waiting"])],
)
def test_a_slot_that_comes_while_a_run_has_not_ended_is_dealt_with_as_the_schedule_says(
    world: World, overlap: str, statuses: list[str]
) -> None:
    schedule = world.schedule(overlap=overlap)
    tick(world.database, at=MIDNIGHT)
    tick(world.database, at=MIDNIGHT + DAY)
    assert [run.status for run in world.runs(schedule)] == statuses


def test_a_run_that_gives_way_takes_its_job_with_it_and_leaves_its_documents_to_the_next(world: World) -> None:
    schedule = world.schedule(overlap="cancel")
    world.shelf.documents = {"a": "one"}
    [first] = tick(world.database, at=MIDNIGHT)
    while world.run(first).job_id is None:
        put_off(world.database, first)
        world.runner().step()
    [second] = tick(world.database, at=MIDNIGHT + DAY)
    assert world.finish(second).status == "succeeded"
    gone = world.run(first)
    with reading(world.database) as connection:
        assert jobs.get(connection, gone.job_id or "").status == "cancelled"
    assert (gone.status, world.labelled, len(world.runs(schedule))) == ("cancelled", ["a"], 2)


def test_queued_runs_of_a_schedule_go_one_after_the_other(world: World) -> None:
    schedule = world.schedule(catch_up="all", overlap="queue")
    world.shelf.documents = {"a": "one"}
    tick(world.database, at=MIDNIGHT + 2 * DAY)
    ids = [run.id for run in world.runs(schedule)]
    for run_id in ids:
        world.finish(run_id)
    ended = [world.run(run_id) for run_id in ids]
    assert all(one.finished_at <= two.started_at for one, two in itertools.pairwise(ended))  # type: ignore[operator]
    assert world.labelled == ["a"]


def test_of_runs_that_can_go_on_the_one_that_has_waited_longest_comes_first(world: World) -> None:
    def fired(name: str) -> str:
        schedule = world.schedule(name=name)
        made = transact(world.database, lambda connection: runs.fire(connection, schedule, MIDNIGHT, "manual"))
        assert made is not None
        return made

    def claimed(*among: str, lease: float = 30.0) -> runs.Held:
        held = transact(
            world.database, lambda connection: runs.claim(connection, owner="me", lease=lease, among=among)
        )  # fmt: skip
        assert held is not None
        return held

    def put_off(run_id: str, after: float) -> None:
        held = claimed(run_id)
        transact(world.database, lambda connection: runs.release(connection, held, after=after))

    polling, seldom, lost = fired("polling"), fired("seldom"), fired("lost")
    for _ in range(3):  # however often it has had its turn
        put_off(polling, -60.0)
    put_off(seldom, -30.0)
    claimed(lost, lease=-90.0)
    fresh = fired("fresh")
    among = (fresh, seldom, polling, lost)
    assert [claimed(*among).run.id for _ in among] == [lost, polling, seldom, fresh]


def test_a_run_that_the_clock_fired_keeps_to_its_window_and_one_by_hand_does_not(world: World) -> None:
    schedule = world.schedule(window={"start": "22:00", "end": "06:00"}, overlap="queue")
    world.shelf.documents = {"a": "one"}
    transact(
        world.database,
        lambda connection: schedules.fired(connection, schedule.key, next_fire_at=now(world.database) - 1),
    )
    [run_id] = tick(world.database)
    moment = [MIDNIGHT + 5.9 * 3600]
    runner = world.runner(clock=lambda: moment[0])

    def step() -> Run:
        put_off(world.database, run_id)
        runner.step()
        return world.run(run_id)

    def job() -> jobs.Job:
        with reading(world.database) as connection:
            return jobs.get(connection, world.run(run_id).job_id or "")

    assert step().status == "running"
    assert job().status == "queued"
    moment[0] = MIDNIGHT + 6 * 3600
    assert step().status == "paused"
    assert job().status == "paused"
    assert step().status == "paused"
    moment[0] = MIDNIGHT + 22 * 3600
    assert step().status == "running"
    assert job().status == "queued"
    world.work()
    moment[0] = MIDNIGHT + 30.5 * 3600
    assert step().status == "succeeded"
    transact(world.database, lambda connection: run_now(connection, schedule.id, "run_by_hand"))
    world.shelf.documents = {"a": "two"}
    assert world.finish("run_by_hand").status == "succeeded"


def test_a_run_that_waits_for_its_window_has_read_nothing(world: World) -> None:
    schedule = world.schedule(window={"start": "22:00", "end": "06:00"})
    transact(
        world.database,
        lambda connection: schedules.fired(connection, schedule.key, next_fire_at=now(world.database) - 1),
    )
    [run_id] = tick(world.database)
    world.runner(clock=lambda: MIDNIGHT + 12 * 3600).step()
    assert (world.run(run_id).status, world.shelf.since) == ("waiting", [])


def test_a_window_that_closes_while_the_source_is_read_leaves_a_job_that_is_paused(world: World) -> None:
    schedule = world.schedule(window={"start": "22:00", "end": "06:00"})
    world.shelf.documents = {"a": "one"}
    transact(
        world.database,
        lambda connection: schedules.fired(connection, schedule.key, next_fire_at=now(world.database) - 1),
    )
    [run_id] = tick(world.database)
    moments = [MIDNIGHT + 5 * 3600] + [MIDNIGHT + 7 * 3600] * 50
    world.runner(clock=lambda: moments.pop(0)).step()
    run = world.run(run_id)
    with reading(world.database) as connection:
        assert (run.status, jobs.get(connection, run.job_id or "").status) == ("paused", "paused")


def test_a_slot_that_is_made_up_for_by_hand_waits_for_the_run_that_has_not_ended(world: World) -> None:
    schedule = world.schedule(overlap="skip")
    tick(world.database, at=MIDNIGHT)
    [by_hand] = tick(world.database, at=MIDNIGHT - DAY, by_hand=True)
    assert world.run(by_hand).status == "waiting"
    assert len(world.runs(schedule)) == 2


@pytest.mark.parametrize(("overlap", "refused"), [("skip", True), ("queue", False)])
def test_a_run_by_hand_beside_one_that_has_not_ended_is_dealt_with_as_the_schedule_says(
    world: World, overlap: str, refused: bool
) -> None:
    schedule = world.schedule(overlap=overlap)
    tick(world.database, at=MIDNIGHT)
    if refused:
        with pytest.raises(Conflict, match="has not ended"):
            transact(world.database, lambda connection: run_now(connection, schedule.id, "run_by_hand"))
    else:
        transact(world.database, lambda connection: run_now(connection, schedule.id, "run_by_hand"))
        assert world.run("run_by_hand").trigger == "manual"


def test_a_name_is_taken_once_and_a_change_that_comes_second_is_refused(world: World) -> None:
    schedule = world.schedule()
    with pytest.raises(Conflict, match="named 'nights'"):
        world.schedule()
    for refused in (False, True):
        other = schedule.definition.model_copy(update={"enabled": refused})
        change = lambda connection, other=other: schedules.change(  # noqa: E731
            connection, schedule, other, next_fire_at=None
        )
        if refused:
            with pytest.raises(Conflict, match="changed meanwhile"):
                transact(world.database, change)
        else:
            transact(world.database, change)
