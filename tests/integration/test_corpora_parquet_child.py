"""Parquet files are read in a child of their own: what it reads comes back as it is, and its death is a refusal."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import random
import sys
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpora import Format, Limits, Options, ReaderKilled, Upload, read
from corpora.parquet import read_parquet
from corpora.parquet_child import read_parquet_apart
from corpora.readers import Item
from corpora.streams import Budget
from corpusmill.documents import Document, IngestError
from corpusmill.errors import CorpusmillError, InvalidRequest, TooLarge


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def items(data: bytes, **options: Any) -> list[Item]:
    return list(read(io.BytesIO(data), Upload(Format.PARQUET), Options(**options)))


def not_utf8(values: list[bytes | None]) -> pa.Array:
    """Bytes that claim to be text."""
    held = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(held), held.buffers(), held.null_count)


def damaged(whole: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    data = bytearray(whole)
    for _ in range(chance.randrange(1, 6)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


WHOLE = parquet({"text": ["abc", "def"] * 50, "tags": [["x"], None] * 50, "n": list(range(100))})


def test_documents_and_errors_come_out_of_the_child_as_they_were_read() -> None:
    columns = {
        "text": not_utf8([b"one", b"tw\xff", None, "fünf 😀\n\0 \u2028".encode(), b"x" * 5_000]),
        "id": ["a", "b", "c", None, "e"],
        "reference": [["p", "q"], None, [], ["r"], None],
        "at": [dt.datetime(2026, 1, 31, 12, 30), None, None, None, None],
        "number": pa.array([float("nan"), 1e300, -0.0, 2.5, None]),
        "nested": [{"deep": [[1], []]}, None, None, {"deep": None}, None],
    }
    data = parquet(columns)
    options = Options(limits=Limits(max_document_bytes=1024))
    here = list(read_parquet(io.BytesIO(data), Budget(options.limits, lambda: len(data)), options))
    assert [type(item) for item in here] == [Document, IngestError, IngestError, Document, IngestError]
    assert items(data, limits=options.limits) == here


@pytest.mark.parametrize(
    ("columns", "limits", "error"),
    [
        ({"body": ["a"]}, Limits(), InvalidRequest),
        ({"text": ["a" * 2_000]}, Limits(max_upload_bytes=1_000), TooLarge),
    ],
)
def test_a_refusal_comes_out_of_the_child_with_its_words_and_faults(
    columns: dict[str, Any], limits: Limits, error: type[Exception]
) -> None:
    data = parquet(columns)
    with pytest.raises(error) as here:
        list(read_parquet(io.BytesIO(data), Budget(limits, lambda: len(data)), Options(limits=limits)))
    with pytest.raises(error) as there:
        items(data, limits=limits)
    assert str(there.value) == str(here.value)
    assert getattr(there.value, "faults", None) == getattr(here.value, "faults", None)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b'{"text": "a"}\n' * 10])
def test_what_is_not_parquet_is_refused_by_the_child(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="Parquet"):
        items(data)


@pytest.mark.parametrize("seed", [172, 650, 1925, 2614])
def test_a_file_that_its_reader_does_not_survive_is_refused(seed: int) -> None:
    with contextlib.suppress(InvalidRequest, TooLarge):
        items(damaged(WHOLE, seed))


def stood_in_for(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that reads Parquet is this shell script."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize("number", ["SEGV", "ABRT", "BUS", "ILL", "FPE"])
def test_a_reader_that_crashes_is_a_refusal_of_the_file(
    number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stood_in_for(f"ulimit -c 0; kill -{number} $$", tmp_path, monkeypatch)
    with pytest.raises(InvalidRequest, match="could not survive"):
        items(WHOLE)


def test_a_reader_that_takes_too_much_processor_time_is_a_refusal_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stood_in_for("ulimit -c 0; kill -XCPU $$", tmp_path, monkeypatch)
    with pytest.raises(TooLarge, match="CORPUSMILL_PARQUET_SECONDS"):
        items(WHOLE)


@pytest.mark.parametrize("said", ["", """printf '{"id":"0","te'; """])
@pytest.mark.parametrize("number", ["KILL", "TERM", "INT"])
def test_a_reader_that_others_end_says_nothing_of_the_file(
    said: str, number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stood_in_for(f"{said}kill -{number} $$", tmp_path, monkeypatch)
    with pytest.raises(ReaderKilled, match=f"SIG{number}"):
        items(WHOLE)


@pytest.mark.parametrize("ending", ["exit 1", "exit 0"])
def test_a_reader_that_cannot_run_is_the_machines_fault(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stood_in_for(f"echo Too many open files >&2; {ending}", tmp_path, monkeypatch)
    with pytest.raises(OSError, match="Too many open files") as failure:
        items(WHOLE)
    assert not isinstance(failure.value, ReaderKilled)


def test_a_reader_that_fails_over_the_file_as_nobody_foresaw_is_no_fault_of_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "whole.parquet"
    path.write_bytes(WHOLE)
    options = Options(text_field=3)  # type: ignore[arg-type]  # over which it stumbles
    with path.open("rb") as file, pytest.raises(CorpusmillError, match="failed with") as failure:
        list(read_parquet_apart(file, Budget(options.limits, lambda: len(WHOLE)), options))
    assert type(failure.value) is CorpusmillError


def children() -> set[int]:
    """Processes that this one started, some of them for other tests (a database server)."""
    return {child.pid for child in psutil.Process().children()}


def test_a_reader_ends_when_nobody_wants_more(tmp_path: Path) -> None:
    path = tmp_path / "many.parquet"
    path.write_bytes(parquet({"text": [f"document {number}" for number in range(50_000)]}))
    others = children()
    reading = read(path, Upload(Format.PARQUET), Options())
    assert isinstance(next(reading), Document)
    assert len(children() - others) == 1
    reading.close()  # type: ignore[attr-defined]
    assert children() <= others


def test_a_reader_that_is_killed_amid_its_work_says_nothing_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "many.parquet"
    path.write_bytes(parquet({"text": [f"document {number}" * 20 for number in range(50_000)]}))
    others = children()
    reading = read(path, Upload(Format.PARQUET), Options())
    next(reading)
    [reader] = children() - others
    psutil.Process(reader).kill()
    with pytest.raises(ReaderKilled):
        list(reading)
