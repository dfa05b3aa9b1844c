"""A world for the tests of nights: our tables, a source and a sink in memory, a worker, and a clock that is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from corpora import Store
from corpusmill.documents import unusable
from corpusmill.ids import new_id
from corpusmill.schedules import parse_definition
from corpusmill.settings import Settings
from db import jobs, runs, schedules, shards, turns
from db.corpora import store_directory
from db.engine import Engine, reading, transact
from db.results import ResultRow
from db.runs import Run
from db.schedules import Schedule
from pipeline.review import open_reviewers
from pipeline.running import Parts, Runner
from pipeline.sinks import Delivered
from pipeline.sources import SourceDocument
from pipeline.ticking import next_fire, tick

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

    def job_of(self, run_id: str) -> jobs.Job:
        with reading(self.database) as connection:
            return jobs.get(connection, self.run(run_id).job_id or "")

    def runs(self, schedule: Schedule) -> list[Run]:
        with reading(self.database) as connection:
            return runs.page(connection, schedule.key, before=None, limit=100)[::-1]

    def work(self, label: Callable[[str], str] = lambda text: f"<{text}>", broken: str = "") -> None:
        """Be the worker: every shard that waits, each text labelled; `broken` texts fail."""
        while claim := transact(
            self.database, lambda connection: turns.claim_next(connection, owner="worker", lease=30)
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
