"""Nights on another clock: a shop whose table changes every day, two schedules over it, and two tickers each night.

Keeps, beside the system, what each schedule should have done, so that every night can be held against it: which documents
were new, which are gone, and that none was labelled twice with the same text and revision. A test file imports nothing of
the product but the running system.
"""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from .programs import environment, until
from .stack import PATIENCE, ROOT, Stack

MODEL = "nightly/classifier"
WORDS = [
    "room",
    "clean",
    "staff",
    "kind",
    "week",
    "lift",
    "broken",
    "heating",
    "phone",
    "film",
    "winter",
    "ending",
    "battery",
    "days",
    "train",
    "late",
    "food",
    "good",
]
#: A schedule by name: its zone, and what it does with a new revision.
SCHEDULES = {"berlin": ("Europe/Berlin", "relabel"), "sydney": ("Australia/Sydney", "keep")}


@dataclass
class Shop:
    """Somebody else's database: the table `reviews`, which grows and changes, and the tables of labels beside it."""

    path: Path
    draw: random.Random = field(default_factory=lambda: random.Random(5))
    texts: int = 0

    def __post_init__(self) -> None:
        with closing(self._connect()) as connection, connection:
            connection.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, body TEXT NOT NULL, stars INTEGER)")

    def rows(self) -> dict[str, str]:
        """The texts by id, as documents have them."""
        with closing(self._connect()) as connection:
            return {str(id): body for id, body in connection.execute("SELECT id, body FROM reviews ORDER BY id")}

    def labels(self, name: str) -> dict[str, dict[str, Any]]:
        """A schedule's table of labels by document id."""
        with closing(self._connect()) as connection:
            connection.row_factory = sqlite3.Row
            found = [dict(row) for row in connection.execute(f'SELECT * FROM "{name}_labels"')]
        return {str(row["document_id"]): row for row in found}

    def day(self, new: int) -> None:
        """A day's business: rows come, two are edited, one is deleted, one says what another says."""
        with closing(self._connect()) as connection, connection:
            ids = [id for (id,) in connection.execute("SELECT id FROM reviews ORDER BY id")]
            for id in self.draw.sample(ids, min(2, len(ids))):
                connection.execute("UPDATE reviews SET body = ? WHERE id = ?", (self._text(), id))
            if len(ids) > 5:
                connection.execute("DELETE FROM reviews WHERE id = ?", (self.draw.choice(ids),))
            texts = [self._text() for _ in range(new)]
            rows = [(text, self.draw.randint(1, 5)) for text in [*texts, texts[0]]]
            connection.executemany("INSERT INTO reviews (body, stars) VALUES (?, ?)", rows)

    def _text(self) -> str:
        self.texts += 1
        return " ".join([*self.draw.choices(WORDS, k=self.draw.randint(5, 40)), str(self.texts)])

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=60)


@dataclass
class Kept:
    """What a schedule should have of each document: its text, and the revision that labelled it."""

    id: str
    relabel: bool
    documents: dict[str, tuple[str, str]] = field(default_factory=dict)
    ever: set[tuple[str, str, str]] = field(default_factory=set)
    fired: list[str] = field(default_factory=list)


@dataclass
class Month:
    """The running system, the shop, and what each schedule should have done so far."""

    stack: Stack
    shop: Shop
    settings: dict[str, str]
    kept: dict[str, Kept] = field(default_factory=dict)

    def begin(self) -> None:
        for name, (zone, policy) in SCHEDULES.items():
            answer = self.stack.http.post("/api/v1/schedules", json=definition(name, zone, policy))
            assert answer.status_code == 201, answer.text
            self.kept[name] = Kept(answer.json()["id"], policy == "relabel")

    def tick(self, at: datetime, tickers: int = 2, meanwhile: Callable[[], None] | None = None) -> list[int]:
        """Processes that tick at the same time, with something that happens meanwhile; their exit codes."""
        command = [sys.executable, "-m", "cli", "schedule", "tick", "--at", at.isoformat(), "--json"]
        running = [
            subprocess.Popen(
                command, cwd=ROOT, env=environment(**self.settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(tickers)
        ]  # fmt: skip
        try:
            if meanwhile is not None:
                meanwhile()
            said = [process.communicate(timeout=PATIENCE) for process in running]
        finally:
            for process in running:
                process.kill()
                process.wait()
        for process, (out, err) in zip(running, said, strict=True):
            assert process.returncode in (0, 1, 3), f"{out}\n{err}\n{self.stack.logs()}"
            json.loads(out)
        return [process.returncode for process in running]

    def runs(self, name: str) -> list[dict[str, Any]]:
        """A schedule's runs, oldest first."""
        found: list[dict[str, Any]] = self.stack.get(f"/schedules/{self.kept[name].id}/runs", limit=1000)["data"]
        return found[::-1]

    def check(self, name: str, slots: list[datetime]) -> dict[str, Any] | None:
        """Hold a schedule's last run against what should have come of its new `slots`, of which there is one or none."""
        kept, table = self.kept[name], self.shop.rows()
        kept.fired += [slot.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") for slot in slots]
        found = self.runs(name)
        assert [run["fire_time"] for run in found] == kept.fired, (name, found)
        if not slots:
            return None
        run = found[-1]
        assert (run["status"], run["error"]) == ("succeeded", None), (run, self.stack.logs())
        job = self.stack.get(f"/jobs/{run['job']}") if run["job"] else None
        revision = job["model"]["revision"] if job else ""
        wanted = {id for id, text in table.items() if self._wanted(kept, id, text, revision)}
        gone = kept.documents.keys() - table.keys()
        results = self.stack.results(run["job"]) if job else []
        assert sorted(result["id"] for result in results) == sorted(wanted), (name, run)
        counts = run["counts"]
        assert (run["new_documents"], counts["gone"]) == (len(wanted), len(gone)), (name, run)
        self._adds_up(run, len(table))
        for id in wanted:
            labelled = (id, table[id], revision)
            assert labelled not in kept.ever, f"labelled twice: {labelled}"
            kept.ever.add(labelled)
            kept.documents[id] = (table[id], revision)
        for id in gone:
            del kept.documents[id]
        labels = self.shop.labels(name)
        assert labels.keys() == table.keys(), name
        assert {id: row["model_revision"] for id, row in labels.items()} == {
            id: revision for id, (_, revision) in kept.documents.items()
        }
        return run

    @staticmethod
    def _wanted(kept: Kept, id: str, text: str, revision: str) -> bool:
        there = kept.documents.get(id)
        return there is None or there[0] != text or (kept.relabel and there[1] != revision)

    @staticmethod
    def _adds_up(run: dict[str, Any], read: int) -> None:
        counts, figures = run["counts"], run["report"]["figures"]
        shown = {name: count for name, count in run["report"]["counts"].items() if name in counts}
        taken = counts["new"] + counts["changed"] + counts["relabelled"]
        assert counts["read"] == read == taken + counts["unchanged"] + counts["repeated"]
        assert taken == counts["succeeded"] + counts["failed"] == counts["ran"] + counts["reused"]
        assert counts["failed"] == 0
        assert shown == counts
        assert {name: figures[name] for name in counts} == counts
        assert run["report"]["broken"] == []

    def labelled_from_scratch(self, model: str, rows: dict[str, str]) -> dict[str, str]:
        """What the model says of each text in one job that knows of nothing before it."""
        documents = [{"id": id, "text": text} for id, text in rows.items()]
        job = self.stack.submit(task="classification", model=model, documents=documents)
        assert self.stack.wait(job["id"])["status"] == "completed"
        return {result["id"]: result["output"]["label"] for result in self.stack.results(job["id"])}

    def kill_worker_at_work(self) -> None:
        """SIGKILL the workers while a job of tonight has some of its documents done, and not all."""

        def half_done() -> bool:
            return any(
                0 < job["counts"]["succeeded"] < job["counts"]["total"]
                for job in self.stack.get("/jobs", status="running")["data"]
            )

        until(half_done, what="a job is at work")
        self.stack.kill_workers()


def definition(name: str, zone: str, policy: str) -> dict[str, Any]:
    """A schedule over the shop's reviews, at half past two on the clock of its zone, in the two months of these nights: on
    most days the real clock fires none meanwhile."""
    return {
        "name": name, "cron": "30 2 * 3,4 *", "timezone": zone, "on_new_revision": policy,
        "source": {"type": "sql", "place": "shop", "table": "reviews", "key": "id", "text_field": "body",
                   "sync": "mirror"},
        "job": {"task": "classification", "model": MODEL},
        "sinks": [{"type": "table", "place": "shop", "table": f"{name}_labels"}],
        "report": {"fail_if": [{"figure": "failed", "above": 0}]},
    }  # fmt: skip


def slots(zone: str, after: datetime, until_: datetime) -> list[datetime]:
    """Half past two of each day on the zone's clock after an instant and up to another, by the calendar alone: the first of
    two such moments, and where there is none the moment at which the clock jumps."""
    where, found = ZoneInfo(zone), []
    day = after.astimezone(where).date() - timedelta(days=1)
    while day <= until_.astimezone(where).date() + timedelta(days=1):
        moment = datetime(day.year, day.month, day.day, 2, 30, tzinfo=where)
        if moment.astimezone(UTC).astimezone(where).replace(tzinfo=None) != moment.replace(tzinfo=None):
            moment = datetime(day.year, day.month, day.day, 3, 0, tzinfo=where)
        if after < moment.astimezone(UTC) <= until_:
            found.append(moment)
        day += timedelta(days=1)
    return found
