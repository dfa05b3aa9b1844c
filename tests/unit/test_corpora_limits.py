"""What expands too far is refused, and archives and compressed uploads read like plain ones."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from corpora import Encoding, Format, Limits, Options, Upload, read
from corpora.archive import members
from corpora.parquet import read_parquet
from corpora.streams import Budget
from corpusmill.documents import Document, IngestError
from corpusmill.errors import InvalidRequest, TooLarge, UnsupportedFormat

MIB = 1 << 20
LINE = b'{"text": "the same line again and again"}\n'


def read_all(data: bytes, upload: Upload, options: Options | None = None) -> list[Document | IngestError]:
    return list(read(io.BytesIO(data), upload, options or Options()))


@pytest.mark.parametrize("encoding", list(Encoding))
def test_compressed_uploads_read_like_plain_ones(encoding: Encoding) -> None:
    data = b"".join(b'{"text": "document %d"}\n' % number for number in range(20_000))
    parts = [data[: len(data) // 2], data[len(data) // 2 :]]
    if encoding is Encoding.GZIP:
        packed = b"".join(gzip.compress(part) for part in parts)
    else:
        packed = b"".join(zstandard.ZstdCompressor().compress(part) for part in parts)
    assert read_all(packed, Upload(Format.JSONL, encoding)) == read_all(data, Upload(Format.JSONL))


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_compressed_upload_cut_short_or_damaged_is_refused(encoding: Encoding) -> None:
    data = b"".join(b'{"text": "document %d"}\n' % (number * 7919) for number in range(1000))
    packed = gzip.compress(data) if encoding is Encoding.GZIP else zstandard.ZstdCompressor().compress(data)
    for bad in (packed[:-20], packed[: len(packed) // 2], LINE, packed[:20] + b"\0" * 50 + packed[70:]):
        with pytest.raises(InvalidRequest, match=encoding.value):
            read_all(bad, Upload(Format.JSONL, encoding))


def test_a_zstd_frame_may_not_ask_for_a_large_window() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, compression_level=1)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = stream.compress(LINE) + stream.flush()
    with pytest.raises(InvalidRequest, match="--long"):
        read_all(packed, Upload(Format.JSONL, Encoding.ZSTD))


def test_more_decoded_bytes_than_the_limit_are_refused() -> None:
    options = Options(limits=Limits(max_upload_bytes=1000))
    with pytest.raises(TooLarge, match="CORPUSMILL_MAX_UPLOAD_BYTES"):
        read_all(LINE * 100, Upload(Format.JSONL), options)
    with pytest.raises(TooLarge, match="CORPUSMILL_MAX_UPLOAD_BYTES"):
        read_all(gzip.compress(LINE * 100), Upload(Format.JSONL, Encoding.GZIP), options)


def test_a_high_ratio_is_harmless_in_a_small_upload_and_refused_in_a_large_one() -> None:
    upload = Upload(Format.JSONL, Encoding.ZSTD)
    packer = zstandard.ZstdCompressor()
    small = packer.compress(LINE * 20_000)
    assert len(LINE) * 20_000 / len(small) > 1000
    assert len(read_all(small, upload)) == 20_000
    large = b'{"text": "%s"}\n' % (b"the same words " * 1_000)
    with pytest.raises(TooLarge, match="CORPUSMILL_MAX_EXPANSION"):
        read_all(packer.compress(large * (16 * MIB // len(large))), upload)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_members_of_an_archive_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    parquet = io.BytesIO()
    pq.write_table(pa.table({"text": ["from parquet"], "id": ["p"]}), parquet)
    data = zipped(
        {
            "d/essay.txt": b"\xef\xbb\xbfA whole\nfile.",
            "c.csv": b"text,stars\nfrom csv,3\n",
            "a.jsonl": b'{"text": "from jsonl"}\nbroken\n',
            "b.parquet": parquet.getvalue(),
            "__MACOSX/._a.jsonl": b"\0\0",
        }
    )
    for upload, raw in ((Upload(Format.ZIP), data), (Upload(Format.ZIP, Encoding.GZIP), gzip.compress(data))):
        found = list(read(io.BytesIO(raw), upload, Options(), scratch=tmp_path))
        assert [item for item in found if isinstance(item, Document)] == [
            Document(position=0, id="0", text="from jsonl"),
            Document(position=1, id="p", text="from parquet"),
            Document(position=2, id="2", text="from csv", fields={"stars": "3"}),
            Document(position=3, id="3", text="A whole\nfile.", fields={"file": "d/essay.txt"}),
        ]
        (error,) = [item for item in found if isinstance(item, IngestError)]
        assert (error.line, error.code) == (2, "invalid_json")
        assert error.message.startswith("In a.jsonl: ")
    assert list(tmp_path.iterdir()) == []


def test_names_in_an_archive_are_data_and_no_paths(tmp_path: Path) -> None:
    names = ["../../x.txt", "/etc/passwd.txt", "C:\\x.txt"]
    found = list(read(io.BytesIO(zipped(dict.fromkeys(names, b"a"))), Upload(Format.ZIP), Options(), scratch=tmp_path))
    assert [item.fields["file"] for item in found if isinstance(item, Document)] == sorted(names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (zipped({"a.jsonl": LINE, "inner.zip": zipped({})}), UnsupportedFormat, "inner.zip"),
        (zipped({"a.jsonl.gz": LINE}), UnsupportedFormat, "a.jsonl.gz"),
        (zipped({"a.docx": LINE}), UnsupportedFormat, "a.docx"),
        (zipped({"a.jsonl": LINE}, zipfile.ZIP_BZIP2), UnsupportedFormat, "deflate"),
        (zipped({"a.csv": b"body\na\n"}), InvalidRequest, "In a.csv: There is no column 'text'"),
        (zipped({"a.jsonl": LINE})[:-10], InvalidRequest, "cannot be opened"),
        (zipped({"a.jsonl": LINE}, zipfile.ZIP_STORED).replace(b"same", b"some"), InvalidRequest, "'a.jsonl'"),
        (bz2.compress(LINE), InvalidRequest, "cannot be opened"),
    ],
)
def test_an_archive_that_cannot_be_read_is_refused_by_name(data: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=r"ZIP|In a\.csv") as refusal:
        read_all(data, Upload(Format.ZIP))
    assert said in str(refusal.value)


@pytest.mark.parametrize("kind", ["archive", "Parquet file", "page of a Parquet file"])
@pytest.mark.parametrize("method", ["read", "seek"])
def test_a_disk_that_fails_is_no_fault_of_what_is_read(kind: str, method: str) -> None:
    class Failing(io.BytesIO):
        left = 12 if kind.startswith("page") else 0

        def read(self, *given: Any) -> Any:
            return self._unless("read", *given)

        def seek(self, *given: Any) -> Any:
            return self._unless("seek", *given)

        def _unless(self, called: str, *given: Any) -> Any:
            self.left -= called == method
            if called == method and self.left < 0:
                raise OSError(errno.EIO, "as the disk says")
            return getattr(super(), called)(*given)

    table = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"] * 10_000}), table, row_group_size=1_000, use_dictionary=False)
    found: Iterator[Any] = members(Failing(zipped({"a.txt": b"a"})))
    if kind != "archive":
        found = read_parquet(Failing(table.getvalue()), Budget(Limits(), lambda: MIB), Options())
    with pytest.raises(OSError, match="as the disk says"):
        list(found)


def test_an_encrypted_member_is_refused() -> None:
    data = bytearray(zipped({"a.jsonl": LINE}))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    with pytest.raises(InvalidRequest, match="encrypted"):
        read_all(bytes(data), Upload(Format.ZIP))


def test_a_temporary_file_is_only_made_where_a_stream_cannot_seek(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    parquet = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"]}), parquet)
    found = list(read(Pipe(parquet.getvalue()), Upload(Format.PARQUET), Options(), scratch=tmp_path))
    assert [item.text for item in found if isinstance(item, Document)] == ["a", "b"]
