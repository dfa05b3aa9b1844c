"""Files of labels: whole or not there, the same when written again, and inside the configured folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from corpusmill.errors import InvalidRequest, PlaceFault, PlaceUnavailable
from corpusmill.places import FolderPlace, Places
from corpusmill.schedules import FilesSink
from pipeline.sinks import Delivered, Sink, open_sink


def sink(root: Path, path: str = "{date}/{run}.jsonl", format: str = "jsonl", run: str = "run_a") -> Sink:
    definition = FilesSink.model_validate({"type": "files", "place": "out", "path": path, "format": format})
    return open_sink(definition, Places(folders={"out": FolderPlace(path=root)}), run=run, date="2026-03-29")


def delivered(document_id: str, **fields: Any) -> Delivered:
    values: dict[str, Any] = {
        "text": "text", "output": {"label": "pos", "score": 0.5, "scores": {"pos": 0.5, "=neg": 0.25}},
        "status": "succeeded", "error": None, "score": 0.5, "label": "pos", "model_id": "m", "model_revision": "r",
        "run_id": "run_a", "labelled_at": 1_774_738_800.25,
    }  # fmt: skip
    return Delivered(document_id=document_id, **(values | fields))


ROWS = [
    delivered("a"),
    delivered("=1+1", label="@cmd", output={"label": "@cmd"}, score=None),
    delivered("c", status="failed", output=None, label=None, score=None, error={"code": "too_long", "message": ""}),
]


def test_json_lines_hold_every_column_and_those_that_are_gone(tmp_path: Path) -> None:
    sink(tmp_path).deliver(iter(ROWS), iter(["old"]))
    lines = (tmp_path / "2026-03-29" / "run_a.jsonl").read_text().splitlines()
    first, _, third, gone = map(json.loads, lines)
    assert first == {
        "document_id": "a", "status": "succeeded", "label": "pos", "score": 0.5,
        "output": {"label": "pos", "score": 0.5, "scores": {"pos": 0.5, "=neg": 0.25}}, "error": None, "model": "m",
        "model_revision": "r", "run": "run_a", "labelled_at": "2026-03-28T23:00:00.250Z",
    }  # fmt: skip
    assert (third["status"], third["error"], third["label"]) == ("failed", "too_long", None)
    assert (gone["document_id"], gone["status"], gone["label"]) == ("old", "gone", None)


def test_csv_holds_no_formulas(tmp_path: Path) -> None:
    sink(tmp_path, "labels.csv", "csv").deliver(ROWS, [])
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["document_id"] for row in rows] == ["a", "'=1+1", "c"]
    assert (rows[1]["label"], rows[1]["score"]) == ("'@cmd", "")
    assert json.loads(rows[0]["output"])["score"] == 0.5


def test_parquet_has_numbers_and_times(tmp_path: Path) -> None:
    sink(tmp_path, "labels.parquet", "parquet").deliver(ROWS, ["old"])
    table = pq.read_table(tmp_path / "labels.parquet").to_pylist()
    assert [row["status"] for row in table] == ["succeeded", "succeeded", "failed", "gone"]
    assert (table[0]["score"], table[0]["labelled_at"].timestamp()) == (0.5, 1_774_738_800.25)


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_a_file_delivered_twice_is_the_same_file_and_nothing_is_left_beside_it(tmp_path: Path, format: str) -> None:
    target = tmp_path / f"labels.{format}"
    contents = []
    for _ in range(2):
        sink(tmp_path, target.name, format).deliver(ROWS, ["old"])
        contents.append(target.read_bytes())
    assert contents[0] == contents[1]
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_delivery_that_is_cut_off_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "labels.jsonl"
    sink(tmp_path, target.name).deliver(ROWS, [])
    before = target.read_bytes()

    def broken() -> Iterator[Delivered]:
        yield ROWS[0]
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError):
        sink(tmp_path, target.name).deliver(broken(), [])
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_night_without_documents_has_a_file_too(tmp_path: Path) -> None:
    sink(tmp_path, "labels.parquet", "parquet").deliver([], [])
    assert pq.read_table(tmp_path / "labels.parquet").num_rows == 0


def test_no_path_leads_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    for path in ("../x.jsonl", "link/x.jsonl", "/etc/x.jsonl"):
        with pytest.raises(InvalidRequest, match="leads out"):
            sink(tmp_path / "out", path)
    with pytest.raises(PlaceFault, match="folder"):
        sink(tmp_path / "out", ".")
    with pytest.raises(PlaceUnavailable):
        sink(tmp_path / "unmounted", "x.jsonl")
