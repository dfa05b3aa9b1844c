"""JSON lines become documents, or errors with the line and the place."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from corpora import Format, Limits, Options, Upload, documents_of, read
from corpora.jsonl import MAX_VALUES, parse_line
from corpora.readers import Item
from corpusmill.documents import Document, IngestError


def items(data: bytes, **options: Any) -> list[Item]:
    return list(read(io.BytesIO(data), Upload(Format.JSONL), Options(**options)))


def only_error(data: bytes, **options: Any) -> IngestError:
    (error,) = items(data, **options)
    assert isinstance(error, IngestError)
    return error


def test_a_line_becomes_a_document_with_its_other_fields() -> None:
    (document,) = items(b'{"id": 7, "text": "good", "stars": 5, "tags": ["a", {"b": null}], "reference": true}\n')
    assert document == Document(
        position=0, id="7", text="good", reference="true", fields={"stars": 5, "tags": ["a", {"b": None}]}
    )


@pytest.mark.parametrize("line", [b'[{"text": "a"},', b'[{"text": "a"}]'])
def test_a_json_array_is_recognised_and_its_mending_said(line: bytes) -> None:
    error = parse_line(line, 1, 0, Options())
    assert isinstance(error, IngestError)
    assert "A JSON array is not JSON Lines: put each of its objects on a line of its own" in error.message


def test_positions_count_documents_and_line_numbers_count_lines() -> None:
    data = b'\xef\xbb\xbf{"text": "one"}\r\n\r\n  \nnothing\n{"text": "two"}'
    first, error, second = items(data)
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert isinstance(error, IngestError)
    assert (first.position, first.id, first.text) == (0, "0", "one")
    assert (second.position, second.id, second.text) == (1, "1", "two")
    assert (error.line, error.column, error.code) == (4, "1", "invalid_json")


def test_fields_may_have_other_names() -> None:
    data = b'{"key": "k", "body": "b", "question": "q", "gold": 1.5, "text": "kept"}'
    (document,) = items(data, text_field="body", text_pair_field="question", id_field="key", reference_field="gold")
    assert document == Document(position=0, id="k", text="b", text_pair="q", reference="1.5", fields={"text": "kept"})


@pytest.mark.parametrize(
    ("line", "code", "column"),
    [
        (b'{"text": "a"', "invalid_json", "13"),
        (b'{"text": "a"} {}', "invalid_json", "15"),
        (b"{'text': 1}", "invalid_json", "2"),
        (b'{"text": "a\tb"}', "invalid_json", "12"),
        (b'{"text": "a", "x": NaN}', "invalid_json", None),
        (b'{"text": "a", "x": -Infinity}', "invalid_json", None),
        (b'{"text": "a", "x": 1e999}', "invalid_json", None),
        (b"[" * 200_000, "invalid_json", None),
        (b'{"text": "a", "x": ' + b"[" * 70 + b"]" * 70 + b"}", "invalid_json", "x"),
        (b'{"text": "a", "x": ' + b"9" * 5000 + b"}", "invalid_json", None),
        (b'["text"]', "wrong_type", None),
        (b"null", "wrong_type", None),
        (b'"text"', "wrong_type", None),
        (b'{"texte": "a"}', "missing_field", "text"),
        (b'{"text": 5}', "wrong_type", "text"),
        (b'{"text": null}', "wrong_type", "text"),
        (b'{"text": "a", "id": [1]}', "wrong_type", "id"),
        (b'{"text": "a", "id": true}', "wrong_type", "id"),
        (b'{"text": "a", "id": "' + b"x" * 600 + b'"}', "too_long", "id"),
        (b'{"text": "a", "reference": {"a": 1}}', "wrong_type", "reference"),
        (b'{"text": "a", "reference": [["a"]]}', "wrong_type", "reference"),
        (b'{"text": "a", "reference": [null]}', "wrong_type", "reference"),
        (b'{"text": "\xff"}', "bad_encoding", "11"),
        (b'{"text": "\\ud800"}', "bad_encoding", None),
        (b'{"text": "a", "\\uDFFF": 1}', "bad_encoding", None),
    ],
)
def test_an_unusable_line_is_an_error_and_the_others_are_documents(line: bytes, code: str, column: str | None) -> None:
    before, error, after = items(b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n')
    assert isinstance(error, IngestError)
    assert (error.line, error.code, error.column) == (2, code, column)
    assert error.message
    assert [item.text for item in (before, after) if isinstance(item, Document)] == ["before", "after"]


def test_a_missing_field_names_those_that_are_there() -> None:
    error = only_error(b'{"body": "a", "stars": 1}')
    assert "body, stars" in error.message
    assert "text_field" in error.message


def test_a_text_pair_that_is_asked_for_must_be_there() -> None:
    assert only_error(b'{"text": "a"}', text_pair_field="b").code == "missing_field"
    assert only_error(b'{"text": "a", "b": 1}', text_pair_field="b").column == "b"


@pytest.mark.parametrize(
    ("value", "reference"),
    [
        ("null", None),
        ('"positive"', "positive"),
        ("3", "3"),
        ("2.50", "2.5"),
        ("false", "false"),
        ("[]", []),
        ('["a", 1, true]', ["a", "1", "true"]),
    ],
)
def test_a_reference_becomes_text_as_json_prints_it(value: str, reference: object) -> None:
    (document,) = items(f'{{"text": "a", "reference": {value}}}'.encode())
    assert isinstance(document, Document)
    assert document.reference == reference


@pytest.mark.parametrize(("value", "identifier"), [("null", "0"), ("12", "12"), ("1.5", "1.5"), ('""', "")])
def test_an_id_is_text_a_number_or_the_position(value: str, identifier: str) -> None:
    (document,) = items(f'{{"text": "a", "id": {value}}}'.encode())
    assert isinstance(document, Document)
    assert document.id == identifier


def test_nul_becomes_the_replacement_character_wherever_it_stands() -> None:
    (document,) = items(
        b'{"text": "a\\u0000b", "id": "\\u0000", "reference": ["\\u0000"], "x\\u0000": [{"y": "\\u0000"}]}'
    )
    assert document == Document(
        position=0, id="\ufffd", text="a\ufffdb", reference=["\ufffd"], fields={"x\ufffd": [{"y": "\ufffd"}]}
    )


def test_a_surrogate_pair_is_a_character_like_any_other() -> None:
    (document,) = items(b'{"text": "\\ud83d\\ude00 \\ud55c"}')
    assert isinstance(document, Document)
    assert document.text == "\U0001f600 \ud55c"


def test_a_huge_integer_is_kept() -> None:
    (document,) = items(b'{"text": "a", "n": ' + b"9" * 4000 + b"}")
    assert isinstance(document, Document)
    assert document.fields["n"] == int("9" * 4000)


def test_an_overlong_line_is_an_error_with_its_number() -> None:
    data = b'{"text": "a"}\n{"text": "' + b"x" * 5000 + b'"}\n{"text": "b"}\n'
    first, error, last = items(data, limits=Limits(max_document_bytes=1024))
    assert isinstance(error, IngestError)
    assert (error.line, error.code) == (2, "too_long")
    assert [item.text for item in (first, last) if isinstance(item, Document)] == ["a", "b"]


def test_a_line_of_a_great_many_values_is_refused_and_one_of_a_great_many_commas_is_not() -> None:
    values = b'{"text": "a", "x": [' + b"1," * (MAX_VALUES + 1) + b"1]}"
    commas = b'{"text": "a' + b"," * (2 * MAX_VALUES) + b'"}'
    unclosed = b'{"text": "' + b'\\",' * MAX_VALUES
    refused = parse_line(values, 1, 0, Options())
    assert isinstance(refused, IngestError)
    assert refused.code == "too_long"
    assert isinstance(parse_line(commas, 1, 0, Options()), Document)
    cut = parse_line(unclosed, 1, 0, Options())
    assert isinstance(cut, IngestError)
    assert cut.code == "invalid_json"


def test_a_file_in_utf_16_is_told_so() -> None:
    assert "UTF-16" in only_error('{"text": "a"}'.encode("utf-16")).message


def test_the_last_of_two_fields_of_one_name_counts() -> None:
    (document,) = items(b'{"text": "first", "text": "last"}')
    assert isinstance(document, Document)
    assert document.text == "last"


def test_records_parsed_elsewhere_obey_the_same_rules() -> None:
    records = [
        {"text": "a", "id": 1, "x": {"y": "\0"}},
        "no object",
        {"text": "\ud800"},
        {"text": "a", "x": float("nan")},
        {"text": "b"},
    ]
    found = list(documents_of(records, Options()))
    assert [item.code for item in found if isinstance(item, IngestError)] == [
        "wrong_type",
        "bad_encoding",
        "invalid_json",
    ]
    assert [item for item in found if isinstance(item, Document)] == [
        Document(position=0, id="1", text="a", fields={"x": {"y": "\ufffd"}}),
        Document(position=1, id="1", text="b"),
    ]


def test_messages_stay_short_whatever_the_names() -> None:
    error = only_error(json.dumps({"x" * 100_000: 1}).encode(), text_field="t" * 100_000)
    assert len(error.message) < 500
    assert len(error.column or "") < 100
