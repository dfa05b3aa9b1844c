"""Runs that are cut off, taken over, put off or given up: what is delivered stays right, and nothing is forgotten."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from corpora import Store
from corpusmill.errors import BrokerUnavailable, LeaseLost, PlaceUnavailable
from corpusmill.settings import Settings
from db import corpora, ingest, jobs, runs
from db.engine import Engine, reading, transact
from db.tables import runs as table
from pipeline import labelling
from pipeline import reading as reading_source
from pipeline.places import aside
from pipeline.running import Runner
from pipeline.sinks import Delivered
from pipeline.ticking import tick
from tests.integration.programs import sweep
from tests.integration.world import DAY, MIDNIGHT, Killed, World, put_off

MANY = 600


def held_by(world: World, run_id: str) -> str | None:
    with reading(world.database) as connection:
        owner: str | None = connection.scalar(select(table.c.owner).where(table.c.id == run_id))
    return owner


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


def stalls(world: World, meanwhile: Callable[[], None]) -> None:
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


def test_a_process_that_was_given_up_for_dead_writes_no_old_text_over_a_new_one(world: World) -> None:
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


def test_a_process_that_was_given_up_for_dead_takes_out_no_document_that_has_come_back(world: World) -> None:
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


def test_a_process_that_learns_that_its_lease_is_lost_stops_at_the_next_page(world: World) -> None:
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


def test_a_report_that_cannot_be_written_is_kept_and_its_night_is_compared_with(world: World, tmp_path: Path) -> None:
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


def test_a_document_whose_failure_may_pass_is_tried_again_also_where_the_source_is_appended(world: World) -> None:
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


def test_a_document_that_always_fails_holds_an_appended_source_for_some_nights_only(world: World) -> None:
    world.schedule()
    world.shelf.complete = False
    world.shelf.documents = {"a": "bad again"}
    for number in range(6):
        world.night(number, broken="bad")
        world.shelf.documents.setdefault("b", "good")
    assert world.shelf.since[:4] == [None] * 4
    assert world.shelf.since[4] is not None
    assert world.labelled.count("b") == 1


def test_the_place_that_an_appended_source_is_held_at_is_the_one_before_the_failures(world: World) -> None:
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
    world: World, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.parametrize("opened", [False, True])
def test_a_run_waits_with_its_labels_while_the_folder_of_all_corpora_is_not_there(
    world: World, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    world.schedule()
    world.shelf.documents = {"a": "one"}
    [run_id] = tick(world.database, at=MIDNIGHT)
    labelled(world, run_id)
    folder, read = world.settings.data_dir / "corpora", Store.documents
    aside = folder.with_name("elsewhere")

    def unmounted(self: Store, *given: Any) -> Any:
        if folder.exists():
            folder.rename(aside)
        return read(self, *given)

    with monkeypatch.context() as patch:
        if opened:
            patch.setattr(Store, "documents", unmounted)
        else:
            folder.rename(aside)
        world.runner().step()
    assert (world.run(run_id).status, world.run(run_id).failures) == ("running", 1)
    aside.rename(folder)
    assert world.finish(run_id).status == "succeeded"
    assert world.shelf.labels == {"a": "<one>"}


@pytest.mark.parametrize("where", ["source", "ledger"])
def test_a_source_that_is_read_for_hours_loses_nothing_to_a_sweeper(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    uploads = world.settings.data_dir / "uploads"

    def hours_later() -> None:
        for path in uploads.iterdir():
            os.utime(path, (1, 1))
        sweep(world.database, world.settings.data_dir)

    def slowly(self: Any, *given: Any) -> Any:
        hours_later()
        return look(self, *given)

    read, look = world.shelf.read, reading_source._Scan.look_for_gone
    if where == "ledger":
        monkeypatch.setattr(reading_source._Scan, "look_for_gone", slowly)
    else:
        world.shelf.read = lambda since: (hours_later() or each for each in read(since))  # type: ignore[method-assign, func-returns-value]
    world.schedule()
    world.shelf.documents = {"a": "one", "b": "two"}
    run = world.night(0)
    assert (run.status, run.failures) == ("succeeded", 0)
    assert world.shelf.labels == {"a": "<one>", "b": "<two>"}
    (uploads / f"{run.corpus_id}-7.part").touch()  # as of an attempt that was cut off
    hours_later()
    assert list(uploads.iterdir()) == []


def test_a_process_that_dies_once_it_has_kept_what_it_read_is_followed_by_one_that_reads_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The corpus may have been read from the upload by then, and the source holds more."""
    world.schedule()
    world.shelf.complete = False
    world.shelf.documents = {"a": "one"}
    [run_id] = tick(world.database, at=MIDNIGHT)

    def dies(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "_after", dies)
        with pytest.raises(Killed):
            world.runner().step()
    ingest.run(world.database, world.settings, world.run(run_id).corpus_id or "")
    world.shelf.documents = {"a": "one", "b": "two"}
    assert world.finish(run_id).status == "succeeded"
    world.night(1)
    assert world.shelf.since == [None, {"read": 1}]
    assert world.shelf.labels == {"a": "<one>", "b": "<two>"}


@pytest.mark.parametrize("code", ["reader_failed", "reader_lost", "upload_lost"])
def test_documents_that_could_not_be_read_into_a_corpus_fail_their_run_and_come_again_in_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch, code: str
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
def test_a_run_whose_job_has_ended_gives_way_at_once(world: World, deleted: bool) -> None:
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


def test_faults_in_passing_do_not_add_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_run_that_fails_while_its_job_runs_takes_it_with_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert world.job_of(run_id).status == "cancelled"


def test_a_process_that_is_to_end_gives_back_what_it_holds_before_it_does(world: World) -> None:
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
