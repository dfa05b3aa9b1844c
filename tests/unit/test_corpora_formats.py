"""The format of an upload follows from what its sender says of it."""

from __future__ import annotations

import pytest

from corpora import Encoding, Format, Upload, upload_of
from corpusmill.errors import UnsupportedFormat


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/x-ndjson", Format.JSONL),
        ("application/jsonl", Format.JSONL),
        ("application/x-jsonlines", Format.JSONL),
        ("application/json-lines", Format.JSONL),
        ("text/csv", Format.CSV),
        ("Text/CSV; charset=UTF-8; header=present", Format.CSV),
        ("text/tab-separated-values", Format.TSV),
        ("application/vnd.apache.parquet", Format.PARQUET),
        ("application/x-parquet", Format.PARQUET),
        ("text/plain", Format.TEXT),
        ("application/zip", Format.ZIP),
    ],
)
def test_a_media_type_names_the_format(media_type: str, expected: Format) -> None:
    assert upload_of(media_type) == Upload(expected)


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("reviews.jsonl", Upload(Format.JSONL)),
        ("REVIEWS.NDJSON", Upload(Format.JSONL)),
        ("a.b.csv.gz", Upload(Format.CSV, Encoding.GZIP)),
        ("talks.tsv.zst", Upload(Format.TSV, Encoding.ZSTD)),
        ("C:\\data\\x.parquet", Upload(Format.PARQUET)),
        ("../../etc/lines.txt", Upload(Format.TEXT)),
        ("all.zip", Upload(Format.ZIP)),
    ],
)
@pytest.mark.parametrize(
    "media_type", [None, "application/octet-stream", "application/x-www-form-urlencoded", "text/plain"]
)
def test_a_file_name_says_what_a_vague_media_type_does_not(
    media_type: str | None, filename: str, expected: Upload
) -> None:
    assert upload_of(media_type, None, filename) == expected


def test_a_clear_media_type_wins_over_the_file_name() -> None:
    assert upload_of("text/csv", None, "reviews.jsonl") == Upload(Format.CSV)


def test_a_content_encoding_wins_over_the_file_name() -> None:
    assert upload_of("text/csv", "zstd", "reviews.csv.gz") == Upload(Format.CSV, Encoding.ZSTD)
    assert upload_of("text/csv", "identity") == Upload(Format.CSV)
    assert upload_of("application/gzip", None, "reviews.csv.gz") == Upload(Format.CSV, Encoding.GZIP)


@pytest.mark.parametrize(
    ("content_type", "encoding", "filename", "said"),
    [
        ("application/pdf", None, None, "application/pdf"),
        ("application/json", None, "corpus.json", "corpus.json"),
        (None, None, None, "No Content-Type"),
        (None, None, "data.xlsx", "data.xlsx"),
        ("application/gzip", None, "data.gz", "application/gzip"),
        ("text/csv; charset=iso-8859-1", None, None, "iso-8859-1"),
        ("text/csv", "br", None, "gzip or zstd"),
        ("text/csv", "gzip, gzip", None, "gzip or zstd"),
    ],
)
def test_what_nobody_can_read_is_refused_with_what_would_be_accepted(
    content_type: str | None, encoding: str | None, filename: str | None, said: str
) -> None:
    with pytest.raises(UnsupportedFormat, match=r"UTF-8|Send one of|gzip or zstd") as refusal:
        upload_of(content_type, encoding, filename)
    assert said in str(refusal.value)
