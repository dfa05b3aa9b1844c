"""Parquet rows become documents, with JSON values whatever the columns hold."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import io
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpora import Limits, Options
from corpora.parquet import read_parquet
from corpora.parquet_pages import check_footer
from corpora.parquet_values import readable, sizes
from corpora.readers import Item
from corpora.streams import Budget
from corpusmill.documents import Document, IngestError
from corpusmill.errors import InvalidRequest, TooLarge


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def items(data: bytes, **options: Any) -> list[Item]:
    """What the file holds, read in this process and not in the child that a service reads it in."""
    return list(read_parquet(io.BytesIO(data), Budget(Limits(), lambda: len(data)), Options(**options)))


def fields(columns: dict[str, Any]) -> list[dict[str, Any]]:
    rows = len(next(iter(columns.values())))
    found = items(parquet({"text": ["a"] * rows, **columns}))
    assert all(isinstance(item, Document) for item in found)
    return [dict(item.fields) for item in found if isinstance(item, Document)]


def not_utf8(values: list[bytes | None]) -> pa.Array:
    """Bytes that claim to be text."""
    held = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(held), held.buffers(), held.null_count)


def test_rows_become_documents() -> None:
    columns = {"id": [1, None], "text": ["one", "two"], "reference": [["a", "b"], None], "stars": [5, None]}
    assert items(parquet(columns)) == [
        Document(position=0, id="1", text="one", reference=["a", "b"], fields={"stars": 5}),
        Document(position=1, id="1", text="two", fields={"stars": None}),
    ]


def test_values_become_json() -> None:
    moment = dt.datetime(2026, 1, 31, 12, 30)
    columns = {
        "nan": pa.array([float("nan"), float("-inf")]),
        "half": pa.array(np.array([1.5, 2], np.float16)),
        "decimal": [decimal.Decimal("1.50"), None],
        "date": [moment.date(), None],
        "time": [moment.time(), None],
        "plain": pa.array([moment, None], pa.timestamp("s")),
        "nanoseconds": pa.array([1, None], pa.timestamp("ns")),
        "zoned": pa.array([moment, None], pa.timestamp("ms", "Europe/Berlin")),
        "duration": pa.array([1500, None], pa.duration("ms")),
        "bytes": [b"\xff\x00", None],
        "fixed": pa.array([b"ab", None], pa.binary(2)),
        "category": pa.array(["c\0", None]).dictionary_encode(),
        "view": pa.array(["v", None], pa.string_view()),
        "large": pa.array(["l", None], pa.large_string()),
        "nothing": pa.nulls(2),
        "struct": [{"at": moment, "tags": ["x\0", None]}, None],
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        "lists": pa.array([[[1], []], None], pa.list_(pa.list_(pa.int8()))),
        "pair": pa.array([[1.5, float("nan")], None], pa.list_(pa.float32(), 2)),
        "unsigned": pa.array([2**64 - 1, None], pa.uint64()),
    }
    first, second = fields(columns)
    assert first == {
        "nan": None,
        "half": 1.5,
        "decimal": "1.50",
        "date": "2026-01-31",
        "time": "12:30:00.000000",
        "plain": "2026-01-31 12:30:00.000",
        "nanoseconds": "1970-01-01 00:00:00.000000001",
        "zoned": "2026-01-31 12:30:00.000Z",
        "duration": 1500,
        "bytes": "/wA=",
        "fixed": "YWI=",
        "category": "c\ufffd",
        "view": "v",
        "large": "l",
        "nothing": None,
        "struct": {"at": "2026-01-31 12:30:00.000000", "tags": ["x\ufffd", None]},
        "map": [["k", 1]],
        "lists": [[1], []],
        "pair": [1.5, None],
        "unsigned": 2**64 - 1,
    }
    assert second.pop("nan") == "-Infinity"
    assert second.pop("half") == 2.0
    assert set(second.values()) == {None}


def test_bytes_are_text_where_a_document_needs_text() -> None:
    data = parquet({"text": [b"gr\xc3\xbcn", b"\xff"], "id": [b"a", b"b"], "reference": [b"x", b"y"]})
    document, error = items(data)
    assert document == Document(position=0, id="a", text="grün", reference="x")
    assert isinstance(error, IngestError)
    assert (error.line, error.code, error.column) == (2, "bad_encoding", "text")


def test_a_row_that_is_not_utf8_is_an_error_and_the_others_are_documents() -> None:
    found = items(parquet({"text": not_utf8([b"a", b"\xff", b"c"]), "x": not_utf8([b"1", b"2", b"\xfe"])}))
    assert [item.text for item in found if isinstance(item, Document)] == ["a"]
    assert [(item.line, item.code, item.column) for item in found if isinstance(item, IngestError)] == [
        (2, "bad_encoding", "text"),
        (3, "bad_encoding", "x"),
    ]


def test_a_null_text_is_an_error() -> None:
    _, error = items(parquet({"text": ["a", None]}))
    assert isinstance(error, IngestError)
    assert (error.line, error.code, error.column) == (2, "wrong_type", "text")


def test_a_row_beyond_the_limit_is_an_error_and_its_values_are_never_made() -> None:
    data = parquet({"text": ["short", "x" * 5000, "last"]})
    first, error, last = items(data, limits=Limits(max_document_bytes=1024))
    assert isinstance(error, IngestError)
    assert (error.line, error.code) == (2, "too_long")
    assert [item.position for item in (first, last) if isinstance(item, Document)] == [0, 1]


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", None])
def test_many_rows_in_many_pages_and_row_groups_come_back_in_order(encoding: str | None) -> None:
    chance = random.Random(0)
    texts = ["".join(chance.choices("abc ", k=chance.randrange(400))) for _ in range(12_000)]
    tags = [[text[:5]] * (len(text) % 3) for text in texts]
    options: dict[str, Any] = {"row_group_size": 5_000, "data_page_size": 20_000, "dictionary_pagesize_limit": 100_000}
    if encoding:
        options |= {"use_dictionary": False, "column_encoding": {"text": encoding}}
    found = items(parquet({"text": texts, "tags": tags}, **options))
    assert [item.text for item in found if isinstance(item, Document)] == texts
    assert [item.fields["tags"] for item in found if isinstance(item, Document)] == tags


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ({"body": ["a"]}, {}, "There are: body"),
        ({"text": [1]}, {}, "holds int64, not text"),
        ({"text": ["a"], "pair": [["a"]]}, {"text_pair_field": "pair"}, "not text"),
    ],
)
def test_columns_that_cannot_be_used_refuse_the_upload(columns: Any, options: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        items(parquet(columns), **options)
    assert said in str(refusal.value)


def test_types_that_have_no_json_are_refused() -> None:
    same_names = pa.struct([pa.field("a", pa.int8()), pa.field("a", pa.int8())])
    for kind in (pa.month_day_nano_interval(), pa.list_(pa.month_day_nano_interval()), same_names):
        with pytest.raises(InvalidRequest):
            readable(kind)


def test_two_columns_of_one_name_refuse_the_upload() -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), buffer)
    with pytest.raises(InvalidRequest, match="More than one column is named text"):
        items(buffer.getvalue())


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b'{"text": "a"}\n' * 10])
def test_what_is_not_parquet_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="Parquet"):
        items(data)


def damaged(whole: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    data = bytearray(whole)
    for _ in range(chance.randrange(1, 6)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


WHOLE = parquet({"text": ["abc", "def"] * 50, "tags": [["x"], None] * 50, "n": list(range(100))})


def test_a_damaged_file_never_raises_anything_but_our_errors() -> None:
    # Seeds with which Arrow 26 ended its process: they are for the child, in the tests of integration.
    for seed in set(range(700)) - {172, 650}:
        with contextlib.suppress(InvalidRequest, TooLarge):
            list(read_parquet(io.BytesIO(damaged(WHOLE, seed)), Budget(Limits(), lambda: 1 << 20), Options()))


def schema_of(children: list[int]) -> bytes:
    """A file with nothing but a footer whose schema's elements have so many children each."""
    elements = b"".join(b"\x48\x01a" + (b"\x15" + varint(2 * count) if count else b"") + b"\0" for count in children)
    footer = b"\x15\x02\x19" + b"\xfc" + varint(len(children)) + elements + b"\x16\0\x19\x0c\0"
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def test_schemas_deeper_or_wider_than_arrow_should_build_are_refused() -> None:
    for children in ([1] * 5000 + [0], [5000] + [0] * 5000):
        data = schema_of(children)
        with pytest.raises(TooLarge, match="nests deeper"):
            check_footer(io.BytesIO(data), len(data))
    harmless = schema_of([2, 0, 1, 0])
    check_footer(io.BytesIO(harmless), len(harmless))


def test_sizes_are_those_of_the_values_themselves() -> None:
    texts = pa.array(["ab", None, "ü", "", "abc"])
    expected = [2, 0, 2, 0, 3]
    for array in (texts, texts.cast(pa.large_string()), texts.cast(pa.string_view()), texts.dictionary_encode()):
        assert sizes(array).tolist() == expected
        assert sizes(array.slice(1, 3)).tolist() == expected[1:4]
    assert sizes(pa.array([1, None, 3], pa.int32())).tolist() == [4, 0, 4]
    lists = pa.array([["a", "bcd"], None, [], [None]])
    assert sizes(lists).tolist() == [20, 0, 0, 8]
    assert sizes(lists.slice(1)).tolist() == [0, 0, 8]
    assert sizes(pa.array([{"a": "xy", "b": 1}, None])).tolist() == [10, 0]
    assert sizes(pa.array([[("k", "vv")], None], pa.map_(pa.string(), pa.string()))).tolist() == [11, 0]
    assert sizes(pa.array([["a", "b"], None], pa.list_(pa.string(), 2))).tolist() == [18, 16]
