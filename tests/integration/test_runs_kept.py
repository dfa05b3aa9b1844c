"""What stays of runs that have ended: what reports and reviews need, for as long as the operator says, and nothing large."""

from __future__ import annotations

from sqlalchemy import func, select, update

from broker.doorbell import Doorbell
from corpusmill.settings import Settings
from db import reviews, runs
from db.engine import reading, transact
from db.reviews import Sent
from db.schedules import Schedule
from db.tables import runs as table
from tests.integration.world import World
from worker.sweep import Sweeper

DAY = 86_400.0


def positions(world: World) -> int:
    """Runs that hold what their source gave."""
    with reading(world.database) as connection:
        return connection.execute(select(func.count()).where(table.c.position.is_not(None))).scalar_one()


def age(world: World, schedule: Schedule, days: float) -> None:
    """Let what has ended have ended so long ago."""
    transact(
        world.database,
        lambda connection: connection.execute(
            update(table)
            .where(table.c.schedule_key == schedule.key)
            .values(finished_at=table.c.finished_at - days * DAY)
        ),
    )


def swept(world: World, schedule: Schedule, **settings: float) -> list[str]:
    """The runs of a schedule that are left after a sweep."""
    given = Settings(data_dir=world.settings.data_dir, **settings)
    Sweeper(settings=given, database=world.database, doorbell=Doorbell(given))._tidy()
    return [run.id for run in world.runs(schedule)]


def test_where_the_source_stood_is_kept_while_a_run_needs_it_and_read_only_with_that_run(world: World) -> None:
    schedule, shelf = world.schedule(), world.shelf
    shelf.documents = {"a": "one"}
    [run_id] = world.fire(0)
    while world.run(run_id).stage != "label":
        world.runner().step()
    assert positions(world) == 1
    assert world.run(run_id).position is not None
    [listed] = world.runs(schedule)
    assert listed.position is None
    assert world.finish(run_id).status == "succeeded"
    assert positions(world) == 0
    shelf.documents = {"b": "two"}
    world.night(1)
    assert shelf.since[-1] == {"read": 1}, "the schedule has it"


def test_a_run_that_fails_leaves_nothing_of_where_its_source_stood(world: World) -> None:
    world.schedule()
    world.shelf.documents = {"a": "one"}
    world.shelf.sink_trouble = [OSError("full")] * 10
    assert world.night(0).status == "failed"
    assert positions(world) == 0


def test_runs_are_forgotten_after_their_time_but_for_those_with_which_reports_compare(world: World) -> None:
    schedule = world.schedule(report={"nights": 1})
    ids = [world.night(number).id for number in range(6)]
    assert swept(world, schedule) == ids
    age(world, schedule, 399)
    assert swept(world, schedule) == ids
    age(world, schedule, 2)
    assert swept(world, schedule, run_days=0) == ids
    assert swept(world, schedule) == ids[2:], (
        "nights on which nothing was labelled are passed over, up to four for each"
    )
    assert swept(world, schedule, run_days=1_000) == ids[2:]


def test_a_run_that_asked_people_something_stays_with_what_they_say(world: World) -> None:
    schedule = world.schedule(report={"nights": 1})
    ids = [world.night(number).id for number in range(6)]
    key = world.run(ids[0]).key
    sent = Sent(document_id="a", model_revision="r", why="audit", label="x", score=0.5, remote_id="1")

    def asked(connection: object) -> None:
        reviews.sent(connection, schedule.key, key, [sent])  # type: ignore[arg-type]
        reviews.answered(connection, schedule.key, {("a", "r"): ("x", 1.0)})  # type: ignore[arg-type]

    transact(world.database, asked)
    age(world, schedule, 500)
    assert swept(world, schedule) == [ids[0], *ids[2:]]
    with reading(world.database) as connection:
        assert reviews.audited(connection, schedule.key, "r") == (1, 1)


def test_what_has_not_ended_is_never_forgotten(world: World) -> None:
    schedule = world.schedule()
    [run_id] = world.fire(0)
    transact(
        world.database,
        lambda connection: connection.execute(update(table).values(created_at=0.0, started_at=0.0)),
    )
    assert swept(world, schedule, run_days=1) == [run_id]
    with reading(world.database) as connection:
        assert runs.unfinished(connection) == [run_id]
