"""Definitions of schedules, the places that they name, and files of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from cli.definitions import definitions_of, difference, lines_of
from corpusmill.errors import InvalidRequest, InvalidSettings
from corpusmill.places import FolderPlace, Places, parse_places, require_places
from corpusmill.schedules import parse_definition
from corpusmill.texts import text_hash
from pipeline.places import inside

PLAIN: dict[str, Any] = {
    "name": "reviews",
    "cron": "30 2 * * *",
    "timezone": "Europe/Berlin",
    "source": {"type": "sql", "place": "shop", "table": "reviews", "key": "id", "text_field": "body"},
    "job": {"task": "classification", "model": "echo"},
    "sinks": [{"type": "table", "place": "shop", "table": "labels"}],
}
REVIEW = {"type": "file", "place": "out", "path": "{date}-{run}.json", "format": "argilla"}


def faults(**changed: Any) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as refused:
        parse_definition(PLAIN | changed)
    return {fault.pointer: fault.message for fault in refused.value.faults}


def test_a_definition_has_the_defaults_of_what_it_leaves_out() -> None:
    definition = parse_definition(PLAIN)
    assert (definition.catch_up, definition.overlap, definition.on_new_revision) == ("latest", "skip", "keep")
    assert definition.reuse
    assert definition.enabled
    assert definition.source.sync == "append"


@pytest.mark.parametrize(
    ("changed", "pointer", "said"),
    [
        ({"timezon": "UTC"}, "/timezon", "Did you mean timezone?"),
        ({"sinks": [{"type": "table", "place": "x", "tabel": "y", "table": "z"}]}, "/sinks/0/tabel", "Did you mean table?"),
        ({"source": {"type": "corpus", "nam": "y", "name": "k"}}, "/source/nam", "Did you mean name?"),
        ({"source": {"type": "sqll"}}, "/source", "'folder', 'sql', 'corpus'"),
        ({"source": {"type": "sql", "place": "p", "key": "k"}}, "/source", "either table or query"),
        ({"job": {"task": "classification", "model": "echo", "params": {"topk": 1}}}, "/job/params/topk", "top_k"),
        ({"cron": "99 * * * *"}, "/cron", "bad minute"),
        ({"timezone": "Europe/Nowhere"}, "/timezone", "no time zone"),
        ({"window": {"start": "22:00", "end": "22:00"}}, "/window", "begins when it ends"),
        ({"review": {"to": REVIEW}}, "/review", "no rule"),
        ({"report": {"fail_if": [{"figure": "psi", "abov": 1, "above": 1}]}}, "/report/fail_if/0/abov", "above"),
        ({"report": {"fail_if": [{"figure": "psi"}]}}, "/report/fail_if/0", "either above or below"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_where_it_stands(changed: dict[str, Any], pointer: str, said: str) -> None:
    assert said in faults(**changed)[pointer]


def test_a_file_that_the_next_run_would_write_over_is_refused_and_the_report_is_none() -> None:
    sinks = [{"type": "files", "place": "out", "path": path} for path in ("labels.parquet", "{run}/x.parquet", "a.b/c")]
    found = faults(sinks=sinks, review={"audit": 0.1, "to": REVIEW | {"path": "{date}.json"}})
    assert list(found) == ["/sinks/0/path", "/sinks/2/path", "/review/to/path"]
    assert "such as `labels-{run}.parquet`" in found["/sinks/0/path"]
    assert "such as `a.b/c-{run}`" in found["/sinks/2/path"]
    assert "such as `{date}-{run}.json`" in found["/review/to/path"]
    # a summary, which each run keeps for itself besides
    assert parse_definition(PLAIN | {"report": {"to": {"place": "out", "path": "latest"}}}).report is not None


def test_a_place_that_is_not_configured_is_named_with_the_nearest_that_is() -> None:
    places = parse_places('[databases.shop2]\nurl = "sqlite:///x"', {})
    with pytest.raises(InvalidRequest) as refused:
        require_places(parse_definition(PLAIN), places)
    assert [fault.pointer for fault in refused.value.faults] == ["/source/place", "/sinks/0/place"]
    assert "Did you mean shop2?" in refused.value.faults[0].message


def test_every_place_of_a_definition_is_looked_for() -> None:
    report = {"to": {"place": "morning", "path": "{date}"}}
    definition = parse_definition(PLAIN | {"review": {"default": 0.5, "to": REVIEW}, "report": report})
    assert [(kind, name) for _, kind, name in definition.places] == [
        ("databases", "shop"), ("databases", "shop"), ("folders", "out"), ("folders", "morning")
    ]  # fmt: skip


def test_a_secret_comes_from_the_environment_and_is_not_shown() -> None:
    places = parse_places('[databases.shop]\nurl = { env = "SHOP" }', {"SHOP": "postgresql://me:secret@db/shop"})
    assert places.database("shop").url.get_secret_value() == "postgresql://me:secret@db/shop"
    assert "secret" not in repr(places)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[databases.shop]\nurl = { env = "SHOP" }', "no variable SHOP"),
        ('[folders.out]\npat = "x"', "Did you mean path?"),
        ('[folder.out]\npath = "x"', "Did you mean folders?"),
        ("[folders", "not TOML"),
    ],
)
def test_a_places_file_that_is_wrong_says_where(text: str, said: str) -> None:
    with pytest.raises(InvalidSettings, match=said.replace("?", r"\?")):
        parse_places(text, {})


def test_a_place_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"\[folders.x\]"):
        Places().folder("x")


def test_a_path_never_leaves_its_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    folder = FolderPlace(path=tmp_path / "in")
    assert inside(folder, "a/b.json") == (tmp_path / "in" / "a" / "b.json").resolve()
    for path in ("../out/x", "link/x", str(tmp_path / "out" / "x"), "a/../../out"):
        with pytest.raises(InvalidRequest, match="out of the folder"):
            inside(folder, path)


def test_a_text_and_its_pair_are_hashed_apart() -> None:
    texts = [("ab", "c"), ("a", "bc"), ("abc", None), ("abc", ""), ("", "abc"), ("\ud800", None)]
    assert len({text_hash(*each) for each in texts}) == len(texts)
    assert text_hash("ab", "c") == text_hash("ab", "c")


FILE = """
name = "reviews"
cron = "30 2 * * *"
timezone = "Europe/Berlin"
source = { type = "sql", place = "shop", table = "reviews", key = "id", text_field = "body" }
job = { task = "classification", model = "echo" }
[[sinks]]
type = "table"
place = "shop"
table = "labels"
"""


def test_a_file_is_the_definition_that_it_says(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(FILE)
    assert definitions_of(tmp_path / "a.toml") == [parse_definition(PLAIN).model_dump(mode="json")]


def test_what_is_shown_of_a_definition_is_a_file_that_makes_it(tmp_path: Path) -> None:
    definition = parse_definition(
        PLAIN
        | {
            "window": {"start": "22:00", "end": "06:00"},
            "review": {"thresholds": {"very good": 0.5, 'q"': 0.1}, "audit": 0.01, "to": REVIEW},
            "report": {"fail_if": [{"figure": "psi", "above": 0.25}]},
        }
    ).model_dump(mode="json")
    (tmp_path / "a.toml").write_text("\n".join(lines_of(definition)))
    assert definitions_of(tmp_path / "a.toml") == [definition]
    assert difference(definition, definition) == []


def test_the_difference_is_shown_line_by_line() -> None:
    before = parse_definition(PLAIN).model_dump(mode="json")
    after = parse_definition(PLAIN | {"cron": "0 3 * * *"}).model_dump(mode="json")
    changed = [line for line in difference(before, after)[2:] if line[0] in "+-"]
    assert changed == ['-cron = "30 2 * * *"', '+cron = "0 3 * * *"']
    assert all(line[0] in "+-@" for line in difference(None, after))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name =", "not TOML"),
        ("cron = 'x'", "name: Field required"),
        ("x = 1\n[[schedule]]\nname = 'a'", "belong into one"),
        (f"[[schedule]]{FILE}".replace("[[sinks]]", "[[schedule.sinks]]") * 2, "twice"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(typer.BadParameter, match=said):
        definitions_of(tmp_path / "a.toml")
