"""A schedule from its file to the labels in the shop's own table, on the command line and in the client."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from corpusmill_client import Client

from .programs import command
from .stack import PATIENCE, ROOT, Stack, started

FILE = """
name = "reviews"
cron = "30 2 * * *"
timezone = "Europe/Berlin"
on_new_revision = "relabel"
[source]
type = "sql"
place = "shop"
table = "reviews"
key = "id"
text_field = "body"
sync = "mirror"
[job]
task = "classification"
model = "echo"
[[sinks]]
type = "table"
place = "shop"
table = "labels"
[[sinks]]
type = "files"
place = "out"
path = "labels-{run}.jsonl"
format = "jsonl"
[report]
fail_if = [{ figure = "gone", above = 0 }]
to = { place = "out", path = "report-{run}" }
"""


@dataclass
class Here:
    """A running system, the shop's database beside it, and the command line."""

    stack: Stack
    folder: Path

    def sql(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.folder / "shop.sqlite3", timeout=30)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # with the client of this checkout, whichever is installed
        paths = os.pathsep.join([str(ROOT), str(ROOT / "client")])
        return command("schedule", *arguments, CORPUSMILL_URL=self.stack.url, PYTHONPATH=paths)

    def write(self, text: str) -> str:
        (self.folder / "reviews.toml").write_text(text)
        return str(self.folder / "reviews.toml")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    folder = tmp_path_factory.mktemp("schedules")
    (folder / "out").mkdir()
    places = folder / "places.toml"
    places.write_text(
        f'[databases.shop]\nurl = "sqlite:///{folder / "shop.sqlite3"}"\n[folders.out]\npath = "{folder / "out"}"\n'
    )
    settings = {"sweep_seconds": "0.5", "lease_seconds": "5", "places_file": str(places)}
    with started(folder / "data", "--workers", "1", **settings) as stack:
        made = Here(stack, folder)
        made.sql("CREATE TABLE reviews (id INTEGER PRIMARY KEY, body TEXT)")
        for body in ("good", "bad", "good"):
            made.sql("INSERT INTO reviews (body) VALUES (?)", body)
        yield made


def test_a_schedule_lives_in_a_file_and_its_runs_decide_exit_codes(here: Here) -> None:
    file = here.write(FILE)
    tried = here.cli("apply", file, "--dry-run")
    assert (tried.returncode, '+name = "reviews"' in tried.stdout, "not done" in tried.stderr) == (0, True, True)
    made = here.cli("apply", file)
    assert made.returncode == 0, made.stderr
    assert made.stderr.startswith("reviews: created; fires ")
    again = here.cli("apply", file)
    assert (again.returncode, again.stdout) == (0, "")
    assert again.stderr.startswith("reviews: unchanged")
    changed = here.cli("apply", here.write(FILE.replace("30 2", "45 3")))
    assert [line for line in changed.stdout.splitlines()[2:] if line[0] in "+-"] == [
        '-cron = "30 2 * * *"', '+cron = "45 3 * * *"'
    ]  # fmt: skip
    refused = here.cli("apply", here.write(FILE.replace('place = "out"', 'place = "outt"', 1)))
    assert (refused.returncode, "Did you mean out?" in refused.stderr) == (1, True)
    wrong = here.cli("apply", here.write(FILE.replace("text_field", "text_feild")))
    assert (wrong.returncode, "text_field?" in wrong.stderr) == (2, True)  # its lines are broken to fit a terminal
    (here.folder / "shown.toml").write_text(here.cli("show", "reviews").stdout)
    assert here.cli("apply", str(here.folder / "shown.toml")).stderr.startswith("reviews: unchanged")

    first = here.cli("run", "reviews", "--wait", "--json")
    assert first.returncode == 0, first.stderr
    run = json.loads(first.stdout)
    assert (run["new_documents"], run["reused_documents"], run["report"]["broken"]) == (3, 0, [])
    assert [id for (id,) in here.sql("SELECT document_id FROM labels ORDER BY document_id")] == ["1", "2", "3"]
    lines = (here.folder / "out" / f"labels-{run['id']}.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert (here.folder / "out" / f"report-{run['id']}.md").read_text().startswith("# reviews")

    here.sql("INSERT INTO reviews (body) VALUES ('')")
    here.sql("INSERT INTO reviews (body) VALUES ('good')")
    failed = here.cli("run", "reviews", "--wait")
    assert (failed.returncode, "failed documents\t1" in failed.stdout) == (3, True), failed.stdout + failed.stderr
    here.sql("DELETE FROM reviews WHERE id = 1")
    broken = here.cli("run", "reviews", "--wait")
    assert (broken.returncode, "gone is 1, above 0" in broken.stderr) == (1, True)
    assert here.sql("SELECT count(*) FROM labels WHERE document_id = '1'") == [(0,)]

    listed = here.cli("runs", "reviews", "--json")
    runs = json.loads(listed.stdout)["data"]
    assert [(run["status"], run["new_documents"]) for run in runs] == [
        ("succeeded", 0),
        ("succeeded", 2),
        ("succeeded", 3),
    ]
    assert runs[1]["reused_documents"] == 1

    off = here.cli("disable", "reviews")
    assert (off.returncode, off.stdout.split()[1]) == (0, "disabled")
    assert "reviews" in here.cli("list").stdout
    assert "fires" in here.cli("enable", "reviews").stdout
    assert here.cli("run", "no-such").returncode == 1
    assert here.cli("delete", "reviews").returncode == 0
    assert here.cli("show", "reviews").returncode == 1


def test_uploads_of_the_day_are_labelled_at_night_through_the_client(here: Here) -> None:
    definition = {
        "name": "uploads", "cron": "0 1 * * *", "source": {"type": "corpus", "name": "today"},
        "job": {"task": "classification", "model": "echo"},
        "sinks": [{"type": "table", "place": "shop", "table": "uploaded"}],
    }  # fmt: skip
    with Client(here.stack.url) as client:
        schedule = client.create_schedule(definition)
        assert len(schedule.next_fires) == 5
        client.upload([{"id": "a", "text": "one"}, {"id": "b", "text": "two"}], name="today")
        client.upload([{"id": "x", "text": "other"}], name="another")
        first = schedule.run().wait(PATIENCE)
        client.upload([{"id": "b", "text": "TWO"}, {"id": "c", "text": "three"}], name="today")
        second = schedule.run(key="tonight").wait(PATIENCE)
        again = schedule.run(key="tonight").wait(PATIENCE)
        assert (again.id, again.status, again.exit_code) == (second.id, second.status, second.exit_code)
        assert [(run.status, run.new_documents, run.exit_code) for run in (first, second)] == [("succeeded", 2, 0)] * 2
        assert [run.id for run in schedule.runs()] == [second.id, first.id]
        assert schedule.get_run(first.id).job == first.job
        assert not schedule.change(enabled=False).enabled
        assert client.schedule(schedule.id).next_fires == ()
        schedule.delete()
        assert list(client.schedules(name="uploads")) == []
    assert here.sql("SELECT document_id FROM uploaded ORDER BY document_id") == [("a",), ("b",), ("c",)]
