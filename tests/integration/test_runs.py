"""Slots, runs and the ledger, on both databases: each slot once, each change once, whoever is cut off and wherever."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from corpora import Store
from corpusmill.documents import unusable
from corpusmill.errors import Conflict, LeaseLost, NotFound, PlaceFault, PlaceUnavailable
from corpusmill.ids import new_id
from corpusmill.schedules import parse_definition
from corpusmill.settings import Settings
from db import corpora, job_moves, jobs, ledger, runs, schedules, shards
from db.corpora import store_directory
from db.engine import Engine, now, reading, transact
from db.results import ResultRow
from db.runs import Run
from db.schedules import Schedule
from pipeline.review import open_reviewers
from pipeline.running import Parts, Runner
from pipeline.sinks import Delivered
from pipeline.sources import SourceDocument
from pipeline.ticking import next_fire, run_now, tick

DAY = 86_400.0
MIDNIGHT = datetime(2030, 1, 1, tzinfo=UTC).timestamp()


class Killed(BaseException):
    """Ends a stage where it stands, as a signal would: nothing of ours catches it."""


@dataclass
class Shelf:
    """A source and a sink in memory, which do what they are told to; `taken` is what the sink has been given."""

    documents: dict[str, str] = field(default_factory=dict)
    pairs: dict[str, str] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)
    complete: bool = True
    trouble: list[BaseException] = field(default_factory=list)
    sink_trouble: list[BaseException] = field(default_factory=list)
    taken: dict[str, Any] = field(default_factory=dict)
    deliveries: list[list[str]] = field(default_factory=list)
    since: list[Any] = field(default_factory=list)
    unusable: int = 0

    def read(self, since: Mapping[str, Any] | None) -> Iterator[SourceDocument]:
        self.since.append(since)
        for number, id in enumerate([*self.documents, *self.repeated]):
            yield SourceDocument(
                id=id, text=self.documents[id], text_pair=self.pairs.get(id), fields={"text": "another", "n": number}
            )
        if self.trouble:
            raise self.trouble.pop(0)

    def position(self) -> Mapping[str, Any]:
        return {"read": len(self.documents)}

    def deliver(self, rows: Iterable[Delivered], gone: Iterable[str]) -> None:
        given = []
        for row in rows:
            self.taken[row.document_id] = (row.text, row.output, row.fields)
            given.append(row.document_id)
        for id in gone:
            self.taken.pop(id, None)
            given.append(f"-{id}")
        self.deliveries.append(given)
        if self.sink_trouble:
            raise self.sink_trouble.pop(0)

    @property
    def labels(self) -> dict[str, str]:
        return {id: output["label"] for id, (_, output, _) in self.taken.items()}


@dataclass
class World:
    """Our tables, a shelf beside them, and a runner that reads and fills it."""

    database: Engine
    settings: Settings
    shelf: Shelf
    labelled: list[str] = field(default_factory=list)

    def runner(self, clock: Callable[[], float] | None = None) -> Runner:
        parts = Parts(
            open_source=lambda *_, **__: self.shelf, open_sink=lambda *_, **__: self.shelf, open_reviewers=open_reviewers
        )  # fmt: skip
        return Runner(settings=self.settings, database=self.database, parts=parts, clock=clock)

    def schedule(self, **fields: Any) -> Schedule:
        definition = parse_definition(
            {
                "name": "nights", "cron": "0 0 * * *", "source": {"type": "corpus", "name": "x"},
                "job": {"task": "classification", "model": "echo"},
                "sinks": [{"type": "table", "place": "x", "table": "x"}],
            }
            | fields
        )  # fmt: skip
        schedule_id = new_id("sched")
        first = next_fire(definition, MIDNIGHT - 1)
        transact(
            self.database,
            lambda connection: schedules.create(
                connection, id=schedule_id, definition=definition, next_fire_at=first
            ),
        )  # fmt: skip
        with reading(self.database) as connection:
            return schedules.get(connection, schedule_id)

    def run(self, run_id: str) -> Run:
        with reading(self.database) as connection:
            return runs.get(connection, run_id)

    def runs(self, schedule: Schedule) -> list[Run]:
        with reading(self.database) as connection:
            return runs.page(connection, schedule.key, before=None, limit=100)[::-1]

    def work(self, label: Callable[[str], str] = lambda text: f"<{text}>", broken: str = "") -> None:
        """Be the worker: every shard that waits, each text labelled; `broken` texts fail."""
        while claim := transact(
            self.database, lambda connection: shards.claim_next(connection, owner="worker", lease=30)
        ):
            with reading(self.database) as connection:
                job = jobs.by_key(connection, claim.job_key)
            store = Store(store_directory(self.settings.data_dir, job.corpus_id))
            rows = []
            for document in store.documents(claim.slice.start, claim.slice.stop):
                refused = unusable(document)
                bad = refused is not None or (bool(broken) and broken in document.text)
                self.labelled += [] if refused else [document.id]
                rows.append(
                    ResultRow(
                        position=document.position, document_id=document.id,
                        status="failed" if bad else "succeeded",
                        output=None if bad else {"label": label(document.text), "score": 0.5},
                        error={"code": "too_long", "message": "", "retryable": "again" in document.text} if bad else None,
                        n_tokens=1, n_segments=1, truncated=False, statistics=None,
                    )
                )  # fmt: skip
            transact(
                self.database,
                lambda connection, claim=claim, rows=rows: shards.finish(  # type: ignore[misc]
                    connection, claim, rows=rows, usage={}, partial={}
                ),
            )

    def night(self, number: int, **how: Any) -> Run:
        """Fire the slot of a night and do all of it."""
        [run_id] = self.fire(number)
        return self.finish(run_id, **how)

    def fire(self, number: int) -> list[str]:
        """Fire the slot of a night."""
        return tick(self.database, at=MIDNIGHT + number * DAY)

    def finish(self, run_id: str, **how: Any) -> Run:
        runner = self.runner()
        for _ in range(200):
            put_off(self.database, run_id)
            if self.run(run_id).finished_at is not None:
                return self.run(run_id)
            runner.step()
            self.work(**how)
        raise AssertionError(self.run(run_id))


def put_off(database: Engine, run_id: str) -> None:
    """Let no run wait for its next look, nor for a lease of a process that is gone."""
    from sqlalchemy import update

    from db.tables import runs as table

    transact(
        database,
        lambda connection: connection.execute(
            update(table).where(table.c.finished_at.is_(None)).values(not_before=0.0, lease_until=None)
        ),
    )


@pytest.fixture
def world(database: Engine, tmp_path: Path) -> World:
    return World(database, Settings(data_dir=tmp_path / "data"), Shelf())


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
@pytest.mark.parametrize("committed", [False, True], ids=["before", "after"])
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


def test_a_slot_that_is_made_up_for_by_hand_waits_for_the_run_that_has_not_ended(world: World) -> None:
    schedule = world.schedule(overlap="skip")
    tick(world.database, at=MIDNIGHT)
    [by_hand] = tick(world.database, at=MIDNIGHT - DAY, by_hand=True)
    assert world.run(by_hand).status == "waiting"
    assert len(world.runs(schedule)) == 2


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
