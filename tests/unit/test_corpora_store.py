"""A stored corpus is whole or not there, and any slice of it is read without the rest."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from corpora import (
    Encoding,
    Format,
    IngestSummary,
    Limits,
    Options,
    Store,
    StoreWriter,
    Upload,
    ingest,
    remove_partials,
    remove_store,
    store_items,
    store_writer,
)
from corpora.disk import full_disk_refused
from corpusmill.documents import Document, IngestError
from corpusmill.errors import Conflict, CorpusDamaged, CorpusmillError, InvalidRequest, NotFound, StorageFull

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    Document(position=0, id="a", text="plain", reference="x", fields={"n": 1, "deep": {"l": [None, 1.5, True]}}),
    Document(position=1, id="1", text='ü\u2028\n\r\t"\\\U0001f600', text_pair="pair", reference=["y", "z"]),
    Document(position=2, id="", text="", reference=[], fields={"n": "other", "m": 10**300}),
]
ERROR = IngestError(line=4, column="text", code="wrong_type", message="The field 'text' must be text.")


def stored(path: Path, documents: list[Document], errors: int = 0) -> Store:
    store_items([*documents, *[ERROR] * errors], path)
    return Store(path)


def many(count: int) -> list[Document]:
    return [Document(position=at, id=str(at), text=f"document {at} " + "é" * (at % 50)) for at in range(count)]


def test_what_is_stored_comes_back_as_it_was(tmp_path: Path) -> None:
    store = stored(tmp_path / "c", DOCUMENTS, errors=1)
    assert list(store.documents()) == DOCUMENTS
    assert len(store) == 3
    assert store.errors() == [ERROR]
    assert store.fields == ("n", "deep", "m")
    sizes = [len((document.text + (document.text_pair or "")).encode()) for document in DOCUMENTS]
    assert list(store.text_sizes()) == sizes
    assert store.total_text_bytes == sum(sizes)
    assert (store.summary.references, store.summary.text_pairs, store.summary.invalid) == (3, 1, 1)


def test_every_slice_equals_that_slice_of_the_whole(tmp_path: Path) -> None:
    documents = many(10_000)
    store = stored(tmp_path / "c", documents)
    for start, stop in [(0, 0), (0, 1), (9_999, 10_000), (4_095, 4_097), (123, 8_000), (5, 3), (9_990, 20_000)]:
        assert list(store.documents(start, stop)) == documents[start:stop]
    assert store.document(4_096) == documents[4_096]


def test_a_position_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    store = stored(tmp_path / "c", DOCUMENTS)
    for position in (-1, 3):
        with pytest.raises(NotFound, match="3 documents"):
            store.document(position)


def test_errors_are_read_page_by_page(tmp_path: Path) -> None:
    faults = [IngestError(line=line, code="invalid_json", message=f"Fault {line}.") for line in range(1, 251)]
    store_items(faults, tmp_path / "c")
    store = Store(tmp_path / "c")
    assert store.errors(0, 100) + store.errors(100, 100) + store.errors(200, 100) == faults
    assert store.errors(250, 10) == []
    assert (len(store), store.summary.invalid, list(store.documents())) == (0, 250, [])
    assert list(store.text_sizes()) == []


def test_errors_and_names_of_fields_beyond_what_is_kept_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_writer, "MAX_ERRORS", 2)
    monkeypatch.setattr(store_writer, "MAX_FIELDS", 3)
    documents = [Document(position=at, id=str(at), text="a", fields={f"f{at}": at, "same": 1}) for at in range(5)]
    summary = store_items([*documents, *[ERROR] * 5], tmp_path / "c")
    assert (summary.invalid, summary.errors_kept) == (5, 2)
    assert (summary.fields, summary.more_fields) == (("f0", "same", "f1"), True)
    assert Store(tmp_path / "c").errors(0, 10) == [ERROR, ERROR]
    assert list(Store(tmp_path / "c").documents()) == documents


def test_ingest_says_what_it_made(tmp_path: Path) -> None:
    raw = tmp_path / "upload"
    raw.write_bytes(b'{"body": "one", "gold": 1, "x": 2}\nbroken\n{"body": "two"}\n')
    options = Options(text_field="body", reference_field="gold", limits=Limits(max_document_bytes=2048))
    summary = ingest(raw, Upload(Format.JSONL), options, tmp_path / "c")
    assert summary == IngestSummary(
        documents=2,
        invalid=1,
        errors_kept=1,
        text_bytes=6,
        references=1,
        text_pairs=0,
        fields=("x",),
        more_fields=False,
        bytes=raw.stat().st_size,
        format=Format.JSONL,
        encoding=None,
        options=options,
    )
    assert Store(tmp_path / "c").summary == summary


def test_an_upload_without_documents_is_stored_for_its_errors(tmp_path: Path) -> None:
    raw = tmp_path / "upload"
    raw.write_bytes(b"broken\n")
    assert ingest(raw, Upload(Format.JSONL), Options(), tmp_path / "c").documents == 0
    assert [error.code for error in Store(tmp_path / "c").errors()] == ["invalid_json"]


def test_a_refused_upload_leaves_nothing(tmp_path: Path) -> None:
    raw = tmp_path / "upload"
    raw.write_bytes(b"\x1f\x8b not gzip")
    with pytest.raises(InvalidRequest):
        ingest(raw, Upload(Format.JSONL, Encoding.GZIP), Options(), tmp_path / "c")
    assert list(tmp_path.iterdir()) == [raw]


def test_nothing_is_at_the_place_of_a_corpus_until_it_is_whole(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "c") as writer:
        writer.add(DOCUMENTS[0])
        assert not (tmp_path / "c").exists()
        writer.finish()
        assert Store(tmp_path / "c").document(0) == DOCUMENTS[0]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_writer_that_is_left_early_leaves_nothing(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "c")
    writer.add(DOCUMENTS[0])
    writer.abort()
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_positions_must_follow_each_other(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "c") as writer, pytest.raises(ValueError, match="position 1 where 0 is next"):
        writer.add(DOCUMENTS[1])


def test_a_corpus_is_never_replaced(tmp_path: Path) -> None:
    stored(tmp_path / "c", DOCUMENTS)
    with pytest.raises(Conflict):
        StoreWriter(tmp_path / "c")
    late = StoreWriter(tmp_path / "d")
    stored(tmp_path / "d", DOCUMENTS)
    with pytest.raises(Conflict), late:
        late.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "d"]


def test_of_two_corpora_for_one_place_the_later_is_refused_even_at_its_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, look = StoreWriter(tmp_path / "c"), StoreWriter._refuse_existing

    def overtaken(writer: StoreWriter) -> None:
        look(writer)
        monkeypatch.setattr(StoreWriter, "_refuse_existing", look)
        stored(tmp_path / "c", DOCUMENTS)

    monkeypatch.setattr(StoreWriter, "_refuse_existing", overtaken)
    with pytest.raises(Conflict), late:
        late.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert len(Store(tmp_path / "c")) == len(DOCUMENTS)


_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from corpora import Format, Options, Upload, ingest
from corpusmill.errors import StorageFull
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    ingest(Path(sys.argv[1]), Upload(Format(sys.argv[2])), Options(), Path(sys.argv[3]))
except StorageFull as error:
    print(error)
"""


@pytest.mark.parametrize("lines", [4_000, 100_000])
def test_a_full_disk_is_refused_and_leaves_nothing(lines: int, tmp_path: Path) -> None:
    raw = tmp_path / "upload"
    raw.write_bytes(b'{"text": "' + b"x" * 100 + b'"}\n' + b'{"text": "a longer line than none"}\n' * lines)
    (tmp_path / "data").mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", _ON_A_FULL_DISK, str(raw), "jsonl", str(tmp_path / "data" / "c")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    if lines == 4_000:  # fits: the limit is on each file
        assert ended.stdout == ""
        assert len(Store(tmp_path / "data" / "c")) == lines + 1
    else:
        assert "Delete corpora or jobs" in ended.stdout
        assert list((tmp_path / "data").iterdir()) == []


def test_a_corpus_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Store(tmp_path / "c")


@pytest.mark.parametrize("name", ["corpus.json", "documents.index", "sizes.bin", "documents.jsonl"])
def test_a_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    stored(tmp_path / "c", many(100))
    path = tmp_path / "c" / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorpusmillError, match=name):
        list(Store(tmp_path / "c").documents())


def flipped(directory: Path, name: str, old: bytes, new: bytes) -> None:
    path = directory / name
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("documents.jsonl", b'"text"', b'"tex1"'),
        ("documents.jsonl", b'"text":"', b'"text":[1],"l":"'),
        ("documents.jsonl", b'{"', b'{"\xff'),
        ("documents.jsonl", b'{"text":', b'["text",'),
        ("documents.jsonl", b"\n", b" "),
        ("corpus.json", b'"documents": 100', b'"documents": "x"'),
        ("corpus.json", b"{", b"[{"),
        ("corpus.json", b'"version": 1', b'"version": 2'),
    ],
)
def test_a_file_that_holds_what_nobody_wrote_is_damaged_and_quotes_no_text(
    name: str, old: bytes, new: bytes, tmp_path: Path
) -> None:
    stored(tmp_path / "c", many(100))
    flipped(tmp_path / "c", name, old, new)
    with pytest.raises(CorpusDamaged, match=name) as raised:
        list(Store(tmp_path / "c").documents())
    assert "document 0" not in str(raised.value)


@pytest.mark.parametrize("line", [b"[4]", b"4", b'{"line": 4}', b'["\xff"]'])
def test_an_ingest_error_that_nobody_wrote_is_damage(line: bytes, tmp_path: Path) -> None:
    stored(tmp_path / "c", DOCUMENTS, errors=1)
    path = tmp_path / "c" / "errors.jsonl"
    path.write_bytes(line.ljust(path.stat().st_size - 1) + b"\n")
    with pytest.raises(CorpusDamaged, match=r"errors\.jsonl"):
        Store(tmp_path / "c").errors()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_disk_that_takes_nothing_more_is_said_to_be_full(number: int) -> None:
    with pytest.raises(StorageFull, match="takes nothing more"), full_disk_refused():
        raise OSError(number, "as the disk says")


@pytest.mark.parametrize("entry", [2**64 - 1, 2**63, 1 << 40, 0, 7])
@pytest.mark.parametrize("place", [0, 50, 100])
def test_an_index_that_points_anywhere_is_damage(place: int, entry: int, tmp_path: Path) -> None:
    stored(tmp_path / "c", many(100))
    index = np.fromfile(tmp_path / "c" / "documents.index", "<u8")
    before, index[place] = index[place], entry
    index.tofile(tmp_path / "c" / "documents.index")
    store = Store(tmp_path / "c")
    if place != 0 or entry != before:
        with pytest.raises(CorpusDamaged):
            [store.document(at) for at in (place - 1, place) if 0 <= at < 100]


@pytest.mark.parametrize("name", ["documents.index", "sizes.bin", "documents.jsonl"])
def test_a_file_that_is_not_there_is_damage_where_the_others_are(name: str, tmp_path: Path) -> None:
    stored(tmp_path / "c", many(100))
    (tmp_path / "c" / name).unlink()
    with pytest.raises(CorpusDamaged, match=name):
        list(Store(tmp_path / "c").documents())


@pytest.mark.parametrize("length", [0, 8, 12])
def test_a_file_that_is_cut_while_a_corpus_is_read_is_damage_and_ends_no_process(length: int, tmp_path: Path) -> None:
    """Of a memory map it would."""
    store = stored(tmp_path / "c", many(100))
    for name, read in (
        ("sizes.bin", lambda: list(store.text_sizes())),
        ("documents.jsonl", lambda: list(store.documents())),
        ("documents.index", lambda: list(store.documents())),
        ("documents.index", lambda: store.document(50)),
    ):
        os.truncate(tmp_path / "c" / name, length)
        with pytest.raises(CorpusDamaged, match=name):
            read()


def test_numbers_that_come_in_pieces_are_whole_and_a_disk_that_fails_among_them_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system gives what it has before it says that the disk fails."""
    store = stored(tmp_path / "c", many(100))
    expected, read = list(store.documents()), os.pread
    monkeypatch.setattr("corpora.numbers.os.pread", lambda file, size, at: read(file, min(size, 100), at))
    assert list(store.documents()) == expected

    def failing(file: int, size: int, at: int) -> bytes:
        if at >= 200:
            raise OSError(errno.EIO, "as the disk says")
        return read(file, min(size, 100), at)

    monkeypatch.setattr("corpora.numbers.os.pread", failing)
    with pytest.raises(OSError, match="as the disk says"):
        list(store.documents())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOMEM])
def test_a_file_that_cannot_be_read_now_is_no_damage(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stored(tmp_path / "c", many(100))

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, "as the machine says")

    monkeypatch.setattr(Path, "open", refused)
    for read in (lambda: Store(tmp_path / "c"), lambda: store.document(0)):
        with pytest.raises(OSError, match="as the machine says") as raised:
            read()
        assert raised.value.errno == number


def test_files_are_what_they_are_said_to_be(tmp_path: Path) -> None:
    stored(tmp_path / "c", DOCUMENTS)
    data = (tmp_path / "c" / "documents.jsonl").read_bytes()
    index = np.fromfile(tmp_path / "c" / "documents.index", "<u8")
    assert [json.loads(data[a:b])["text"] for a, b in itertools.pairwise(index)] == [
        document.text for document in DOCUMENTS
    ]
    assert index[-1] == len(data)


def test_a_removed_corpus_is_gone_and_removing_it_again_does_nothing(tmp_path: Path) -> None:
    stored(tmp_path / "c", DOCUMENTS)
    remove_store(tmp_path / "c")
    remove_store(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_removed_unless_they_are_new_or_being_written(tmp_path: Path) -> None:
    stored(tmp_path / "c", DOCUMENTS)
    dead, alive = tmp_path / "d.partial-1", StoreWriter(tmp_path / "e")
    dead.mkdir()
    (dead / "documents.jsonl").write_bytes(b"cut")
    assert remove_partials(tmp_path) == 0
    assert remove_partials(tmp_path, older_than=0) == 1
    assert not dead.exists()
    alive.add(DOCUMENTS[0])
    alive.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "e"]


def test_an_old_leftover_is_removed_by_its_age(tmp_path: Path) -> None:
    dead = tmp_path / "d.partial-1"
    dead.mkdir()
    lines = dead / "documents.jsonl"
    lines.write_bytes(b"cut")
    past = time.time() - 7200
    for path in (lines, dead):
        os.utime(path, (past, past))
    with lines.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_partials(tmp_path) == 0
    assert remove_partials(tmp_path) == 1
