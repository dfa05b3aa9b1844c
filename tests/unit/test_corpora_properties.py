"""What holds for all documents and for all bytes."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpora import Format, Limits, Options, Store, Upload, read, store_items
from corpora.parquet import read_parquet
from corpora.readers import Item
from corpora.streams import Budget
from corpusmill.documents import Document, IngestError
from corpusmill.errors import CorpusmillError, InvalidRequest

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

#: Text as documents hold it: no lone surrogates, no NUL.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).filter(
    lambda name: name.strip() and name not in {"text", "id", "reference", "pair"}
)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
references = st.none() | texts | st.lists(texts, max_size=3)


@st.composite
def documents(draw: st.DrawFn, most: int = 6) -> list[Document]:
    return [
        Document(
            position=position,
            id=draw(st.just(str(position)) | texts),
            text=draw(texts),
            text_pair=draw(texts),
            reference=draw(references),
            fields=draw(st.dictionaries(names, values, max_size=3)),
        )
        for position in range(draw(st.integers(0, most)))
    ]


@st.composite
def flat_documents(draw: st.DrawFn) -> list[Document]:
    """Documents as a table of texts can hold them: the same fields, all text, an empty reference being none."""
    columns = draw(st.lists(names, unique=True, max_size=3))
    return [
        Document(
            position=position,
            id=draw(texts.filter(bool)),
            text=draw(texts),
            text_pair=draw(texts),
            reference=draw(texts.map(lambda text: text or None)),
            fields={name: draw(texts) for name in columns},
        )
        for position in range(draw(st.integers(1, 6)))
    ]


def record_of(document: Document) -> dict[str, Any]:
    return {
        "id": document.id,
        "text": document.text,
        "pair": document.text_pair,
        "reference": document.reference,
        **document.fields,
    }


def items(data: bytes, format_: Format, **options: Any) -> list[Item]:
    return list(read(io.BytesIO(data), Upload(format_), Options(**options)))


@contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@quick
@given(documents(), st.booleans(), st.booleans())
def test_documents_survive_json_lines(written: list[Document], ascii_only: bool, crlf: bool) -> None:
    end = "\r\n" if crlf else "\n"
    data = "".join(json.dumps(record_of(document), ensure_ascii=ascii_only) + end for document in written)
    assert items(data.encode(), Format.JSONL, text_pair_field="pair") == written


@quick
@given(flat_documents(), st.sampled_from([(Format.CSV, ","), (Format.TSV, "\t")]), st.sampled_from(["\r\n", "\n"]))
def test_documents_survive_tables_of_text(written: list[Document], kind: tuple[Format, str], end: str) -> None:
    buffer = io.StringIO()
    # Python 3.11 writes a CR unquoted where lines end in LF, and then reads it as the end of a line itself.
    quoting: Literal[0, 1] = csv.QUOTE_ALL if end == "\n" else csv.QUOTE_MINIMAL
    columns = list(record_of(written[0]))
    writer = csv.DictWriter(buffer, columns, delimiter=kind[1], lineterminator=end, quoting=quoting)
    writer.writeheader()
    writer.writerows(record_of(document) for document in written)
    assert items(buffer.getvalue().encode(), kind[0], text_pair_field="pair") == written


@quick
@given(flat_documents(), st.booleans())
def test_documents_survive_parquet(written: list[Document], dictionary: bool) -> None:
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(
        [record_of(document) for document in written],
        schema=pa.schema([(name, pa.string()) for name in record_of(written[0])]),
    )
    pq.write_table(table, buffer, use_dictionary=dictionary, row_group_size=2)
    options = Options(text_pair_field="pair")
    assert list(read_parquet(buffer, Budget(Limits(), lambda: 1 << 20), options)) == written


@quick
@given(st.lists(documents(most=3), min_size=1, max_size=3))
def test_documents_survive_archives(parts: list[list[Document]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, part in enumerate(parts):
            lines = [json.dumps(record_of(document)) for document in part]
            archive.writestr(f"{number}.jsonl", "\n".join(lines))
    found = items(buffer.getvalue(), Format.ZIP, text_pair_field="pair")
    expected = [document for part in parts for document in part]
    assert [record_of(item) for item in found if isinstance(item, Document)] == [record_of(one) for one in expected]
    assert [item.position for item in found if isinstance(item, Document)] == list(range(len(expected)))


@settings(quick, max_examples=30)
@given(documents(most=12), st.integers(-2, 14), st.integers(-2, 14))
def test_documents_survive_the_store_and_slices_equal_the_whole(written: list[Document], start: int, stop: int) -> None:
    with directory() as path:
        store_items(written, path / "c")
        store = Store(path / "c")
        assert list(store.documents()) == written
        assert list(store.documents(start, stop)) == written[max(start, 0) : max(stop, 0)]
        assert [store.document(position) for position in range(len(store))] == written
        assert sum(store.text_sizes()) == store.total_text_bytes


pieces = st.lists(
    st.binary(max_size=6)
    | st.sampled_from([
        b'{"text": "a"}', b'{"text":', b'"', b'""', b",", b"\n", b"\r\n", b"\r", b"\xef\xbb\xbf", b"\xff", b"\0", b"\\ud800",
        b"\\u0000", b"[", b"{", b"NaN", b"1e999", b'{"id": 1, "text": "', b"x" * 700, b"\t", b" ",
    ]),
    max_size=30,
).map(b"".join)  # fmt: skip


@settings(quick, max_examples=200)
@given(pieces)
def test_any_bytes_as_json_lines_are_documents_or_errors_line_by_line(data: bytes) -> None:
    found = items(data, Format.JSONL, limits=Limits(max_document_bytes=1024))
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    filled = [number for number, line in enumerate(lines, 1) if line.strip(b" \t\r")]
    errors = [item.line for item in found if isinstance(item, IngestError)]
    assert len(found) == len(filled)
    assert set(errors) <= set(filled)
    assert [item.position for item in found if isinstance(item, Document)] == list(range(len(found) - len(errors)))


@settings(quick, max_examples=100)
@given(pieces, st.sampled_from([Format.CSV, Format.TSV, Format.TEXT]))
def test_any_bytes_as_rows_are_documents_errors_or_a_refusal(data: bytes, format_: Format) -> None:
    try:
        found = items((b"text\tid\n" if format_ is Format.TSV else b"text,id\n") + data, format_)
    except InvalidRequest:
        return
    lines = [item.line for item in found if isinstance(item, IngestError)]
    assert lines == sorted(lines)


@settings(quick, max_examples=200)
@given(st.lists(st.lists(st.sampled_from(["a", "b c", "é", "\0", "x" * 40]), min_size=1, max_size=4), max_size=8))
def test_unquoted_rows_are_a_document_or_an_error_each(rows: list[list[str]]) -> None:
    data = "text,id\n" + "".join(",".join(row) + "\n" for row in rows)
    found = items(data.encode(), Format.CSV)
    assert len(found) == len(rows)
    assert [item.line for item in found if isinstance(item, IngestError)] == [
        number for number, row in enumerate(rows, 2) if len(row) != 2
    ]


@quick
@given(st.binary(max_size=200), st.sampled_from([Format.ZIP, Format.PARQUET]))
def test_any_bytes_as_a_binary_format_are_refused(data: bytes, format_: Format) -> None:
    prefix = b"PK\x03\x04" if format_ is Format.ZIP else b"PAR1"
    with directory() as path:
        (path / "upload").write_bytes(prefix + data)
        if format_ is Format.ZIP:
            with pytest.raises(CorpusmillError):
                list(read(path / "upload", Upload(format_), Options()))
        else:
            with pytest.raises(CorpusmillError), (path / "upload").open("rb") as file:
                list(read_parquet(file, Budget(Limits(), lambda: 1 << 20), Options()))


@quick
@given(st.binary(max_size=300), st.integers(1, 40))
def test_lines_do_not_depend_on_where_blocks_end(data: bytes, block: int) -> None:
    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size if size and size > 0 else block, block))

    whole = list(read(io.BytesIO(b"text\n" + data), Upload(Format.TEXT), Options()))
    assert list(read(Trickle(b"text\n" + data), Upload(Format.TEXT), Options())) == whole
