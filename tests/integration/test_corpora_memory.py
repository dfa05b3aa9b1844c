"""Uploads are read in bounded memory, whatever they expand to: files made to take much, read in processes of their own."""

from __future__ import annotations

import gzip
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from corpora import Encoding, Format

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
LINE = b'{"text": "the same line again and again"}\n'

#: Reads an upload to its end in a process of its own; prints how it ended and the most memory it or its child took.
_READER = """
import resource, sys
from collections import Counter
from pathlib import Path
from corpora import Encoding, Format, Limits, Options, Upload, read
path, kind, encoding = sys.argv[1:]
seen = Counter()
try:
    for item in read(Path(path), Upload(Format(kind), Encoding(encoding) if encoding else None), Options()):
        seen[getattr(item, "code", "document")] += 1
    print("read", dict(seen), end=" ")
except Exception as error:
    print(type(error).__name__, end=" ")
status = Path("/proc/self/status").read_text()
own = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
print(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""


def peak(path: Path, kind: Format, encoding: Encoding | None = None) -> tuple[str, float]:
    """How reading a file ends, and the most MiB the reading process took."""
    command = [sys.executable, "-c", _READER, str(path), kind.value, encoding.value if encoding else ""]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    outcome, _, kib = ended.stdout.strip().rpartition(" ")
    return outcome, int(kib) / 1024


def packed_zeros(path: Path, encoding: Encoding, mebibytes: int) -> None:
    block = bytes(MIB)
    if encoding is Encoding.GZIP:
        with gzip.open(path, "wb", compresslevel=1) as file:
            for _ in range(mebibytes):
                file.write(block)
        return
    stream = zstandard.ZstdCompressor().compressobj()
    with path.open("wb") as out:
        for _ in range(mebibytes):
            out.write(stream.compress(block))
        out.write(stream.flush())


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_decompression_bomb_is_refused_in_little_memory(encoding: Encoding, tmp_path: Path) -> None:
    packed_zeros(tmp_path / "bomb", encoding, 512)
    outcome, mebibytes = peak(tmp_path / "bomb", Format.JSONL, encoding)
    assert outcome == "TooLarge"
    assert mebibytes < 150


def test_one_line_of_half_a_gibibyte_is_passed_over_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "line.jsonl"
    with path.open("wb") as file:
        file.write(LINE + b'{"text": "')
        file.seek(512 * MIB, 1)  # a hole: zeros that take no room
        file.write(b'"}\n' + LINE)
    outcome, mebibytes = peak(path, Format.JSONL)
    assert outcome == "read {'document': 2, 'too_long': 1}"
    assert mebibytes < 150


def bomb_of_one_value(path: Path, length: int, rows: int) -> None:
    """A Parquet file of one value referred to by all rows."""
    indices = pa.Array.from_buffers(pa.int32(), rows, [None, pa.py_buffer(bytes(4 * rows))])
    column = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * length]))
    pq.write_table(pa.table({"text": column}), path, compression="zstd")


def write(table: pa.Table, path: Path, **options: object) -> None:
    pq.write_table(table, path, compression="zstd", **options)


def dictionary_bomb(path: Path) -> None:
    bomb_of_one_value(path, 100_000, 2_000_000)  # 5 kB hold 200 GB


def long_value_bomb(path: Path) -> None:
    bomb_of_one_value(path, 20 * MIB, 10_000)


def empty_value_bomb(path: Path) -> None:
    bomb_of_one_value(path, 0, 300_000)


def page_bomb(path: Path) -> None:
    write(pa.table({"text": ["x" * (172 * MIB)]}), path, use_dictionary=False, write_statistics=False)


def repeated_prefix_bomb(path: Path) -> None:
    encoding = {"text": "DELTA_BYTE_ARRAY"}
    write(pa.table({"text": ["z" * 200_000] * 2_000}), path, use_dictionary=False, column_encoding=encoding)


def list_bomb(path: Path) -> None:
    size = 70_000_000
    values = pa.Array.from_buffers(pa.int8(), size, [None, pa.py_buffer(bytes(size))])
    write(pa.table({"text": ["a"], "x": pa.ListArray.from_arrays(pa.array([0, size], pa.int32()), values)}), path)


def list_of_texts_bomb(path: Path) -> None:
    size = 2_000_000
    indices = pa.Array.from_buffers(pa.int32(), size, [None, pa.py_buffer(bytes(4 * size))])
    values = pa.DictionaryArray.from_arrays(indices, pa.array(["y" * 100_000]))
    write(pa.table({"text": ["a"], "x": pa.ListArray.from_arrays(pa.array([0, size], pa.int32()), values)}), path)


@pytest.mark.parametrize(
    "bomb",
    [
        dictionary_bomb,
        long_value_bomb,
        empty_value_bomb,
        page_bomb,
        repeated_prefix_bomb,
        list_bomb,
        list_of_texts_bomb,
    ],
)
def test_a_parquet_bomb_is_refused_in_little_memory(bomb: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    bomb(path)
    assert path.stat().st_size < 100_000
    outcome, mebibytes = peak(path, Format.PARQUET)
    assert outcome == "TooLarge"
    assert mebibytes < 350


def test_a_zip_bomb_is_refused_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.txt", "w") as member:
        for _ in range(256):
            member.write(bytes(MIB))
    outcome, mebibytes = peak(path, Format.ZIP)
    assert outcome == "TooLarge"
    assert mebibytes < 150


def test_an_archive_of_too_many_members_is_refused_before_its_directory_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    entry = b"PK\x01\x02" + bytes(24) + b"\x01\x00" + bytes(16) + b"a"  # a nameless entry's 46 bytes, and its name
    count = 600_000
    end = b"PK\x05\x06" + bytes(4) + b"\xff\xff" * 2 + (len(entry) * count).to_bytes(4, "little") + bytes(6)
    path.write_bytes(entry * count + end)
    outcome, mebibytes = peak(path, Format.ZIP)
    assert outcome == "TooLarge"
    assert mebibytes < 150
