"""Nights with people in them: documents go to them once, and what they say becomes references and a track record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from corpusmill.settings import Settings
from db import corpora, jobs, metrics, references, rescoring, reviews
from db.engine import Engine, reading, transact
from db.reviews import Sent
from db.runs import Run
from pipeline import reviewing
from tests.integration.labelling_peers import CONFIG, ArgillaPeer, LabelStudioPeer
from tests.integration.world import Shelf, World

EVERYTHING = {"audit": 1.0, "to": {"type": "label_studio", "place": "team", "project": 1}}
POSITIVE: dict[str, Any] = {"label": lambda text: "positive"}


@pytest.fixture
def peer() -> Iterator[LabelStudioPeer]:
    with LabelStudioPeer() as started:
        yield started


@pytest.fixture
def world(database: Engine, tmp_path: Path, peer: LabelStudioPeer) -> World:
    places = tmp_path / "places.toml"
    places.write_text(f'[label_studio.team]\nurl = "{peer.url}"\ntoken = "legacy"\n')
    world = World(database, Settings(data_dir=tmp_path / "data", places_file=places), Shelf())
    world.shelf.documents = {"a": "one", "b": "two", "c": "three"}
    return world


def evaluated(world: World, run: Run) -> tuple[dict[str, Any], int]:
    """The metrics of a run's job, as a sweeper would bring them up to date, and the version of their references."""
    with reading(world.database) as connection:
        key = jobs.get(connection, run.job_id or "").key
    assert rescoring.bring_up_to_date(world.database, world.settings.data_dir, key)
    metrics.evaluate(world.database, key)
    with reading(world.database) as connection:
        job = jobs.by_key(connection, key)
        return {each.name: each for each in metrics.stored(connection, job).metrics}, job.references_version


def audited(world: World, key: int, revision: str = "1") -> tuple[int, int]:
    with reading(world.database) as connection:
        return reviews.audited(connection, key, revision)


def test_what_people_say_becomes_the_metrics_of_the_run_and_the_track_record_of_its_model(
    world: World, peer: LabelStudioPeer
) -> None:
    schedule = world.schedule(review=EVERYTHING)
    first = world.night(0, **POSITIVE)
    assert (first.status, first.counts["reviewed"], first.counts["documents"]["reviewed"]) == (
        "succeeded",
        {"audit": 3},
        3,
    )
    assert [task["data"]["corpusmill_document"] for task in peer.tasks] == ["a", "b", "c"]
    assert audited(world, schedule.key) == (0, 0)
    peer.annotate("a", "positive")
    peer.annotate("b", "negative")
    second = world.night(1, **POSITIVE)
    assert (second.counts["answered"], len(peer.tasks)) == (2, 3)
    found, version = evaluated(world, first)
    assert (found["accuracy"].value, found["accuracy"].n, version) == (0.5, 2, 1)
    assert audited(world, schedule.key) == (2, 1)
    world.shelf.documents["d"] = "four"
    third = world.night(2, **POSITIVE)
    assert third.report is not None
    figures = third.report["figures"]
    assert (figures["audit_answered"], figures["audit_accuracy"]) == (2, 0.5)
    assert third.counts["answered"] == 0, "what was said before is not news"


def test_people_may_change_their_minds(world: World, peer: LabelStudioPeer) -> None:
    schedule = world.schedule(review=EVERYTHING)
    first = world.night(0, **POSITIVE)
    peer.annotate("a", "negative", at="2026-01-01T00:00:00Z")
    world.night(1)
    peer.annotate("a", "positive", at="2026-01-02T00:00:00Z")
    peer.annotate("b", "positive")
    world.night(2)
    found, version = evaluated(world, first)
    assert (found["accuracy"].value, found["accuracy"].n, version) == (1.0, 2, 2)
    assert audited(world, schedule.key) == (2, 2)


def test_what_is_said_of_doubtful_documents_is_no_part_of_the_track_record(world: World, peer: LabelStudioPeer) -> None:
    schedule = world.schedule(review={**EVERYTHING, "thresholds": {"negative": 0.9}})
    label: Callable[[str], str] = lambda text: "negative" if text == "two" else "positive"  # noqa: E731
    first = world.night(0, label=label)
    assert first.counts["reviewed"] == {"audit": 2, "threshold": 1}
    for document in "abc":
        peer.annotate(document, "positive")
    world.night(1)
    assert audited(world, schedule.key) == (2, 2)


def test_a_tool_that_does_not_answer_puts_the_stage_off_and_gets_nothing_twice(
    world: World, peer: LabelStudioPeer
) -> None:
    world.schedule(review=EVERYTHING)
    peer.faults = [503, 502]
    run = world.night(0, **POSITIVE)
    assert (run.status, len(peer.tasks), run.counts["documents"]["reviewed"]) == ("succeeded", 3, 3)


def test_a_process_that_ends_after_the_push_has_it_done_once(
    world: World, peer: LabelStudioPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.schedule(review=EVERYTHING)
    kept = reviewing.reviews.sent  # type: ignore[attr-defined]

    def cut_off(*_: Any) -> None:
        monkeypatch.setattr(reviews, "sent", kept)
        raise OSError("killed between the tool and our tables")

    monkeypatch.setattr(reviews, "sent", cut_off)
    run = world.night(0, **POSITIVE)
    assert (run.status, len(peer.tasks), run.failures) == ("succeeded", 3, 0)


def test_answers_attached_before_a_process_ended_are_taken_in_again_and_change_nothing(
    world: World, peer: LabelStudioPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.schedule(review=EVERYTHING)
    first = world.night(0, **POSITIVE)
    peer.annotate("a", "negative")
    kept = reviews.answered

    def cut_off(*_: Any) -> None:
        monkeypatch.setattr(reviews, "answered", kept)
        raise OSError("killed between references and answers")

    monkeypatch.setattr(reviews, "answered", cut_off)
    assert world.night(1).counts["answered"] == 1
    with reading(world.database) as connection:
        corpus = corpora.get(connection, first.corpus_id or "")
        assert len(references.versions(connection, corpus.key, before=None, limit=10)) == 1


def test_what_is_said_of_a_text_that_has_changed_since_is_not_said_of_the_new_one(
    world: World, peer: LabelStudioPeer
) -> None:
    schedule = world.schedule(review=EVERYTHING)
    world.night(0, **POSITIVE)
    world.shelf.documents["a"] = "ONE"
    world.night(1, **POSITIVE)
    assert [task["data"]["body"] for task in peer.tasks] == ["one", "two", "three", "ONE"]
    old = peer.tasks[0]
    peer.annotate("a", "positive")
    old["annotations"], peer.tasks[3]["annotations"] = peer.tasks[3]["annotations"], []
    assert world.night(2).counts["answered"] == 0
    peer.annotate("a", "negative")
    assert world.night(3).counts["answered"] == 1
    assert audited(world, schedule.key) == (1, 0)


def test_answers_outlive_the_corpus_that_they_are_about(world: World, peer: LabelStudioPeer) -> None:
    schedule = world.schedule(review=EVERYTHING)
    first = world.night(0, **POSITIVE)
    peer.annotate("a", "positive")
    transact(world.database, lambda connection: corpora.remove(connection, first.corpus_id or ""))
    assert world.night(1).counts["answered"] == 1
    assert audited(world, schedule.key) == (1, 1)


SEVERAL = CONFIG.replace('toName="review"', 'toName="review" choice="multiple"')


def test_one_label_where_several_could_be_chosen_is_the_label_of_a_model_that_gives_one(
    world: World, peer: LabelStudioPeer
) -> None:
    peer.config = SEVERAL
    schedule = world.schedule(review=EVERYTHING)
    first = world.night(0, **POSITIVE)
    peer.annotate("a", "positive")
    peer.annotate("b", "negative")
    peer.annotate("c", "positive", "negative")
    assert world.night(1).counts["answered"] == 3
    assert world.night(2).counts["answered"] == 0, "what was said before is not news"
    assert audited(world, schedule.key) == (3, 1)
    with reading(world.database) as connection:
        corpus = corpora.get(connection, first.corpus_id or "")
        version = references.current(connection, corpus.key)
    assert version is not None
    attached = references.opened(world.settings.data_dir, corpus.id, version)
    assert [each for _, each in attached.between(0)] == ["positive", "negative", ["positive", "negative"]]


def test_answers_for_documents_that_another_schedule_has_sent_are_left_to_it_and_counted(
    world: World, peer: LabelStudioPeer
) -> None:
    schedule = world.schedule(review=EVERYTHING)
    world.night(0, **POSITIVE)
    peer.tasks[0]["data"]["corpusmill_document"] = "theirs"
    for document in ("theirs", "b"):
        peer.annotate(document, "positive")
    with capture_logs() as said:
        assert world.night(1).counts["answered"] == 1
    assert [line["documents"] for line in said if line["event"] == "answers left out"] == [1]
    assert audited(world, schedule.key) == (1, 1)


def test_argilla_does_the_same(world: World) -> None:
    with ArgillaPeer() as argilla:
        assert world.settings.places_file is not None
        world.settings.places_file.write_text(f'[argilla.team]\nurl = "{argilla.url}"\napi_key = "key"\n')
        to = {"type": "argilla", "place": "team", "dataset": "reviews", "workspace": "team"}
        schedule = world.schedule(review={"default": 0.9, "to": to})
        first = world.night(0, **POSITIVE)
        argilla.respond("b", "negative")
        world.night(1)
        found, _ = evaluated(world, first)
    assert (found["accuracy"].value, found["accuracy"].n) == (0.0, 1)
    assert audited(world, schedule.key) == (0, 0)


def test_a_document_sent_again_by_the_same_run_keeps_its_answer_and_by_another_begins_anew(world: World) -> None:
    schedule = world.schedule()
    first, second = world.night(0, **POSITIVE), world.night(1)
    sent = Sent(document_id="a", model_revision="r", why="audit", label=["x", "y"], score=0.5, remote_id="1")

    def write(connection: Any) -> None:
        reviews.sent(connection, schedule.key, first.key, [sent])
        reviews.answered(connection, schedule.key, {("a", "r"): (["y", "x"], 1.0)})
        reviews.sent(connection, schedule.key, first.key, [sent])

    transact(world.database, write)
    assert audited(world, schedule.key, "r") == (1, 1)
    transact(world.database, lambda connection: reviews.sent(connection, schedule.key, second.key, [sent]))
    assert audited(world, schedule.key, "r") == (0, 0)
    with reading(world.database) as connection:
        assert reviews.known(connection, schedule.key, [("a", "r")])["a", "r"].run_key == second.key
