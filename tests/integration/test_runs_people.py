"""Runs whose people cannot be asked, or are asked by a process that was given up for dead: nothing of it is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from corpusmill_client.schedules import Run as ClientRun

from api.views import run_view
from corpora import remove_store
from corpusmill.errors import PlaceFault, PlaceUnavailable
from corpusmill.settings import Settings
from db import runs
from db.corpora import store_directory
from db.engine import Engine, reading
from pipeline.review import Answer, Chosen, Pushed
from pipeline.running import Parts, Runner
from pipeline.ticking import tick
from tests.integration.world import MIDNIGHT, Shelf, World

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
    schedule = world.schedule(review=REVIEW)
    world.shelf.documents = {"a": "one", "b": "two", "c": "three", "d": "four"}
    world.team.trouble = [trouble] * 10
    world.night(0)
    world.team.trouble, world.team.asked = [], []
    world.shelf.documents = {"a": "one", "b": "TWO", "d": "four", "e": "five"}
    run = world.night(1)
    assert world.team.asked == [("a", "one"), ("d", "four"), ("b", "TWO"), ("e", "five")]
    assert (run.counts["made_up"], run.counts["documents"]["reviewed"]) == (2, 2)
    first = next(each for each in world.runs(schedule) if each.id != run.id)
    assert (first.error, first.counts["reviewed"]) == (None, {"audit": 2})
    world.team.asked = []
    world.night(2)
    assert world.team.asked == []


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


def test_documents_of_an_earlier_night_whose_corpus_is_lost_do_not_keep_the_present_one_back(world: Asked) -> None:
    world.schedule(review=REVIEW)
    world.shelf.documents = {"a": "one"}
    world.team.trouble = [PlaceFault("no such project")]
    lost = world.night(0)
    remove_store(store_directory(world.settings.data_dir, lost.corpus_id or ""))
    world.shelf.documents = {"b": "two"}
    world.shelf.complete = False
    assert world.night(1).error is None
    assert world.team.asked == [("a", "one"), ("b", "two")]
