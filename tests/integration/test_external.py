"""Other people's tables, on both databases: read by key whatever its type, and only read."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from corpora import remove_store
from corpusmill.documents import Document
from corpusmill.errors import CorpusDamaged, PlaceFault, PlaceUnavailable, ResourcesUnavailable
from corpusmill.places import Places
from corpusmill.schedules import CorpusSource
from corpusmill.settings import Settings
from db import corpora
from db.corpora import store_directory
from db.engine import POSTGRESQL_DEADLINES, Engine, transact
from db.external import Rows, engine, reading
from pipeline.sources import Source, SourceDocument, open_source
from tests.integration.steps import put
from tests.integration.their_tables import do, position, read, source


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("BIGINT", [-5, 0, 3, 2**31, 2**40]),
        ("VARCHAR(40)", ["", "A", "a", "b c", "ä", "z'\"%:x"]),
        ("NUMERIC(12,2)", [1, 2.5, 3]),
        ("TIMESTAMP", ["2026-01-01 00:00:00.000001", "2026-01-01 00:00:00.000002", "2026-02-01 00:00:00"]),
    ],
)
def test_every_row_comes_once_in_pages_of_any_size(
    theirs: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch, kind: str, keys: list[Any]
) -> None:
    do(theirs, f"CREATE TABLE reviews (id {kind} PRIMARY KEY, text TEXT)")
    with theirs.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO reviews VALUES (:id, :text)"), [{"id": key, "text": f"t{key}"} for key in keys]
        )
    for rows in (1, 2, 3, 100):
        monkeypatch.setattr(reading, "_ROWS", rows)
        found = source(database_url, table="reviews", sync="mirror")
        assert sorted(read(found).values()) == sorted(f"t{key}" for key in keys)
        appended = source(database_url, table="reviews")
        assert len(read(appended)) == len(keys)
        assert read(source(database_url, table="reviews"), position(appended)) == {}


def test_a_page_ends_with_large_texts_before_it_has_many_rows(
    theirs: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    do(theirs, "CREATE TABLE reviews (id INTEGER PRIMARY KEY, text TEXT)")
    with theirs.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO reviews VALUES (:id, :text)"), [{"id": key, "text": "x" * 100} for key in range(40)]
        )
    monkeypatch.setattr(reading, "_CHARACTERS", 450)
    pages = [len(page) for page in Rows(database_url, "day", key="id", table="reviews").pages()]
    assert pages == [5] * 8


def test_columns_become_texts_references_and_fields(theirs: Engine, database_url: str) -> None:
    array = "TEXT[]" if theirs.dialect.name == "postgresql" else "TEXT"
    value = "ARRAY['a','b']" if theirs.dialect.name == "postgresql" else '\'["a", "b"]\''
    do(
        theirs,
        f"CREATE TABLE reviews (id INTEGER PRIMARY KEY, body {array}, pair TEXT, gold TEXT, price NUMERIC, at TIMESTAMP)",
        f"INSERT INTO reviews VALUES (1, {value}, 'p', 'g', 1.5, '2026-01-02 03:04:05')",
        f"INSERT INTO reviews VALUES (2, NULL, 'p', 'g', NULL, NULL), (3, {value}, NULL, 'g', NULL, NULL)",
    )
    found = source(
        database_url, table="reviews", text_field="body", text_pair_field="pair", reference_field="gold", sync="mirror"
    )
    (document,) = found.read(None)
    assert (document.id, document.text, document.text_pair, document.reference) == ("1", '["a", "b"]', "p", "g")
    assert set(document.fields) == {"price", "at"}
    assert str(document.fields["at"]).replace("T", " ") == "2026-01-02 03:04:05"
    assert json.dumps(dict(document.fields))
    assert found.unusable == 2


def test_a_query_is_a_source_like_a_table(theirs: Engine, database_url: str) -> None:
    do(
        theirs,
        "CREATE TABLE a (id INTEGER PRIMARY KEY, body TEXT)",
        "CREATE TABLE b (a_id INTEGER, stars INTEGER)",
        "INSERT INTO a VALUES (1, 'one'), (2, 'two:x'), (3, 'three')",
        "INSERT INTO b VALUES (1, 5), (2, 1), (3, 5)",
    )
    query = "SELECT a.id, body AS text, ':x' AS mark FROM a JOIN b ON a.id = a_id WHERE body <> 'three' -- the last one"
    documents = list(source(database_url, query=query, sync="mirror").read(None))
    assert [(document.id, document.text, document.fields) for document in documents] == [
        ("1", "one", {"mark": ":x"}), ("2", "two:x", {"mark": ":x"}),
    ]  # fmt: skip


def test_a_source_changes_nothing(theirs: Engine, database_url: str) -> None:
    do(theirs, "CREATE TABLE reviews (id INTEGER PRIMARY KEY, text TEXT)", "INSERT INTO reviews VALUES (1, 'one')")
    query = "SELECT 1 AS id, 'x' AS text"
    if theirs.dialect.name == "postgresql":
        do(
            theirs,
            "CREATE FUNCTION gone() RETURNS integer LANGUAGE sql AS 'DELETE FROM reviews RETURNING id'",
        )
        with pytest.raises(PlaceFault, match="read-only"):
            read(source(database_url, query="SELECT gone() AS id, 'x' AS text", sync="mirror"))
        query = "WITH x AS (DELETE FROM reviews RETURNING id) SELECT id, 'x' AS text FROM x"
        with pytest.raises(PlaceFault):
            read(source(database_url, query=query, sync="mirror"))
    else:
        with (
            pytest.raises(PlaceFault, match="readonly"),
            engine.reading(engine.engine_of(database_url, "day")) as connection,
        ):
            connection.exec_driver_sql("DELETE FROM reviews")
    assert read(source(database_url, table="reviews")) == {"1": "one"}


def test_an_append_follows_the_watermark_and_loses_no_tie(
    theirs: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_ROWS", 2)
    do(
        theirs,
        "CREATE TABLE reviews (id VARCHAR(9) PRIMARY KEY, text TEXT, at TIMESTAMP)",
        "INSERT INTO reviews VALUES ('d', 'D', '2026-01-01 10:00:00'), ('a', 'A', '2026-01-01 10:00:00'), "
        "('b', 'B', '2026-01-01 10:00:00'), ('c', 'C', '2026-01-01 09:00:00'), ('n', 'N', NULL)",
    )
    fields = {"table": "reviews", "watermark": "at"}
    first = source(database_url, **fields)
    assert list(read(first)) == ["c", "a", "b", "d"]
    assert first.unusable == 1
    do(
        theirs,
        "INSERT INTO reviews VALUES ('aa', 'tie', '2026-01-01 10:00:00'), ('e', 'E', '2026-01-01 10:00:00.5')",
        "UPDATE reviews SET text = 'edited', at = '2026-01-01 11:00:00' WHERE id = 'c'",
    )
    second = source(database_url, **fields)
    assert read(second, position(first)) == {"a": "A", "aa": "tie", "b": "B", "d": "D", "e": "E", "c": "edited"}
    third = source(database_url, **fields)
    assert read(third, position(second)) == {"c": "edited"}
    assert third.position() == second.position()
    do(theirs, "DELETE FROM reviews WHERE at > '2026-01-01 10:30:00'")
    fourth = source(database_url, **fields)
    assert read(fourth, position(third)) == {}
    assert fourth.position() == third.position()


@pytest.mark.parametrize(
    "kind", ["REAL", "DOUBLE PRECISION", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "NUMERIC(20,10)"]
)
@pytest.mark.parametrize("values", [(0.1, 0.3), (0.7, 0.7)], ids=["above", "below"])
def test_a_watermark_is_followed_page_by_page_or_refused_where_it_is_not_what_the_driver_says(
    theirs: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch, kind: str, values: tuple[float, float]
) -> None:
    """PostgreSQL's `real` 0.1 is more than the 0.1 that comes of it, and its 0.7 is less: from there on the same page would
    come again and again, or rows would be lost."""
    monkeypatch.setattr(reading, "_ROWS", 2)
    given = [f"'2026-01-01 00:00:00.{value * 10:.0f}00001'" if "TIME" in kind else f"{value}" for value in values]
    rows = ", ".join(f"({number}, 'text', {given[number > 2]})" for number in range(6))
    do(
        theirs,
        f"CREATE TABLE reviews (id INTEGER PRIMARY KEY, text TEXT, at {kind})",
        f"INSERT INTO reviews VALUES {rows}",
    )
    followed = {"table": "reviews", "watermark": "at"}
    keyed = {"query": "SELECT DISTINCT at, text FROM reviews", "key": "at"}
    if kind == "REAL" and theirs.dialect.name == "postgresql":
        for fields in (followed, keyed):
            with pytest.raises(PlaceFault, match=r"'at' holds values .* Cast it"):
                list(itertools.islice(source(database_url, **fields).read(None), 20))
        return
    distinct = len(set(values))
    for fields, first, second in ((followed, 6, 6 // distinct), (keyed, distinct, 0)):
        found = source(database_url, **fields)
        assert len(read(found)) == first
        assert len(read(source(database_url, **fields), position(found))) == second


def test_a_key_that_is_not_unique_is_a_fault_also_between_pages(
    theirs: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    do(
        theirs,
        "CREATE TABLE reviews (id INTEGER, text TEXT)",
        "INSERT INTO reviews VALUES (1, 'a'), (2, 'b'), (2, 'c')",
    )
    for rows in (2, 100):
        monkeypatch.setattr(reading, "_ROWS", rows)
        with pytest.raises(PlaceFault, match="not unique"):
            read(source(database_url, table="reviews", sync="mirror"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"table": "nothing"}, "nothing"),
        ({"table": "reviews", "key": "number"}, "no column 'number'; there are id, text"),
        ({"table": "reviews", "text_field": "body"}, "no column 'body'"),
        ({"table": "reviews", "reference_field": "gold"}, "no column 'gold'"),
        ({"table": "reviews", "watermark": "at"}, "no column 'at'"),
        ({"query": "SELECT nonsense FROM reviews"}, "nonsense"),
        ({"query": "DELETE FROM reviews"}, "no SELECT"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(
    theirs: Engine, database_url: str, fields: dict[str, Any], said: str
) -> None:
    do(theirs, "CREATE TABLE reviews (id INTEGER PRIMARY KEY, text TEXT)", "INSERT INTO reviews VALUES (1, 'one')")
    with pytest.raises(PlaceFault, match=said):
        read(source(database_url, **fields))


def test_columns_of_one_name_are_told_apart_or_refused(theirs: Engine, database_url: str) -> None:
    do(theirs, "CREATE TABLE reviews (id INTEGER PRIMARY KEY, text TEXT)", "INSERT INTO reviews VALUES (1, 'one')")
    query = "SELECT id, id, text FROM reviews"
    if theirs.dialect.name == "sqlite":  # it gives the second another name
        assert read(source(database_url, query=query)) == {"1": "one"}
    else:
        with pytest.raises(PlaceFault, match="More than one column is named id"):
            source(database_url, query=query)


def test_a_database_that_is_not_there_is_one_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(PlaceUnavailable):
        source(f"sqlite:///{tmp_path / 'none.sqlite3'}", table="reviews")
    assert not (tmp_path / "none.sqlite3").exists()
    with pytest.raises(PlaceUnavailable) as error:
        source("postgresql://somebody:secret@127.0.0.1:1/none", table="reviews")
    assert str(error.value) == "The database day does not answer, or cannot do it now: OperationalError."
    assert "127.0.0.1" in str(error.value.private), "it is there for the operator"
    assert "secret" not in str(error.value.private)
    for url in ("nonsense", "postgresql://somebody:sec:ret@host:port/none", "nonsense://somebody:secret@host/none"):
        with pytest.raises(PlaceFault, match="the database day") as fault:
            source(url, table="reviews")
        assert not {"somebody", "secret", "ret", "host"} & set(re.findall(r"\w+", str(fault.value)))


def test_an_account_that_is_not_let_in_is_the_operators_to_see(theirs: Engine) -> None:
    if theirs.dialect.name == "sqlite":
        pytest.skip("a file has no accounts")
    url = theirs.url.set(username="somebody", password="secret").render_as_string(hide_password=False)
    with pytest.raises(PlaceUnavailable) as error:
        source(url, table="reviews")
    assert "somebody" not in str(error.value)
    assert "somebody" in str(error.value.private)


def test_a_cell_that_cannot_be_read_so_is_named_by_no_value(theirs: Engine, database_url: str) -> None:
    do(theirs, "CREATE TABLE reviews (id INTEGER, text TEXT)", "INSERT INTO reviews VALUES (1, 'private')")
    for query, said in {
        "postgresql": [
            ("SELECT text::integer AS id, text FROM reviews", r"InvalidTextRepresentation \(SQLSTATE 22P02\)"),
            ("SELECT id, text::regclass::text AS text FROM reviews", r"UndefinedTable \(SQLSTATE 42P01\)"),
            ("SELECT id, to_tsquery(text || ' |')::text AS text FROM reviews", r"SyntaxError \(SQLSTATE 42601\)"),
        ],
        "sqlite": [("SELECT id, json(text) AS text FROM reviews", "OperationalError")],
    }[theirs.dialect.name]:
        with pytest.raises(PlaceFault, match=said) as error:
            read(source(database_url, query=query, sync="mirror"))
        assert "private" not in str(error.value)


_ENDLESS = {
    "postgresql": "SELECT 1 AS id, 'x' AS text WHERE pg_sleep(60) IS NULL",
    "sqlite": "WITH RECURSIVE x(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM x) SELECT max(id) AS id, 'x' AS text FROM x",
}


def test_a_query_without_an_end_is_ended(theirs: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_STATEMENT_SECONDS", 0.2)
    with pytest.raises(PlaceFault, match="took too long"):
        read(source(database_url, query=_ENDLESS[theirs.dialect.name], sync="mirror"))


def test_an_account_keeps_the_limit_that_it_has(theirs: Engine) -> None:
    if theirs.dialect.name == "sqlite":
        pytest.skip("a file has no accounts")
    url = theirs.url.update_query_dict({"options": "-c statement_timeout=100"}).render_as_string(hide_password=False)
    with pytest.raises(PlaceFault, match="took too long"):
        read(source(url, query=_ENDLESS["postgresql"], sync="mirror"))


def test_drivers_are_told_how_long_to_wait_but_for_what_the_url_says() -> None:
    told = engine.deadlines_of(sa.make_url("postgresql+psycopg://host/day?connect_timeout=60"))
    assert told == {name: value for name, value in POSTGRESQL_DEADLINES.items() if name != "connect_timeout"}
    assert engine.deadlines_of(sa.make_url("mysql+pymysql://host/day"))["connect_timeout"] == 5
    assert engine.deadlines_of(sa.make_url("unheard+of://host/day")) == {}


def test_corpora_of_a_name_are_read_once_each_the_newest_first(database: Engine, tmp_path: Path) -> None:
    def upload(number: int, documents: list[tuple[str, str]], *, ready: bool = True, name: str = "day") -> None:
        put(
            tmp_path, f"corpus_{number}",
            (Document(position=place, id=id, text=text) for place, (id, text) in enumerate(documents)),
        )  # fmt: skip

        def make(connection: Any) -> None:
            corpora.create(
                connection, id=f"corpus_{number}", name=name, format="jsonl", encoding=None, bytes=1, sha256="0" * 64,
                options={},
            )  # fmt: skip
            corpora.claim(connection, f"corpus_{number}", owner="me", lease=30)
            if ready:
                finish(connection, number)

        transact(database, make)

    def finish(connection: Any, number: int) -> None:
        corpora.finish(
            connection, f"corpus_{number}", owner="me", status="ready", documents=2, invalid=1, fields=[], error=None
        )

    def opened() -> Source:
        definition = CorpusSource(type="corpus", name="day")
        return open_source(definition, Places(), settings=Settings(data_dir=tmp_path), database=database)

    def given_by(found: Source, since: Any = None) -> list[tuple[str, str]]:
        return [(document.id, document.text) for document in found.read(since)]

    upload(1, [("a", "old"), ("1", "without an id")])
    upload(2, [("x", "slow")], ready=False)
    upload(3, [("a", "new"), ("b", "B")])
    upload(4, [("c", "other")], name="night")
    first = opened()
    assert given_by(first) == [("a", "new"), ("b", "B"), ("a", "old"), ("corpus_1/1", "without an id")]
    assert first.unusable == 2
    transact(database, lambda connection: finish(connection, 2))
    upload(5, [("d", "D")])
    second = opened()
    assert given_by(second, position(first)) == [("d", "D"), ("x", "slow")]
    assert given_by(opened(), position(second)) == []
    aside = (tmp_path / "corpora").rename(tmp_path / "elsewhere")
    with pytest.raises(ResourcesUnavailable):
        given_by(opened())
    aside.rename(tmp_path / "corpora")
    remove_store(store_directory(tmp_path, "corpus_3"))
    with pytest.raises(CorpusDamaged):  # passed over in silence, its documents would never have labels
        given_by(opened())
    transact(database, lambda connection: corpora.remove(connection, "corpus_3"))
    assert ("a", "new") not in given_by(opened())


def test_documents_have_the_shape_that_runs_read(theirs: Engine, database_url: str) -> None:
    do(theirs, "CREATE TABLE reviews (id INTEGER PRIMARY KEY, text TEXT)", "INSERT INTO reviews VALUES (1, 'one')")
    assert list(source(database_url, table="reviews").read(None)) == [SourceDocument(id="1", text="one")]
