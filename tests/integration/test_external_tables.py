"""Other people's tables that results are written to, over by document id, on both databases."""

from __future__ import annotations

import json
import threading
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from corpusmill.errors import PlaceFault, PlaceUnavailable
from corpusmill.settings import Settings
from db.engine import Engine
from db.external import Column, LabelTable, engine
from pipeline.review import open_reviewers
from pipeline.running import Parts, Runner
from pipeline.sinks import open_sink
from pipeline.sources import open_source
from tests.integration.their_tables import delivered, do, sink, table
from tests.integration.world import Shelf, World


def test_a_row_that_a_table_refuses_is_quoted_nowhere(theirs: Engine, database_url: str) -> None:
    do(theirs, "CREATE TABLE labels (id VARCHAR(99) PRIMARY KEY, body TEXT CHECK (length(body) < 5))")
    labels, word = (
        LabelTable(database_url, "day", "labels", [Column("id", "text"), Column("body", "text")]),
        uuid4().hex,
    )
    with pytest.raises(PlaceFault, match="The database day says") as error:
        labels.write([{"id": word, "body": word}])
    assert word not in "".join(traceback.format_exception(error.value))


def test_a_table_that_somebody_else_holds_is_not_waited_for_without_end(
    theirs: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink(database_url).deliver([delivered("a")], [])
    monkeypatch.setattr(engine, "_STATEMENT_SECONDS", 0.2)
    monkeypatch.setitem(engine._DEADLINES, "pysqlite", {"timeout": 0.2})
    found = sink(database_url)
    with theirs.begin() as connection:
        connection.exec_driver_sql("UPDATE labels SET label = 'theirs'")
        with pytest.raises((PlaceFault, PlaceUnavailable), match=r"took too long|database is locked"):
            found.deliver([delivered("a")], [])


def test_a_table_is_made_filled_written_over_and_emptied(theirs: Engine, database_url: str) -> None:
    sink(database_url).deliver([delivered("a"), delivered("b", "neg")], [])
    rows = table(theirs)
    assert {id: (row.label, row.score, row.model, row.model_revision, row.run) for id, row in rows.items()} == {
        "a": ("pos", 0.5, "m", "r", "run_a"), "b": ("neg", 0.5, "m", "r", "run_a"),
    }  # fmt: skip
    assert rows["a"].output == {"label": "pos", "scores": {"pos": 0.5, "a�b": 0.25}}
    moment = rows["a"].labelled_at
    assert (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) == datetime.fromtimestamp(1_774_738_800.25, UTC)
    again = [
        delivered("b", None, output=None, score=None, status="failed", error={"code": "too_long", "message": ""}),
        delivered("c"),
        delivered("c", "neg"),
    ]
    for _ in range(2):
        sink(database_url).deliver(iter(again), iter(["a", "never"]))
    rows = table(theirs)
    assert {id: (row.status, row.label, row.output is None, row.error) for id, row in rows.items()} == {
        "b": ("failed", None, True, "too_long"), "c": ("succeeded", "pos", False, None),
    }  # fmt: skip


_OTHERS = (
    "status TEXT, label VARCHAR(20), output TEXT, error TEXT, model TEXT, model_revision TEXT, run TEXT, "
    "labelled_at TEXT"
)


def test_a_table_of_their_own_is_filled_with_what_its_columns_take(theirs: Engine, database_url: str) -> None:
    do(
        theirs,
        f"CREATE TABLE mine (document_id VARCHAR(50) NOT NULL UNIQUE, score REAL, {_OTHERS}, more TEXT)",
    )
    sink(database_url, "mine").deliver([delivered("a")], [])
    do(theirs, "UPDATE mine SET more = 'theirs'")
    sink(database_url, "mine").deliver([delivered("a", "neg")], [])
    row = table(theirs, "mine")["a"]
    assert (row.label, row.more, row.labelled_at) == ("neg", "theirs", "2026-03-28T23:00:00.250+00:00")
    assert json.loads(row.output)["label"] == "neg"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("document_id TEXT PRIMARY KEY, label TEXT", "lacks status, score"),
        (
            f"document_id TEXT PRIMARY KEY, score TEXT, {_OTHERS}",
            "score of mine is .* a floating-point number",
        ),
        (
            f"document_id TEXT, score REAL, {_OTHERS}",
            "not unique",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused_before_anything_is_written(
    theirs: Engine, database_url: str, columns: str, said: str
) -> None:
    do(theirs, f"CREATE TABLE mine ({columns})")
    with pytest.raises(PlaceFault, match=said):
        sink(database_url, "mine")


def test_two_may_make_and_fill_one_table_at_once(theirs: Engine, database_url: str) -> None:
    start, errors = threading.Barrier(3), []

    def work(order: int) -> None:
        ids = [f"d{number}" for number in range(300)]
        start.wait()
        try:
            sink(database_url).deliver([delivered(id, str(order)) for id in ids[:: (-1) ** order]], [])
        except Exception as error:  # noqa: BLE001 — it is the test's to show
            errors.append(error)

    threads = [threading.Thread(target=work, args=(order,)) for order in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(table(theirs)) == 300


def test_databases_without_an_upsert_are_updated_or_inserted_into(
    theirs: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = (Column("document_id", "text"), Column("label", "text"), Column("score", "number"))
    found = LabelTable(database_url, "day", "plain", columns)
    monkeypatch.setattr(found, "_dialect", lambda connection: None)
    rows = [{"document_id": id, "label": "x", "score": 0.5} for id in "ab"]
    found.write(rows)
    found.write([rows[0] | {"label": "y"}, {"document_id": "c", "label": "z", "score": None}])
    assert {id: row.label for id, row in table(theirs, "plain").items()} == {"a": "y", "b": "x", "c": "z"}


_EDITS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["put", "put", "put", "delete", "empty"]), st.integers(0, 6), st.integers(0, 3)),
        max_size=6,
    ),
    min_size=1,
    max_size=4,
)


class Real(World):
    """A world whose source and sink are real tables."""

    def runner(self, clock: Any = None) -> Runner:
        parts = Parts(open_source=open_source, open_sink=open_sink, open_reviewers=open_reviewers)
        return Runner(settings=self.settings, database=self.database, parts=parts, clock=clock)


@settings(
    max_examples=5, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(nights=_EDITS)
def test_a_mirror_ends_as_a_labelling_of_the_final_table_from_scratch(
    database: Engine, database_url: str, tmp_path: Path, nights: list[list[tuple[str, int, int]]]
) -> None:
    """Rows are written, edited back and forth, emptied and deleted; each night only what changed is labelled."""
    name = f"reviews_{len(sa.inspect(database).get_table_names())}"
    do(database, "DELETE FROM schedules", f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, text TEXT)")
    world = Real(database, Settings(data_dir=tmp_path / "data", places_file=tmp_path / "places.toml"), Shelf())
    (tmp_path / "places.toml").write_text(f'[databases.day]\nurl = "{database_url}"\n')
    world.schedule(
        name=name, source={"type": "sql", "place": "day", "table": name, "key": "id", "sync": "mirror", "most_gone": 1},
        sinks=[{"type": "table", "place": "day", "table": f"labels_of_{name}"}],
    )  # fmt: skip
    for number, edits in enumerate(nights):
        for what, key, text in edits:
            do(database, f"DELETE FROM {name} WHERE id = {key}")
            if what != "delete":
                do(
                    database,
                    f"INSERT INTO {name} VALUES ({key}, {'NULL' if what == 'empty' else repr(f'text {text}')})",
                )
        run = world.night(number)
        assert run.status == "succeeded", run.error
        with database.connect() as connection:
            there = connection.exec_driver_sql(f"SELECT id, text FROM {name} WHERE text IS NOT NULL")
            expected = {str(row.id): f"<{row.text}>" for row in there}
        assert {id: row.label for id, row in table(database, f"labels_of_{name}").items()} == expected
