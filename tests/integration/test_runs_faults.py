"""Runs that are cut off, taken over, put off or given up: what is delivered stays right, and nothing is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from corpusmill_client.schedules import Run as ClientRun
from sqlalchemy import select

from api.views import run_view
from corpusmill.errors import BrokerUnavailable, LeaseLost, PlaceFault, PlaceUnavailable
from corpusmill.settings import Settings
from db import corpora, ingest, job_moves, jobs, runs, schedules
from db.engine import Engine, now, reading, transact
from db.tables import runs as table
from pipeline import labelling
from pipeline.places import aside
from pipeline.review import Answer, Chosen, Pushed
from pipeline.running import Parts, Runner
from pipeline.sinks import Delivered
from pipeline.ticking import tick
from tests.integration.world import DAY, MIDNIGHT, Killed, Shelf, World, put_off

WINDOW = {"start": "22:00", "end": "06:00"}
MANY = 600
REVIEW = {"audit": 1.0, "to": {"type": "file", "place": "out", "path": "{run}.json", "format": "argilla"}}


class Team:
    """People who are asked, in memory: `trouble` is raised by the next pushes, after the first document of each."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.trouble: list[Exception] = []
        self.between: Callable[[], None] = lambda: None

    def push(self, chosen: Iterable[Chosen]) -> Iterator[Pushed]:
        for number, each in enumerate(chosen):
            self.asked.append((each.row.document_id, each.row.text))
            yield Pushed(document_id=each.row.document_id, model_revision=each.row.model_revision, why=each.why)
            if number == 0 and self.trouble:
                raise self.trouble.pop(0)
            if number == 0:
                self.between()

    def pull(self) -> Iterator[Answer]:
        return iter(())


class Asked(World):
    """A world whose people are a team in memory."""

    team: Team

    def runner(self, clock: Callable[[], float] | None = None) -> Runner:
        parts = Parts(
            open_source=lambda *_, **__: self.shelf, open_sink=lambda *_, **__: self.shelf,
            open_reviewers=lambda *_, **__: self.team,
        )  # fmt: skip
        return Runner(settings=self.settings, database=self.database, parts=parts, clock=clock)


@pytest.fixture
def world(database: Engine, tmp_path: Path) -> Asked:
    world = Asked(database, Settings(data_dir=tmp_path / "data"), Shelf())
    world.team = Team()
    return world


def held_by(world: World, run_id: str) -> str | None:
    with reading(world.database) as connection:
        owner: str | None = connection.scalar(select(table.c.owner).where(table.c.id == run_id))
    return owner


def seconds_put_off(world: World, run_id: str) -> float:
    with reading(world.database) as connection:
        until: float = connection.execute(select(table.c.not_before).where(table.c.id == run_id)).scalar_one()
    return until - now(world.database)


def job_of(world: World, run_id: str) -> jobs.Job:
    with reading(world.database) as connection:
        return jobs.get(connection, world.run(run_id).job_id or "")


def submitted(world: World, run_id: str) -> None:
    """Go on with a run until it has its job."""
    while world.run(run_id).job_id is None:
        put_off(world.database, run_id)
        world.runner().step()


def labelled(world: World, run_id: str) -> None:
    """Go on with a run until its job has ended: whoever goes on next delivers."""
    submitted(world, run_id)
    world.work()
    put_off(world.database, run_id)


def clock_fires(world: World, **fields: Any) -> str:
    """A run of the clock now, of a schedule with a window."""
    schedule = world.schedule(window=WINDOW, **fields)
    transact(
        world.database,
        lambda connection: schedules.fired(connection, schedule.key, next_fire_at=now(world.database) - 1),
    )
    [run_id] = tick(world.database)
    return run_id


def stalls(world: Asked, meanwhile: Callable[[], None]) -> None:
    """The next delivery stands still after its first row, or the first document that is gone, and `meanwhile` happens."""
    deliver, over = world.shelf.deliver, threading.Event()

    def pausing(items: Iterable[Any]) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 1 and not over.is_set():
                over.set()
                meanwhile()
            yield item

    def stalling(rows: Iterable[Delivered], gone: Iterable[str]) -> None:
        world.shelf.deliver = deliver  # type: ignore[method-assign]
        deliver(pausing(rows), pausing(gone))

    world.shelf.deliver = stalling  # type: ignore[method-assign]


def test_a_process_that_was_given_up_for_dead_writes_no_old_text_over_a_new_one(world: Asked) -> None:
    """It finds out with the next few hundred rows; those are the most that it can still write."""
    world.schedule()
    world.shelf.documents = {f"d{number:04}": "old" for number in range(MANY)}
    [run_id] = tick(world.database, at=MIDNIGHT)
    labelled(world, run_id)

    def meanwhile() -> None:
        world.finish(run_id)
        world.shelf.documents = dict.fromkeys(world.shelf.documents, "new")
        assert world.night(1).status == "succeeded"

    stalls(world, meanwhile)
    world.runner().step()
    texts = [text for text, _, _ in world.shelf.taken.values()]
    assert texts.count("old") <= 250
    assert texts[250:] == ["new"] * (MANY - 250)
    assert world.run(run_id).status == "succeeded"


def test_a_process_that_was_given_up_for_dead_takes_out_no_document_that_has_come_back(world: Asked) -> None:
    world.schedule()
    world.shelf.documents = everything = {f"d{number:04}": "text" for number in range(MANY)}
    world.night(0)
    world.shelf.documents = {"other": "text"}
    [run_id] = tick(world.database, at=MIDNIGHT + DAY)
    labelled(world, run_id)

    def meanwhile() -> None:
        world.finish(run_id)
        world.shelf.documents = everything
        assert world.night(2).status == "succeeded"

    stalls(world, meanwhile)  # there is one row, so it is among those that are gone
    world.runner().step()
    assert len([id for id in everything if id not in world.shelf.taken]) <= 250


def test_a_process_that_was_given_up_for_dead_sends_nothing_more_to_people(world: Asked) -> None:
    world.schedule(review=REVIEW)
    world.shelf.documents = {f"d{number:04}": "old" for number in range(MANY)}
    [run_id] = tick(world.database, at=MIDNIGHT)

    def meanwhile() -> None:
        world.team.between = lambda: None
        world.finish(run_id)
        world.team.asked = []

    world.team.between = meanwhile
    until_asked = world.finish(run_id)
    assert until_asked.status == "succeeded"
    assert len(world.team.asked) < 250


def test_a_process_that_learns_that_its_lease_is_lost_stops_at_the_next_page(world: Asked) -> None:
    """Also where nothing is to be sent: the thread that keeps the lease tells the one that works."""
    lost = threading.Event()
    world.schedule()
    [run_id] = tick(world.database, at=MIDNIGHT)
    runner = world.runner()
    held = transact(world.database, lambda connection: runs.claim(connection, owner=runner.owner, lease=0.0))
    assert held is not None
    put_off(world.database, run_id)
    transact(world.database, lambda connection: runs.claim(connection, owner="another", lease=30.0))
    runner.settings = runner.settings.model_copy(update={"lease_seconds": 0.01})
    runner._keep_lease(held, threading.Event(), lost)
    assert lost.is_set()
    with pytest.raises(LeaseLost):
        runner._work(held, lost).go_on()


def test_two_processes_never_write_aside_under_one_name(tmp_path: Path) -> None:
    first = aside(tmp_path / "labels.csv")
    first.write_text("half of it")
    second = aside(tmp_path / "labels.csv")
    assert first != second
    assert list(tmp_path.iterdir()) == [], "what a process that was killed left behind is removed"


def test_a_run_whose_people_cannot_be_asked_has_its_report_and_says_so(world: Asked) -> None:
    rule = {"figure": "review_failed", "above": 0}
    schedule = world.schedule(review=REVIEW, report={"fail_if": [rule]})
    world.shelf.documents = {"a": "one", "b": "two"}
    world.team.trouble = [PlaceFault("no such project")]
    run = world.night(0)
    assert (run.status, run.error) == ("succeeded", {"code": "place_fault", "message": "no such project"})
    assert run.report is not None
    assert run.report["broken"] == ["review_failed is 1, above 0."]
    with reading(world.database) as connection:
        later = world.night(1)
        assert [each.id for each in runs.before(connection, later, 5)] == [run.id]
    assert schedule.id == run.schedule_id


def test_a_cron_job_hears_of_a_run_that_could_not_do_all_of_it(world: Asked) -> None:
    world.schedule(review=REVIEW)
    world.shelf.documents = {"a": "one"}
    world.team.trouble = [PlaceFault("no such project")] * 2
    run = world.night(0)
    assert (run.status, run.exit_code, ClientRun(cast(Any, None), run_view(run)).exit_code) == ("succeeded", 1, 1)
    world.team.trouble = []
    run = world.night(1)
    assert (run.status, run.exit_code, ClientRun(cast(Any, None), run_view(run)).exit_code) == ("succeeded", 0, 0)


@pytest.mark.parametrize("trouble", [PlaceFault("no such project"), PlaceUnavailable("away")])
def test_what_people_could_not_be_asked_they_are_asked_the_next_night(world: Asked, trouble: Exception) -> None:
    world.schedule(review=REVIEW)
    world.shelf.documents = {"a": "one", "b": "two", "c": "three", "d": "four"}
    world.team.trouble = [trouble] * 10
    world.night(0)
    world.team.trouble, world.team.asked = [], []
    world.shelf.documents = {"a": "one", "b": "TWO", "d": "four", "e": "five"}
    run = world.night(1)
    assert world.team.asked == [("a", "one"), ("d", "four"), ("b", "TWO"), ("e", "five")]
    assert (run.counts["made_up"], run.counts["documents"]["reviewed"]) == (2, 2)
    first = next(each for each in world.runs(world_schedule(world)) if each.id != run.id)
    assert (first.error, first.counts["reviewed"]) == (None, {"audit": 2})
    world.team.asked = []
    world.night(2)
    assert world.team.asked == []


def world_schedule(world: World) -> Any:
    with reading(world.database) as connection:
        return schedules.page(connection, before=None, limit=1)[0]


def test_what_is_still_refused_of_an_earlier_night_does_not_keep_the_present_one_back(world: Asked) -> None:
    world.schedule(review=REVIEW)
    world.shelf.documents = {"a": "one"}
    world.team.trouble = [PlaceFault("no such label"), PlaceFault("no such label")]
    world.night(0)
    world.shelf.documents["b"] = "two"
    assert world.night(1).error is None
    assert world.team.asked == [("a", "one"), ("a", "one"), ("b", "two")]
    world.night(2)
    assert world.team.asked[3:] == [("a", "one")]


def test_a_report_that_cannot_be_written_is_kept_and_its_night_is_compared_with(world: Asked, tmp_path: Path) -> None:
    (tmp_path / "places.toml").write_text(f'[folders.morning]\npath = "{tmp_path}"')
    (tmp_path / "reports").write_text("a file, where a folder is wanted")
    world.settings = world.settings.model_copy(update={"places_file": tmp_path / "places.toml"})
    world.schedule(report={"to": {"place": "morning", "path": "reports/{date}"}})
    world.shelf.documents = {"a": "one"}
    run = world.night(0)
    assert run.status == "succeeded"
    assert run.report is not None
    assert run.error is not None
    (tmp_path / "reports").unlink()
    world.shelf.documents = {"a": "ONE"}
    second = world.night(1)
    assert second.error is None
    assert (second.report or {})["compared"]["nights"] == 1


def test_a_document_whose_failure_may_pass_is_tried_again_also_where_the_source_is_appended(world: Asked) -> None:
    world.schedule()
    world.shelf.complete = False
    world.shelf.documents = {"a": "bad again", "b": "good"}
    [first] = tick(world.database, at=MIDNIGHT)
    world.finish(first, broken="bad")
    world.night(1)
    assert world.shelf.labels == {"a": "<bad again>", "b": "<good>"}
    assert world.labelled == ["a", "b", "a"]
    world.night(2)
    assert world.shelf.since == [None, None, {"read": 2}]


def test_a_document_that_always_fails_holds_an_appended_source_for_some_nights_only(world: Asked) -> None:
    world.schedule()
    world.shelf.complete = False
    world.shelf.documents = {"a": "bad again"}
    for number in range(6):
        world.night(number, broken="bad")
        world.shelf.documents.setdefault("b", "good")
    assert world.shelf.since[:4] == [None] * 4
    assert world.shelf.since[4] is not None
    assert world.labelled.count("b") == 1


def test_the_place_that_an_appended_source_is_held_at_is_the_one_before_the_failures(world: Asked) -> None:
    world.schedule()
    world.shelf.complete = False
    world.shelf.documents = {"a": "good"}
    world.night(0)
    world.shelf.documents = {"b": "bad again", "c": "good"}
    [second] = tick(world.database, at=MIDNIGHT + DAY)
    world.finish(second, broken="bad")
    world.night(2)
    world.night(3)
    assert world.shelf.since == [None, {"read": 1}, {"read": 1}, {"read": 2}]


def test_a_run_waits_while_the_folder_of_all_corpora_is_not_there(
    world: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world.settings.data_dir / "corpora"
    aside = folder.with_name("elsewhere")
    away = labelling._submit

    def unmounted(*given: Any) -> Any:
        folder.rename(aside)
        monkeypatch.setattr(labelling, "_submit", away)
        try:
            return away(*given)
        finally:
            aside.rename(folder)

    monkeypatch.setattr(labelling, "_submit", unmounted)
    world.schedule()
    world.shelf.documents = {"a": "one"}
    assert world.night(0).status == "succeeded"
    assert world.shelf.labels == {"a": "<one>"}


@pytest.mark.parametrize("code", ["reader_failed", "reader_lost", "upload_lost"])
def test_documents_that_could_not_be_read_into_a_corpus_fail_their_run_and_come_again_in_the_next(
    world: Asked, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    read = ingest.run

    def rejected(database: Engine, settings: Settings, corpus_id: str) -> None:
        outcome: dict[str, Any] = {
            "status": "rejected",
            "documents": 0,
            "invalid": 0,
            "fields": [],
            "error": {"code": code, "message": ""},
        }
        transact(database, lambda connection: corpora.claim(connection, corpus_id, owner="reader", lease=30))
        transact(database, lambda connection: corpora.finish(connection, corpus_id, owner="reader", **outcome))

    world.schedule()
    world.shelf.documents = {"a": "one", "b": "two"}
    monkeypatch.setattr(ingest, "run", rejected)
    run = world.night(0)
    assert (run.status, (run.error or {}).get("code")) == ("failed", code)
    monkeypatch.setattr(ingest, "run", read)
    assert world.night(1).status == "succeeded"
    assert world.shelf.since == [None, None], "an appended source has not gone on"
    assert world.shelf.labels == {"a": "<one>", "b": "<two>"}


@pytest.mark.parametrize("deleted", [False, True], ids=["ended", "deleted"])
def test_a_run_whose_job_has_ended_gives_way_at_once(world: Asked, deleted: bool) -> None:
    world.schedule(overlap="cancel")
    world.shelf.documents = {"a": "one"}
    world.shelf.sink_trouble = [PlaceUnavailable("The shop does not answer.")]
    [first] = tick(world.database, at=MIDNIGHT)
    labelled(world, first)
    world.runner().step()
    assert world.run(first).failures == 1
    if deleted:
        job_id = world.run(first).job_id or ""
        transact(world.database, lambda connection: jobs.remove(connection, job_id))
    [second] = tick(world.database, at=MIDNIGHT + DAY)
    world.runner().step()
    gone = world.run(first)
    assert (gone.status, (gone.error or {})["code"]) == ("cancelled", "cancelled")
    assert world.finish(second).status == "succeeded"
    assert world.shelf.labels == {"a": "<one>"}


def test_faults_in_passing_do_not_add_up(world: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    world.schedule()
    world.shelf.documents = {"a": "one"}
    [run_id] = tick(world.database, at=MIDNIGHT)
    submitted(world, run_id)
    look, looks = labelling._hold_or_let_go, [0]

    def sometimes(*arguments: Any) -> Any:
        looks[0] += 1
        if looks[0] % 2:
            raise BrokerUnavailable("a hiccup")
        return look(*arguments)

    monkeypatch.setattr(labelling, "_hold_or_let_go", sometimes)
    for _ in range(30):
        put_off(world.database, run_id)
        world.runner().step()
    run = world.run(run_id)
    assert (run.status, run.failures, run.error) == ("running", 0, None)
    assert world.finish(run_id).status == "succeeded"


def test_a_run_that_fails_while_its_job_runs_takes_it_with_it(world: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    world.schedule()
    world.shelf.documents = {"a": "one"}
    [run_id] = tick(world.database, at=MIDNIGHT)
    submitted(world, run_id)

    def never(*_: Any) -> Any:
        raise BrokerUnavailable("gone")

    monkeypatch.setattr(labelling, "_hold_or_let_go", never)
    for _ in range(10):
        put_off(world.database, run_id)
        world.runner().step()
    assert world.run(run_id).status == "failed"
    assert job_of(world, run_id).status == "cancelled"


def test_a_process_that_dies_when_the_window_closes_leaves_no_job_paused_for_ever(
    world: Asked, monkeypatch: pytest.MonkeyPatch
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
    assert (world.run(run_id).status, job_of(world, run_id).status) == ("running", "queued")


def test_a_job_that_somebody_paused_stays_paused_over_the_hours_outside_the_window(world: Asked) -> None:
    world.shelf.documents = {"a": "one"}
    run_id = clock_fires(world)
    hours = [23, 31, 47]
    for hour in hours:
        for _ in range(2):
            put_off(world.database, run_id)
            world.runner(lambda hour=hour: MIDNIGHT + hour * 3600).step()  # type: ignore[misc]
        if hour == hours[0]:
            transact(
                world.database, lambda connection: job_moves.request_pause(connection, job_of(world, run_id).id)
            )  # fmt: skip
    assert job_of(world, run_id).status == "paused"


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_outside_its_window_is_left_alone_until_it_opens_and_can_be_cancelled(world: Asked, begun: bool) -> None:
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
    transact(world.database, lambda connection: runs.request_cancel(connection, world_schedule(world).key))
    world.runner(lambda: MIDNIGHT + 7 * 3600).step()
    assert world.run(run_id).status == "cancelled"


def test_a_process_that_is_to_end_gives_back_what_it_holds_before_it_does(world: Asked) -> None:
    world.schedule()
    world.shelf.documents = {"a": "one", "b": "two"}
    [run_id] = tick(world.database, at=MIDNIGHT)
    labelled(world, run_id)
    runner, entered, go_on = world.runner(), threading.Event(), threading.Event()

    def meanwhile() -> None:
        entered.set()
        go_on.wait()

    stalls(world, meanwhile)
    keeping = threading.Thread(target=runner.keep, args=(0.05,), daemon=True)
    keeping.start()
    assert entered.wait(60)
    runner.stopping.set()
    threading.Timer(0.5, go_on.set).start()
    keeping.join()
    assert held_by(world, run_id) is None
    assert world.finish(run_id).status == "succeeded"
