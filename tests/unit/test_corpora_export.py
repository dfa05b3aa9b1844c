"""Exports hold what came in and what came out, under names that never change."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest

from corpora import export
from corpora.export_columns import renamed
from corpusmill.documents import Document
from corpusmill.tasks import Task

Row = tuple[Document | None, dict[str, Any]]
OUTPUT = {"label": "pos", "score": 0.75, "scores": {"pos": 0.75, "neg": 0.25}}


def result(position: int = 0, **changes: Any) -> dict[str, Any]:
    plain = {
        "id": f"d{position}",
        "position": position,
        "status": "succeeded",
        "output": OUTPUT,
        "n_tokens": 12,
        "n_segments": 1,
        "truncated": False,
        "error": None,
    }
    return plain | changes


def document(position: int = 0, text: str = "good", **changes: Any) -> Document:
    return Document(position=position, id=f"d{position}", text=text, **changes)


ERROR = {"code": "empty_text", "message": "The text is empty.", "retryable": False}
ROWS: list[Row] = [
    (document(0, reference="pos", fields={"stars": 5, "tags": ["a"], "note": 'say "hi", now'}), result(0)),
    (document(1, "", reference=["a", "b"]), result(1, status="failed", output=None, error=ERROR, n_tokens=0)),
    (None, result(2, status="cancelled", output=None)),
]
FIELDS = ("stars", "tags", "note")


def exported(rows: list[Row], format_: str, **options: Any) -> bytes:
    return b"".join(export.write(rows, format_, **{"task": Task.CLASSIFICATION, "fields": FIELDS} | options))


def as_csv(rows: list[Row], **options: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(exported(rows, "csv", **options).decode(), newline="")))


def as_json(rows: list[Row], **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in exported(rows, "jsonl", **options).splitlines()]


def test_json_lines_hold_every_value_as_it_is() -> None:
    first, second, third = as_json(ROWS)
    assert first == {
        "id": "d0",
        "position": 0,
        "text": "good",
        "reference": "pos",
        "stars": 5,
        "tags": ["a"],
        "note": 'say "hi", now',
        "status": "succeeded",
        "output": OUTPUT,
        "error": None,
        "n_tokens": 12,
        "n_segments": 1,
        "truncated": False,
    }
    assert (second["reference"], second["output"], second["error"]) == (["a", "b"], None, ERROR)
    assert (third["id"], third["status"], "text" in third) == ("d2", "cancelled", False)


def test_tables_have_a_column_for_each_field_and_each_part_of_the_output() -> None:
    first, second, third = as_csv(ROWS)
    assert list(first) == [
        "id", "position", "text", "reference", "stars", "tags", "note", "status", "label", "score", "scores", "labels",
        "error_code", "error_message", "n_tokens", "n_segments", "truncated",
    ]  # fmt: skip
    assert first["note"] == 'say "hi", now'
    assert (first["stars"], first["tags"], first["label"], first["score"]) == ("5", '["a"]', "pos", "0.75")
    assert json.loads(first["scores"]) == OUTPUT["scores"]
    assert (second["reference"], second["label"], second["error_code"]) == ('["a", "b"]', "", "empty_text")
    assert (third["text"], third["status"]) == ("", "cancelled")


def test_parquet_has_the_same_columns_with_types() -> None:
    table = pq.read_table(io.BytesIO(exported(ROWS, "parquet")))
    assert table.column_names == list(as_csv(ROWS)[0])
    rows = table.to_pylist()
    assert (rows[0]["score"], rows[0]["position"], rows[0]["truncated"], rows[0]["stars"]) == (0.75, 0, False, "5")
    assert (rows[1]["label"], rows[1]["n_tokens"], rows[2]["text"]) == (None, 0, None)


@pytest.mark.parametrize(("task", "name"), [(Task.SUMMARIZATION, "summary"), (Task.TRANSLATION, "translation")])
def test_each_task_has_its_own_output_columns(task: Task, name: str) -> None:
    rows: list[Row] = [(document(), result(output={name: "Ende."}))]
    (row,) = as_csv(rows, task=task)
    assert row[name] == "Ende."
    assert "label" not in row


def test_labels_of_several_are_json() -> None:
    rows: list[Row] = [(document(), result(output=OUTPUT | {"labels": ["pos", "calm"]}))]
    assert json.loads(as_csv(rows)[0]["labels"]) == ["pos", "calm"]


def test_text_pairs_have_a_column_where_there_are_any() -> None:
    rows: list[Row] = [(document(text_pair="and this"), result())]
    assert as_csv(rows, text_pair=True)[0]["text_pair"] == "and this"
    assert as_json(rows)[0]["text_pair"] == "and this"


def test_our_names_never_change_and_a_field_of_the_same_name_is_not_lost() -> None:
    fields = {"status": "open", "output": 1, "label": "mine", "input_label": "too", "id": 9}
    rows: list[Row] = [(document(fields=fields), result())]
    (line,) = as_json(rows)
    assert (line["status"], line["output"], line["id"], line["label"]) == ("succeeded", OUTPUT, "d0", "mine")
    assert (line["input_status"], line["input_output"], line["input_id"]) == ("open", 1, 9)
    (row,) = as_csv(rows, fields=list(fields))
    assert (row["status"], row["label"], row["output"]) == ("succeeded", "pos", "1")
    assert (row["input_status"], row["input__label"], row["input_label"], row["input_id"]) == (
        "open",
        "mine",
        "too",
        "9",
    )
    assert pq.read_table(io.BytesIO(exported(rows, "parquet", fields=list(fields)))).to_pylist()[0]["label"] == "pos"


def test_renaming_gives_each_field_a_name_of_its_own() -> None:
    assert renamed(["a", "b", "input_a", "input__a"], frozenset("a")) == ["input___a", "b", "input_a", "input__a"]


def test_fields_beyond_the_columns_come_back_together() -> None:
    rows: list[Row] = [(document(fields={"known": 1, "x": [2], "y": "z"}), result()), (document(1), result(1))]
    first, second = as_csv(rows, fields=["known"], other_fields=True)
    assert json.loads(first["other_fields"]) == {"x": [2], "y": "z"}
    assert second["other_fields"] == ""


FORMULAS = [
    "=cmd|'/C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\tx", "\rx", "\nx", " =1+1", "\u00a0=1", "\u3000-1", "a\n=1",
    "a\r\n  @b", "\uff1d1+1", "\t", "=",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_a_cell_that_a_spreadsheet_would_run_gets_an_apostrophe(text: str) -> None:
    rows: list[Row] = [(document(text=text, fields={text: text}), result(output={"label": text, "score": -0.5}))]
    (row,) = as_csv(rows, fields=[text])
    assert (row["text"], row["label"], row["'" + text]) == ("'" + text,) * 3
    assert row["score"] == "-0.5"
    (raw,) = as_csv(rows, fields=[text], raw=True)
    assert (raw["text"], raw[text]) == (text, text)
    assert as_json(rows)[0]["text"] == text


@pytest.mark.parametrize("text", ["", "a=b", "1-2", "e-mail", "a\nb = c", "'=1", "x @y", "ﬁne"])
def test_other_cells_are_left_as_they_are(text: str) -> None:
    rows: list[Row] = [(document(text=text, fields={"n": -5}), result())]
    (row,) = as_csv(rows, fields=["n"])
    assert (row["text"], row["n"]) == (text, "-5")


def test_the_search_for_formulas_is_linear() -> None:
    assert export.harmless("\n " * 1_000_000) == "'" + "\n " * 1_000_000
    assert export.harmless("x" + "\n  " * 1_000_000)[0] == "x"


@pytest.mark.parametrize("format_", list(export.ExportFormat))
def test_bytes_come_while_rows_do(format_: export.ExportFormat) -> None:
    given = 0

    def rows() -> Iterator[Row]:
        nonlocal given
        for position in range(20_000):
            given += 1
            yield document(position, "text " * 20), result(position)

    stream = export.write(rows(), format_, task=Task.CLASSIFICATION)
    assert next(stream)
    assert 0 < given < 10_000
    assert sum(map(len, stream)) > 10_000
    assert given == 20_000


@pytest.mark.parametrize("format_", list(export.ExportFormat))
def test_an_export_of_nothing_can_be_read(format_: export.ExportFormat) -> None:
    data = b"".join(export.write([], format_, task=Task.TRANSLATION))
    if format_ is export.ExportFormat.PARQUET:
        assert pq.read_table(io.BytesIO(data)).num_rows == 0
    else:
        assert data.count(b"\n") == (format_ is export.ExportFormat.CSV)
    assert export.MEDIA_TYPES[format_]


def test_an_export_that_is_cut_off_ends_quietly() -> None:
    stream = export.write(((document(at), result(at)) for at in range(20_000)), "parquet", task=Task.CLASSIFICATION)
    assert next(stream)
    stream.close()  # type: ignore[attr-defined]


def test_an_export_can_be_a_corpus_again() -> None:
    from corpora import Format, Options, Upload, read

    for format_, form in (("jsonl", Format.JSONL), ("csv", Format.CSV), ("parquet", Format.PARQUET)):
        data = exported(ROWS[:1], format_)
        (again,) = read(io.BytesIO(data), Upload(form), Options())
        assert isinstance(again, Document)
        assert (again.id, again.text, again.reference) == ("d0", "good", "pos")
