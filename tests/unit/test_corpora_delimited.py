"""CSV, TSV and plain text become documents, or errors with the physical line."""

from __future__ import annotations

import io
from typing import Any

import pytest

from corpora import Format, Limits, Options, Upload, delimited, read
from corpora.readers import Item
from corpusmill.documents import Document, IngestError
from corpusmill.errors import InvalidRequest


def items(data: bytes, format_: Format = Format.CSV, **options: Any) -> list[Item]:
    return list(read(io.BytesIO(data), Upload(format_), Options(**options)))


def texts(found: list[Item]) -> list[str]:
    return [item.text for item in found if isinstance(item, Document)]


def errors(found: list[Item]) -> list[tuple[int, str, str | None]]:
    return [(item.line, item.code, item.column) for item in found if isinstance(item, IngestError)]


def test_rows_become_documents_whose_cells_stay_text() -> None:
    found = items(b'\xef\xbb\xbfid,text,reference,stars\r\na,"Good, ""really""",positive,5\r\n,plain,,\r\n')
    assert found == [
        Document(position=0, id="a", text='Good, "really"', reference="positive", fields={"stars": "5"}),
        Document(position=1, id="1", text="plain", fields={"stars": ""}),
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_quoted_line_ends_are_kept_and_lines_are_counted_physically(end: bytes) -> None:
    lines = [b"id,text", b'1,"two', b'lines"', b"", b"2", b"3,fine"]
    found = items(end.join(lines) + end)
    assert texts(found) == ["two" + end.decode() + "lines", "fine"]
    assert errors(found) == [(5, "missing_field", "text")]


def test_rows_of_another_length_than_the_header_are_errors() -> None:
    found = items(b"id,text,stars\n1,a\n2,b,c,d\n3,c,5\n")
    assert errors(found) == [(2, "missing_field", "stars"), (3, "wrong_type", None)]
    assert texts(found) == ["c"]


def test_a_cell_longer_than_the_csv_modules_own_limit_is_read() -> None:
    assert texts(items(b"text\n" + b"x" * 200_000 + b"\n")) == ["x" * 200_000]


def test_bad_encoding_costs_its_record_only() -> None:
    found = items(b'text\na\n"b\n\xff"\nc\xe9\nd\n')
    assert texts(found) == ["a", "d"]
    assert errors(found) == [(4, "bad_encoding", "1"), (5, "bad_encoding", "2")]


def test_an_unclosed_quotation_mark_costs_its_line_only() -> None:
    found = items(b'id,text\n1,a\n2,"open\n3,b\n4,"c ""d"""\n5,e\n')
    assert texts(found) == ["a", "b", 'c "d"', "e"]
    assert errors(found) == [(3, "wrong_type", None)]


def test_a_quotation_mark_that_is_not_doubled_is_an_error_and_not_dropped() -> None:
    found = items(b'id,text\n1,"a" b\n2,5" pipe\n')
    assert texts(found) == ['5" pipe']
    assert errors(found) == [(2, "wrong_type", None)]


def test_lines_are_read_again_only_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "REREAD_BUDGET", 10)
    found = items(b'text\n"open\n"open\na\nb\n')
    assert errors(found)[0] == (2, "wrong_type", None)
    literal = items(b'text\tx\n"open\t1\n"open\t2\na\t3\nb\t4\n', Format.TSV)
    assert texts(literal) == ['"open', '"open', "a", "b"]


def test_an_overlong_record_is_passed_over_to_its_end() -> None:
    limits = Limits(max_document_bytes=1024)
    long_line = b'1,"' + b"x" * 3000 + b'\nrest"\n'
    many_lines = b'2,"' + b"y\n" * 800 + b'",\n'
    found = items(b"id,text\n" + long_line + many_lines + b"3,fine\n", limits=limits)
    assert texts(found) == ["fine"]
    assert errors(found) == [(2, "too_long", None), (4, "too_long", None)]


def test_nul_becomes_the_replacement_character() -> None:
    (document,) = items(b"text,a\0\nx\0y,\0\n")
    assert document == Document(position=0, id="0", text="x\ufffdy", fields={"a\ufffd": "\ufffd"})


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (b"", {}, "empty"),
        (b"id,body,stars\n1,a,5\n", {}, "id, body, stars"),
        (b"id,Text\n1,a\n", {}, "Did you mean 'Text'"),
        (b"id,text,id,text\n", {}, "More than one column is named id, text"),
        (b",text,\n", {}, "Column 1, 3 has no name"),
        (b"text\na\n", {"reference_field": "label"}, "reference_field="),
        (b"text\na\n", {"id_field": "key"}, "id_field="),
        (b"text\na\n", {"text_pair_field": "pair"}, "text_pair_field="),
        (b"text,\xff\na,b\n", {}, "header"),
        (b'text,"open\na,b\n', {}, "header"),
    ],
)
def test_a_header_that_cannot_be_used_refuses_the_whole_upload(data: bytes, options: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        items(data, **options)
    assert said in str(refusal.value)


def test_a_refusal_says_which_parameter_to_mend() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        items(b"id,texts\n1,a\n")
    assert [fault.pointer for fault in refusal.value.faults] == ["text_field"]


def test_tsv_reads_quoted_cells_and_takes_what_is_not_well_quoted_literally() -> None:
    data = b'id\ttext\tx\n1\t"a\tb\n""c"""\t1\n2\t"Hello," he said\t2\n3\t"open\t3\n4\tplain\t4\n'
    found = items(data, Format.TSV)
    assert texts(found) == ['a\tb\n"c"', '"Hello," he said', '"open', "plain"]
    assert errors(found) == []


def test_tsv_lines_after_an_opening_quotation_mark_are_not_lost_beyond_the_limit() -> None:
    data = b'text\tx\n"open\t1\n' + b"line\t2\n" * 300
    found = items(data, Format.TSV, limits=Limits(max_document_bytes=1024))
    assert texts(found) == ['"open'] + ["line"] * 300
    assert errors(found) == []


def test_plain_text_is_a_document_a_line_empty_ones_included() -> None:
    found = items(b"\xef\xbb\xbfone\r\n\n  two \n\xff\nth\0ree", Format.TEXT)
    assert texts(found) == ["one", "", "  two ", "th\ufffdree"]
    assert errors(found) == [(4, "bad_encoding", "1")]
    assert [item.id for item in found if isinstance(item, Document)] == ["0", "1", "2", "3"]


def test_plain_text_has_no_pairs() -> None:
    with pytest.raises(InvalidRequest, match="no fields"):
        items(b"a\n", Format.TEXT, text_pair_field="b")
