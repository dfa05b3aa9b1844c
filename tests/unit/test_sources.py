"""Sources without a database: what a pattern means, what a query may be, values of columns, and folders."""

from __future__ import annotations

import gzip
import json
import os
import uuid
import zipfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpusmill.errors import PlaceFault, PlaceUnavailable
from corpusmill.places import FolderPlace, Places
from corpusmill.schedules import FolderSource
from corpusmill.settings import Settings
from db.external.queries import as_subselect, refuse_statements
from pipeline.sources import open_source
from pipeline.sources.folder import FolderReader
from pipeline.sources.patterns import compiled
from pipeline.sources.values import as_id, as_json, as_reference, as_text, given_back, kept


@pytest.mark.parametrize(
    ("pattern", "meant", "others"),
    [
        ("*.csv", ["a.csv"], ["a.jsonl", "b/a.csv"]),
        ("**/*.csv", ["a.csv", "b/a.csv", "b/c/a.csv"], ["a.csv/b"]),
        ("b/**", ["b/a", "b/c/a"], ["a", "bb/a"]),
        ("b/**/c/*.txt", ["b/c/a.txt", "b/x/y/c/a.txt"], ["b/a.txt", "b/c/d/a.txt"]),
        ("day-2026-??-??.jsonl", ["day-2026-01-31.jsonl"], ["day-2026-1-31.jsonl"]),
        ("[ab].txt", ["a.txt"], ["c.txt"]),
        ("**/**/x", ["x", "a/x", "a/b/c/x"], ["x/a"]),
    ],
)
def test_a_pattern_means_paths_below_the_folder(pattern: str, meant: list[str], others: list[str]) -> None:
    matches = compiled(pattern)
    assert [path for path in meant if not matches(path)] == []
    assert [path for path in others if matches(path)] == []


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "a/../../b", "a\\b"])
def test_a_pattern_that_leads_elsewhere_is_refused(pattern: str) -> None:
    with pytest.raises(PlaceFault, match="leads out"):
        compiled(pattern)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT id, text FROM reviews",
        "  with recent as (select * from reviews) select * from recent ;",
        "select ';', \"a;b\", 'it''s -- no comment' from t -- a comment; with a semicolon",
        "select /* several ; \n lines */ 1",
        "select $$a ; b$$, $q$ ' $q$ from t",
        "select a::text, '12:30' from t where b ~ '^\\d+$'",
    ],
)
def test_one_select_is_a_query(query: str) -> None:
    refuse_statements(query, "postgresql")
    assert as_subselect(query, "postgresql").endswith("\n")


@pytest.mark.parametrize(
    ("query", "safe", "unsafe"),
    [
        # accepted, these would end the subselect that the query stands in
        ("select 1 # '\n) as d where sleep(1) -- '", [], ["mysql", "mariadb", "another"]),
        ("select 1 --1 ) as d where sleep(1) # ", ["postgresql"], ["mysql", "mariadb", "another"]),
        ("select 1 as $$ ) as d where sleep(1) -- $$", ["postgresql"], ["mysql", "sqlite", "another"]),
        ("select 1 as a$$ ) as d where pg_sleep(1) is null -- $$", [], ["postgresql", "another"]),
        ("select 1 as €$$ ) as d where pg_sleep(1) is null -- $$", [], ["postgresql", "another"]),
        ("select 1 /* /* */ ' */ ) as d where pg_sleep(1) is null -- '", [], ["postgresql", "mssql", "another"]),
        ("select 1 -- \r) as d where pg_sleep(1) is null --", [], ["postgresql", "another"]),
        ("select 1 /*M! ) as d where sleep(1) */ -- (", [], ["mariadb", "another"]),
        ("select 1 as [a'] ) as d where 1 = 1 -- '", [], ["sqlite", "mssql", "another"]),
        ("select 1 as [(] ) as d, (select 2 as [)]", [], ["sqlite", "mssql", "another"]),
        ("select q'[ ' ]' ) as d where 1 = 1 -- ' from t", [], ["oracle", "another"]),
        # what is usual is refused only where it may mean something else
        ("select a #>> '{b}', c[1] from t --comment", ["postgresql"], ["mysql", "another"]),
        ("select '#', \"#\", `#` from t -- # and [ in a comment", ["mysql", "sqlite", "another"], []),
        ("select 1 --\n, 2 -- a line of Windows\r\n, 3 --", ["mysql", "sqlite", "another"], []),
        ("select q, 'q' from t where q = 'x'", ["oracle", "mysql", "another"], []),
        ("select $x$ ' $x$, a$b from t", ["postgresql"], ["mysql", "another"]),
    ],
)
def test_what_databases_read_differently_is_refused_but_where_it_is_known(
    query: str, safe: list[str], unsafe: list[str]
) -> None:
    for backend in safe:
        refuse_statements(query, backend)
    for backend in unsafe:
        with pytest.raises(PlaceFault):
            refuse_statements(query, backend)


@pytest.mark.parametrize(
    "query",
    [
        "delete from reviews",
        "select 1; delete from reviews",
        "select 1) as x; drop table reviews; --",
        "select 1) as documents where 1 = 1 union select (2",
        "select 'open",
        "select 1 /* open",
        "select '\\'' ; delete from reviews ; ' from t",
        "select 1 /*! ; delete from reviews */",
        "",
        "selectx",
        "explain select 1",
    ],
)
def test_what_is_more_or_other_than_one_select_is_refused(query: str) -> None:
    for backend in ("postgresql", "sqlite", "mysql", "another"):
        with pytest.raises(PlaceFault):
            refuse_statements(query, backend)


_POSITIONS: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.text(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.datetimes(),
    st.datetimes(timezones=st.just(UTC)), st.dates(), st.times(), st.decimals(allow_nan=False, allow_infinity=False),
    st.uuids(), st.binary(),
)  # fmt: skip


@given(_POSITIONS)
def test_a_position_is_read_back_as_the_value_that_it_was(value: Any) -> None:
    back = given_back(json.loads(json.dumps(kept(value))))
    assert (back, type(back)) == (value, type(value))


def test_a_column_that_cannot_be_followed_is_refused() -> None:
    with pytest.raises(PlaceFault, match="list"):
        kept([1])


def test_values_of_columns_become_texts_ids_references_and_json() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert [as_text(value) for value in ("a", None, 3, b"\xc3\xa4", b"\xff", ["x", 1], {"a": date(2026, 1, 2)})] == [
        "a", None, "3", "ä", None, '["x", 1]', '{"a": "2026-01-02"}',
    ]  # fmt: skip
    assert [as_id(value) for value in (7, "7", Decimal("7.00"), Decimal("7.5"), b"\x01", uuid.UUID(int=1))] == [
        "7", "7", "7", "7.5", "01", "00000000-0000-0000-0000-000000000001",
    ]  # fmt: skip
    assert [as_reference(value) for value in (None, "a", 1, ["a", 2, None])] == [None, "a", "1", ["a", "2"]]
    assert as_json([float("nan"), Decimal("1.10"), moment, timedelta(minutes=1), True, memoryview(b"a")]) == [
        None, "1.10", "2026-01-02T03:04:05+00:00", 60.0, True, "YQ==",
    ]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def reader(root: Path, **fields: Any) -> FolderReader:
    definition = FolderSource.model_validate({"type": "folder", "place": "inbox"} | fields)
    places = Places(folders={"inbox": FolderPlace(path=root)})
    found = open_source(definition, places, settings=Settings(), database=None)  # type: ignore[arg-type]
    assert isinstance(found, FolderReader)
    return found


def put(path: Path, content: str | bytes, age: float = 100.0) -> Path:
    """A file that was last written `age` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    moment = path.stat().st_mtime - age
    os.utime(path, (moment, moment))
    return path


def texts(source: FolderReader, since: Any = None) -> dict[str, str]:
    return {document.id: document.text for document in source.read(since)}


def test_files_of_all_formats_are_read_as_uploads_are(root: Path) -> None:
    put(root / "a.jsonl", '{"id": "x", "text": "one", "reference": "r", "more": 1}\n{"text": "two"}\nno json\n')
    put(root / "b" / "c.csv.gz", gzip.compress(b"id,text\ny,three\n"))
    put(root / "d.tsv", "id\ttext\nz\tfour\n")
    put(root / "notes" / "e.txt", "five\nlines\n")
    with zipfile.ZipFile(root / "f.zip", "w") as archive:
        archive.writestr("g.jsonl", '{"id": "w", "text": "six"}\n')
    source = reader(root)
    documents = {document.id: document for document in source.read(None)}
    assert {id: document.text for id, document in documents.items()} == {
        "x": "one", "a.jsonl#1": "two", "y": "three", "z": "four", "notes/e.txt": "five\nlines", "w": "six",
    }  # fmt: skip
    assert (documents["x"].reference, documents["x"].fields) == ("r", {"more": 1, "file": "a.jsonl"})
    assert source.unusable == 1


def test_only_new_and_changed_files_are_read_again(root: Path) -> None:
    first, second = put(root / "a.jsonl", '{"id": "a", "text": "one"}\n'), put(root / "b.txt", "two")
    source = reader(root)
    assert texts(source) == {"a": "one", "b.txt": "two"}
    position = json.loads(json.dumps(source.position()))
    again = reader(root)
    assert texts(again, position) == {}
    assert again.position() == position
    put(first, '{"id": "a", "text": "ONE"}\n', age=50)  # of the same size
    os.utime(second)  # touched, with the same bytes
    put(root / "c.txt", "three")
    assert texts(reader(root), position) == {"a": "ONE", "c.txt": "three"}


def test_a_file_that_may_still_be_written_is_looked_at_again(root: Path) -> None:
    path = put(root / "a.txt", "one", age=0)
    source = reader(root)
    assert texts(source) == {"a.txt": "one"}
    stamp = path.stat().st_mtime_ns
    path.write_text("two")
    os.utime(path, ns=(stamp, stamp))  # within the same tick of the clock
    assert texts(reader(root), source.position()) == {"a.txt": "two"}


def test_of_two_documents_with_one_id_that_of_the_later_file_comes_first(root: Path) -> None:
    put(root / "b.jsonl", '{"id": "a", "text": "old"}\n', age=200)
    put(root / "a.jsonl", '{"id": "a", "text": "new"}\n', age=100)
    assert [document.text for document in reader(root).read(None)] == ["new", "old"]


def test_nothing_outside_the_folder_nothing_hidden_and_nothing_unknown_is_read(root: Path, tmp_path: Path) -> None:
    secret = put(tmp_path / "secret.txt", "secret")
    (tmp_path / "other").mkdir()
    put(tmp_path / "other" / "s.txt", "secret")
    (root / "link.txt").symlink_to(secret)
    (root / "folder").symlink_to(tmp_path / "other")
    put(root / "real.txt", "inside")
    (root / "alias.txt").symlink_to(root / "real.txt")
    put(root / ".hidden.txt", "hidden")
    put(root / ".git" / "x.txt", "hidden")
    put(root / "image.png", b"\x89PNG")
    source = reader(root)
    assert texts(source) == {"real.txt": "inside", "alias.txt": "inside"}
    assert source.unusable == 1


def test_a_mirror_reads_everything_each_time_and_is_complete(root: Path) -> None:
    put(root / "a.txt", "one")
    source = reader(root, sync="mirror")
    assert source.complete
    assert texts(source) == {"a.txt": "one"}
    assert texts(reader(root, sync="mirror"), source.position()) == {"a.txt": "one"}
    assert not reader(root).complete


def test_a_damaged_file_ends_a_mirror_and_is_counted_by_an_append(root: Path) -> None:
    put(root / "a.zip", b"no archive")
    put(root / "b.txt", "one")
    with pytest.raises(PlaceFault, match=r"a\.zip"):
        texts(reader(root, sync="mirror"))
    source = reader(root)
    assert texts(source) == {"b.txt": "one"}
    assert source.unusable == 1
    assert texts(reader(root), source.position()) == {}
    assert list(source.position()["files"]) == ["b.txt"]


@pytest.mark.parametrize(
    "damaged",
    ['{"id": "a", "text": "one"}\nno json\n', '{"id": "a", "text": "one"}\n{"id": "b"}\n'],
    ids=["a line", "a text"],
)
def test_a_mirror_that_could_not_read_a_line_does_not_say_that_anything_is_gone(root: Path, damaged: str) -> None:
    put(root / "image.png", b"\x89PNG")
    source = reader(root, sync="mirror")
    found = []
    for name, content in [("a.jsonl", damaged), ("a.jsonl", '{"id": "a", "text": "one"}\n'), ("b.txt", "\xff")]:
        put(root / name, content.encode("latin-1"))
        assert texts(source) == {"a": "one"}
        found.append(source.complete)
    assert found == [False, True, False]


def test_a_folder_that_is_not_there_is_no_empty_folder(root: Path) -> None:
    with pytest.raises(PlaceUnavailable):
        texts(reader(root / "unmounted", sync="mirror"))


def test_fields_of_files_are_chosen_by_name_and_a_reference_may_be_none(root: Path) -> None:
    put(root / "a.csv", "key,body,gold,reference\n1,one,g,r\n")
    (document,) = reader(root, text_field="body", id_field="key", reference_field="gold").read(None)
    assert (document.id, document.text, document.reference) == ("1", "one", "g")
    (document,) = reader(root, text_field="body", id_field="key", reference_field=None).read(None)
    assert (document.reference, document.fields["reference"]) == (None, "r")
