"""A Parquet file that takes its reader too long is refused, and its reader ended by the kernel."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpora import Format, Limits, Options, Upload, read
from corpusmill.errors import TooLarge


def test_a_parquet_file_that_takes_its_reader_too_long_is_refused_with_the_setting_s_name() -> None:
    rows = 3_000_000  # a few kilobytes that take several seconds to read
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array(["the same text"] * rows).dictionary_encode()}), buffer)
    buffer.seek(0)
    options = Options(limits=Limits(parquet_seconds=1, max_expansion=10**9))
    with pytest.raises(TooLarge, match=r"more than 1 s of processor time.*CORPUSMILL_PARQUET_SECONDS"):
        for _ in read(buffer, Upload(Format.PARQUET), options):
            pass
