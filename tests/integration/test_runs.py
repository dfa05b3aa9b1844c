"""Runs and the ledger, on both databases: each change once, whoever is cut off and wherever."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from corpusmill.errors import LeaseLost, NotFound, PlaceFault, PlaceUnavailable
from db import corpora, job_moves, jobs, ledger, runs, schedules
from db.engine import reading, transact
from db.runs import Held
from pipeline.sources import SourceDocument
from pipeline.ticking import next_fire, tick
from tests.integration.world import DAY, MIDNIGHT, Killed, World, put_off


def test_only_what_is_new_or_changed_is_labelled_and_what_is_gone_leaves_the_sink(world: World) -> None:
    schedule, shelf = world.schedule(), world.shelf
    shelf.documents = {"a": "one", "b": "two", "c": "three"}
    shelf.repeated = ["b"]
    first = world.night(0)
    assert first.status == "succeeded"
    assert shelf.labels == {"a": "<one>", "b": "<two>", "c": "<three>"}
    shelf.documents = {"a": "one", "b": "TWO", "d": "four"}
    second = world.night(1)
    assert shelf.labels == {"a": "<one>", "b": "<TWO>", "d": "<four>"}
    assert world.labelled == ["a", "b", "c", "b", "d"]
    counted = [{name: n for name, n in run.counts["documents"].items() if n} for run in (first, second)]
    assert counted == [
        {"read": 4, "new": 3, "repeated": 1, "succeeded": 3, "ran": 3},
        {"read": 4, "new": 1, "changed": 1, "unchanged": 1, "repeated": 1, "gone": 1, "succeeded": 2, "ran": 2},
    ]
    assert second.counts["distribution"]["labels"] == {"<TWO>": 1, "<four>": 1}
    assert shelf.taken["d"][2] == {"text": "another", "n": 2}
    with reading(world.database) as connection:
        assert ledger.count(connection, schedule.key) == 3


MIRROR = {"type": "sql", "place": "x", "table": "x", "key": "x", "sync": "mirror"}


@pytest.mark.parametrize(
    ("most_gone", "before", "after", "refused"),
    [
        (None, 50, 0, "all 50"),
        (None, 50, 24, "26 of the 50"),
        (None, 50, 25, None),
        (None, 3, 1, None),
        (None, 19, 1, None),
        (None, 1, 0, "all 1"),
        (0.9, 50, 4, "46 of the 50"),
        (0.9, 50, 5, None),
        (0.99, 50, 0, "all 50"),
        (0.0, 50, 49, "1 of the 50"),
        (1.0, 50, 0, None),
    ],
)
def test_a_mirror_that_has_lost_more_than_it_may_takes_nothing_out_of_the_sinks(
    world: World, most_gone: float | None, before: int, after: int, refused: str | None
) -> None:
    """A table between TRUNCATE and reload, a mount point without its mount: what is there of it looks like a deletion."""
    schedule = world.schedule(source=MIRROR | ({} if most_gone is None else {"most_gone": most_gone}))
    world.shelf.documents = {f"d{number}": "text" for number in range(before)}
    world.night(0)
    kept = dict(world.shelf.taken)
    world.shelf.documents = dict(list(world.shelf.documents.items())[:after])
    run = world.night(1)
    if refused is None:
        assert (run.status, run.counts["documents"]["gone"]) == ("succeeded", before - after)
        assert world.shelf.taken.keys() == world.shelf.documents.keys()
        return
    assert run.error is not None
    assert (run.status, run.error["code"], world.shelf.taken) == ("failed", "place_fault", kept)
    assert refused in run.error["message"]
    assert "most_gone" in run.error["message"]
    with reading(world.database) as connection:
        assert ledger.count(connection, schedule.key) == before
    world.shelf.documents = {f"d{number}": "text" for number in range(before)}
    assert world.night(2).counts["documents"]["unchanged"] == before


def test_what_a_mirror_could_not_be_sure_of_stays_in_the_sinks_and_is_counted(world: World) -> None:
    world.schedule(source=MIRROR)
    world.shelf.documents = {"a": "one", "b": "two", "c": "three"}
    world.night(0)
    del world.shelf.documents["b"]
    world.shelf.complete = False
    counts = world.night(1).counts["documents"]
    assert (counts["gone"], counts["withheld"], sorted(world.shelf.taken)) == (0, 1, ["a", "b", "c"])
    world.shelf.complete = True
    counts = world.night(2).counts["documents"]
    assert (counts["gone"], counts["withheld"], sorted(world.shelf.taken)) == (1, 0, ["a", "c"])


def test_a_definition_from_before_there_was_a_bound_is_read_with_it(world: World) -> None:
    from sqlalchemy import update

    from db.tables import schedules as table

    schedule = world.schedule(source=MIRROR)
    stored = schedule.definition.model_dump(mode="json")
    assert stored["source"].pop("most_gone") == 0.5
    transact(world.database, lambda connection: connection.execute(update(table).values(definition=stored)))
    with reading(world.database) as connection:
        assert schedules.get(connection, schedule.id).definition == schedule.definition


def test_a_text_that_has_grown_too_long_to_be_taken_loses_its_label_and_is_left_alone_until_it_changes(
    world: World,
) -> None:
    world.settings = world.settings.model_copy(update={"max_document_bytes": 1_000})
    world.schedule(report={})
    world.shelf.documents = {"a": "one", "b": "two"}
    world.night(0)
    world.shelf.documents["b"] = "long " * 300
    run = world.night(1)
    counts = {name: n for name, n in run.counts["documents"].items() if n}
    assert counts == {"read": 2, "changed": 1, "unchanged": 1, "failed": 1, "ran": 1}
    assert (run.counts["failures"], run.report["figures"]["unusable_share"]) == ({"too_long": 1}, 0)  # type: ignore[index]
    assert (world.shelf.taken["a"][1]["label"], world.shelf.taken["b"][1]) == ("<one>", None)
    assert world.night(2).counts["documents"]["unchanged"] == 2
    world.shelf.documents["b"] = "short"
    assert world.night(3).counts["documents"]["changed"] == 1
    assert world.shelf.labels == {"a": "<one>", "b": "<short>"}


def test_what_is_no_document_is_not_among_those_that_were_read(world: World) -> None:
    world.schedule(report={})
    world.shelf.documents = {"a": "one", "b\0": "two", "c" * 600: "three"}
    world.shelf.unusable = 1
    run = world.night(0)
    assert {name: n for name, n in run.counts["documents"].items() if n} == {
        "read": 1, "new": 1, "unusable": 3, "succeeded": 1, "ran": 1
    }  # fmt: skip
    assert run.report["figures"]["unusable_share"] == 0.75  # type: ignore[index]


@pytest.mark.parametrize("pairs", [{"a": "p"}, {"b": "p"}])
def test_documents_with_and_without_a_second_text_are_not_labelled_together(
    world: World, pairs: dict[str, str]
) -> None:
    """One of them would be labelled without what it has, or with what it has not: both are named, and nothing is lost."""
    world.schedule()
    world.shelf.documents = {"a": "one", "b": "two"}
    world.shelf.pairs = pairs
    run = world.night(0)
    assert run.error is not None
    assert (run.status, run.error["code"], world.labelled) == ("failed", "place_fault", [])
    assert "'a'" in run.error["message"]
    assert "'b'" in run.error["message"]
    world.shelf.pairs = {"a": "p", "b": "q"}
    assert world.night(1).status == "succeeded"
    assert world.labelled == ["a", "b"]


def test_a_night_without_anything_new_has_no_job_and_says_so(world: World) -> None:
    world.schedule()
    world.shelf.documents = {"a": "one"}
    world.night(0)
    quiet = world.night(1)
    assert (quiet.status, quiet.job_id, quiet.corpus_id) == ("succeeded", None, None)
    assert quiet.counts["documents"]["unchanged"] == 1
    assert world.labelled == ["a"]


def test_an_append_source_goes_on_where_the_last_run_that_succeeded_ended(world: World) -> None:
    world.schedule()
    world.shelf.complete = False
    world.shelf.documents = {"a": "one"}
    world.night(0)
    world.shelf.documents = {"b": "two"}
    world.shelf.trouble = [PlaceFault("no such column")]
    assert world.night(1).status == "failed"
    assert world.night(2).status == "succeeded"
    assert world.shelf.since == [None, {"read": 1}, {"read": 1}]
    assert set(world.shelf.labels) == {"a", "b"}


def test_the_report_adds_up_breaks_rules_and_is_written_where_it_was_to_be(world: World, tmp_path: Path) -> None:
    (tmp_path / "places.toml").write_text(f'[folders.morning]\npath = "{tmp_path}"')
    world.settings = world.settings.model_copy(update={"places_file": tmp_path / "places.toml"})
    report = {"fail_if": [{"figure": "failed", "above": 0}, {"figure": "label_psi", "above": 100}],
              "to": {"place": "morning", "path": "reports/nights-{date}"}}  # fmt: skip
    world.schedule(report=report, timezone="Asia/Kolkata", cron="30 5 * * *")
    world.shelf.documents = {"a": "bad", "b": "two", "c": "three"}
    run = world.finish(tick(world.database, at=MIDNIGHT)[0], broken="bad")
    kept = run.report or {}
    assert kept["broken"] == ["failed is 1, above 0."]
    assert (run.new_documents, run.failed_documents, run.exit_code) == (3, 1, 1)
    figures = kept["figures"]
    assert (figures["new"], figures["ran"], figures["succeeded"], figures["failures/too_long"]) == (3, 3, 2, 1)
    assert json.loads((tmp_path / "reports" / "nights-2030-01-01.json").read_text()) == kept
    assert "failed is 1" in (tmp_path / "reports" / "nights-2030-01-01.md").read_text()
    world.shelf.documents["b"] = "TWO"
    assert world.night(1).report["compared"] != kept["compared"]  # type: ignore[index]


@pytest.mark.parametrize("policy", ["keep", "relabel"])
def test_a_new_revision_labels_everything_again_only_where_that_is_asked_for(
    world: World, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = world.schedule(on_new_revision=policy)
    world.shelf.documents = {"a": "one", "b": "two"}
    world.night(0)
    changed = schedule.definition.model_copy(
        update={"job": schedule.definition.job.model_copy(update={"params": {"top_k": 1}})}
    )
    transact(
        world.database,
        lambda connection: schedules.change(
            connection, schedule, changed, next_fire_at=next_fire(changed, MIDNIGHT)
        ),
    )  # fmt: skip
    world.shelf.documents["c"] = "three"
    run = world.night(1)
    assert run.counts["documents"]["relabelled"] == (2 if policy == "relabel" else 0)
    assert (run.new_documents, run.exit_code) == (3 if policy == "relabel" else 1, 0)
    assert world.labelled == ["a", "b"] + (["a", "b", "c"] if policy == "relabel" else ["c"])
    world.night(2)
    assert len(world.labelled) == (5 if policy == "relabel" else 3)


def test_a_document_that_failed_for_good_waits_for_its_text_to_change_and_another_is_tried_again(world: World) -> None:
    world.schedule()
    world.shelf.documents = {"a": "bad", "b": "bad again", "c": "good"}
    run = world.finish(tick(world.database, at=MIDNIGHT)[0], broken="bad")
    assert run.counts["failures"] == {"too_long": 2}
    assert (run.failed_documents, run.exit_code) == (2, 3)
    world.night(1)
    assert world.labelled == ["a", "b", "c", "b"]


def test_a_place_that_does_not_answer_is_asked_again_and_the_run_says_why_it_waits(world: World) -> None:
    world.schedule()
    world.shelf.documents = {"a": "one"}
    world.shelf.trouble = [PlaceUnavailable("The shop does not answer.", private="10.0.0.1 refused somebody")]
    [run_id] = tick(world.database, at=MIDNIGHT)
    with capture_logs() as logged:
        world.runner().step()
    assert [each["said"] for each in logged if "said" in each] == ["10.0.0.1 refused somebody"]
    waiting = world.run(run_id)
    assert (waiting.status, waiting.failures, waiting.error) == (
        "running", 1, {"code": "place_unavailable", "message": "The shop does not answer."}
    )  # fmt: skip
    assert not world.runner().step()
    ended = world.finish(run_id)
    assert (ended.status, ended.failures, ended.error) == ("succeeded", 0, None)


def test_a_place_that_never_answers_fails_the_run_in_the_end(world: World) -> None:
    world.schedule()
    world.shelf.trouble = [PlaceUnavailable("gone")] * 50
    ended = world.night(0)
    assert (ended.status, ended.failures, world.shelf.trouble != []) == ("failed", 10, True)


def test_a_sink_that_refuses_fails_the_run_and_its_documents_come_again(world: World) -> None:
    world.schedule()
    world.shelf.documents = {"a": "one", "b": "two"}
    world.shelf.sink_trouble = [PlaceFault("no such table")]
    assert world.night(0).status == "failed"
    del world.shelf.documents["b"]
    assert world.night(1).status == "succeeded"
    assert world.shelf.labels == {"a": "<one>"}
    assert world.labelled == ["a", "b", "a"]


def test_a_text_that_goes_back_to_what_it_was_after_a_half_delivery_is_delivered_again(world: World) -> None:
    world.schedule()
    world.shelf.documents = {"a": "one"}
    world.night(0)
    world.shelf.documents = {"a": "two"}
    world.shelf.sink_trouble = [PlaceFault("only half of it")]
    world.night(1)
    world.shelf.documents = {"a": "one"}
    world.night(2)
    assert world.shelf.labels == {"a": "<one>"}


STAGES = ["ledger.want", "ledger.mark_gone", "corpora.create", "jobs.create", "ledger.doubt", "ledger.settle",
          "ledger.settle_gone", "schedules.keep_position", "runs.end"]  # fmt: skip


@pytest.mark.parametrize("place", STAGES)
@pytest.mark.parametrize("committed", [pytest.param(False, marks=pytest.mark.slow), True], ids=["before", "after"])
def test_a_process_that_is_killed_anywhere_changes_nothing_of_the_outcome(
    world: World, place: str, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step at which it dies is done, or is not, and nothing after it: another goes on when the lease is over."""
    import db

    world.schedule()
    world.shelf.documents = {"a": "one", "b": "two", "c": "three"}
    world.night(0)
    world.shelf.documents = {"a": "one", "b": "TWO", "d": "four"}
    [run_id] = tick(world.database, at=MIDNIGHT + DAY)
    module, _, name = place.partition(".")
    real = getattr(getattr(db, module), name)
    deaths: list[str] = []

    def dies(*arguments: Any, **options: Any) -> Any:
        if deaths:
            return real(*arguments, **options)
        deaths.append(place)
        if committed:
            real(*arguments, **options)
            arguments[0].commit()
        raise Killed

    monkeypatch.setattr(f"db.{module}.{name}", dies)
    for _ in range(50):
        put_off(world.database, run_id)
        try:
            world.runner().step()
        except Killed:
            break
        world.work()
    assert deaths == [place]
    ended = world.finish(run_id)
    assert (ended.status, world.shelf.labels) == ("succeeded", {"a": "<one>", "b": "<TWO>", "d": "<four>"})
    assert world.labelled == ["a", "b", "c", "b", "d"]
    assert ended.counts["documents"]["gone"] == 1
    world.night(2)
    assert world.labelled == ["a", "b", "c", "b", "d"]


def test_a_process_that_was_given_up_for_dead_ends_no_run_when_it_comes_back(world: World) -> None:
    world.schedule()
    [run_id] = tick(world.database, at=MIDNIGHT)
    old = transact(world.database, lambda connection: runs.claim(connection, owner="old", lease=30.0))
    assert old is not None
    assert transact(world.database, lambda connection: runs.claim(connection, owner="new", lease=30.0)) is None
    put_off(world.database, run_id)
    new = transact(world.database, lambda connection: runs.claim(connection, owner="new", lease=30.0))
    assert new is not None
    with pytest.raises(LeaseLost):
        transact(world.database, lambda connection: runs.end(connection, old, "failed"))
    assert world.finish(run_id).status == "succeeded"


def set_clock_back(world: World, seconds: float) -> None:
    """As if the database's clock had been set back by so many seconds: what is written lies ahead by them."""
    with world.database.begin() as connection:
        for column in ("lease_until", "created_at", "started_at"):
            connection.exec_driver_sql(f"UPDATE runs SET {column} = {column} + {seconds}")
        connection.exec_driver_sql(f"UPDATE runs SET not_before = not_before + {seconds} WHERE not_before > 0")


def test_a_dead_process_does_not_hold_a_run_for_as_long_as_the_clock_is_set_back(world: World) -> None:
    lease = 0.5
    for name in ("dead", "living"):
        world.schedule(name=name)
    tick(world.database, at=MIDNIGHT)

    def claimed(owner: str) -> Held | None:
        return transact(world.database, lambda connection: runs.claim(connection, owner=owner, lease=lease))

    dead, living = claimed("dead"), claimed("living")
    assert dead is not None
    assert living is not None
    set_clock_back(world, 3600)
    assert claimed("other") is None, "those that live get the time to renew theirs"
    transact(world.database, lambda connection: runs.renew(connection, living, lease=30.0))
    time.sleep(lease)
    taken = claimed("other")
    assert taken is not None
    assert taken.run.id == dead.run.id
    assert claimed("other") is None


def test_a_run_that_was_put_off_before_the_clock_was_set_back_is_not_put_off_for_as_long(world: World) -> None:
    world.schedule()
    tick(world.database, at=MIDNIGHT)

    def claimed() -> Held | None:
        return transact(world.database, lambda connection: runs.claim(connection, owner="me", lease=30.0))

    held = claimed()
    assert held is not None
    transact(world.database, lambda connection: runs.release(connection, held, after=60.0))
    assert claimed() is None
    set_clock_back(world, 3600)
    assert claimed() is not None


def test_the_documents_of_a_run_that_has_still_to_submit_its_job_are_not_abandoned(world: World) -> None:
    world.schedule()
    world.shelf.documents = {"a": "one"}
    tick(world.database, at=MIDNIGHT)
    held = transact(world.database, lambda connection: runs.claim(connection, owner="me", lease=30.0))
    assert held is not None

    def corpus(connection: Any) -> None:
        corpora.create(
            connection, id="corpus_a", name=None, format="jsonl", encoding=None, bytes=1, sha256="0" * 64, options={},
            inline=True,
        )  # fmt: skip
        runs.advance(connection, held, corpus_id="corpus_a")

    transact(world.database, corpus)
    with reading(world.database) as connection:
        assert corpora.abandoned(connection, older=-60.0) == []
    transact(world.database, lambda connection: runs.end(connection, held, "failed"))
    with reading(world.database) as connection:
        assert corpora.abandoned(connection, older=-60.0) == ["corpus_a"]


def test_a_job_that_somebody_paused_by_hand_is_left_paused(world: World) -> None:
    world.schedule()
    world.shelf.documents = {"a": "one"}
    [run_id] = tick(world.database, at=MIDNIGHT)
    while world.run(run_id).job_id is None:
        put_off(world.database, run_id)
        world.runner().step()
    job_id = world.run(run_id).job_id or ""
    transact(world.database, lambda connection: job_moves.request_pause(connection, job_id))
    put_off(world.database, run_id)
    world.runner().step()
    with reading(world.database) as connection:
        assert jobs.get(connection, job_id).status == "paused"


def test_another_source_is_read_from_its_beginning_also_where_a_run_of_the_one_before_ends_later(world: World) -> None:
    schedule = world.schedule()
    world.shelf.complete = False
    world.shelf.documents = {"a": "one"}
    world.night(0)
    [second] = tick(world.database, at=MIDNIGHT + DAY)
    other = schedule.definition.model_copy(
        update={"source": schedule.definition.source.model_copy(update={"name": "y"})}
    )  # fmt: skip
    with reading(world.database) as connection:
        now_ = schedules.get(connection, schedule.id)
    transact(
        world.database,
        lambda connection: schedules.change(connection, now_, other, next_fire_at=now_.next_fire_at),
    )  # fmt: skip
    world.finish(second)
    world.night(2)
    world.night(3)
    assert world.shelf.since == [None, None, None, {"read": 1}]


def test_a_schedule_that_is_deleted_takes_its_runs_along_and_a_runner_at_one_of_them_stops(world: World) -> None:
    schedule = world.schedule()
    world.shelf.documents = {"a": "one"}
    [run_id] = tick(world.database, at=MIDNIGHT)
    world.shelf.trouble = []
    deleted = threading.Event()
    read = world.shelf.read

    def reads(since: Mapping[str, Any] | None) -> Iterator[SourceDocument]:
        transact(world.database, lambda connection: schedules.remove(connection, schedule.id))
        deleted.set()
        return read(since)

    world.shelf.read = reads  # type: ignore[method-assign]
    assert world.runner().step()
    assert deleted.is_set()
    with pytest.raises(NotFound):
        world.run(run_id)
    assert not world.runner().step()
