"""Readers of uploads that are cut off, paused or lost, on both databases: the upload is kept until one has read it, a
corpus that is ready stays so, and those that were killed are counted."""

from __future__ import annotations

import errno
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from corpora import ReaderKilled
from corpora import ingest as store_upload
from corpusmill.errors import StorageFull
from corpusmill.settings import Settings
from db import corpora, ingest
from db.corpora import store_directory, upload_path
from db.engine import Engine, transact
from tests.integration.steps import loses_commits
from tests.integration.unread import BODY, found, lapse, take, texts
from tests.integration.world import World, put_off


def test_a_reader_whose_lease_lapsed_leaves_the_upload_to_its_successor(
    database: Engine, settings: Settings, upload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*given: Any) -> Any:
        summary = store_upload(*given)
        take(database, upload, "successor")
        return summary

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "ingest", late)
        ingest.run(database, settings, upload)
    assert upload_path(settings.data_dir, upload).exists()
    assert found(database, upload).status == "validating", "the successor has it"
    lapse(database)
    ingest.run(database, settings, upload)
    assert (found(database, upload).status, found(database, upload).documents) == ("ready", 2)
    assert texts(settings, upload) == ["a", "b"]
    assert not upload_path(settings.data_dir, upload).exists()


def test_a_reader_without_the_folders_leaves_an_upload_to_others_and_one_that_is_missing_alone_is_lost(
    database: Engine, settings: Settings, upload: str
) -> None:
    for name in ("uploads", "corpora"):
        folder = settings.data_dir / name
        aside = folder.rename(folder.with_name("elsewhere"))  # as before a file system is mounted
        with pytest.raises(FileNotFoundError):
            ingest.run(database, settings, upload)
        assert (found(database, upload).status, found(database, upload).readers_lost) == ("validating", 0)
        assert not folder.exists(), "what is mounted there later would hide what is put into it"
        aside.rename(folder)
        lapse(database)
    upload_path(settings.data_dir, upload).unlink()
    ingest.run(database, settings, upload)
    assert (found(database, upload).error or {})["code"] == "upload_lost"


def test_an_upload_whose_reader_is_overtaken_is_answered_with_the_corpus_as_it_is(
    http: FlaskClient, database: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(raw: Path, *given: Any) -> Any:
        monkeypatch.setattr(ingest, "ingest", store_upload)
        lapse(database)
        ingest.run(database, settings, raw.name)
        return store_upload(raw, *given)

    monkeypatch.setattr(ingest, "ingest", overtaken)
    answer = http.post("/api/v1/corpora", data=BODY, content_type="application/x-ndjson")
    made = answer.get_json()
    assert (answer.status_code, made["status"], made["documents"]) == (201, "ready", 2), answer.text
    assert texts(settings, made["id"]) == ["a", "b"]


def test_a_reader_that_stood_still_after_its_claim_takes_nothing_from_a_corpus_that_is_ready_by_then(
    database: Engine, settings: Settings, upload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = ingest._outcome

    def paused(*given: Any) -> Any:
        monkeypatch.setattr(ingest, "_outcome", real)
        lapse(database)
        ingest.run(database, settings, upload)
        return real(*given)

    monkeypatch.setattr(ingest, "_outcome", paused)
    ingest.run(database, settings, upload)
    assert found(database, upload).status == "ready"
    assert texts(settings, upload) == ["a", "b"]


def test_a_store_whose_reader_was_killed_before_it_could_say_so_is_the_corpus(
    database: Engine, settings: Settings, upload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(corpora, "finish", killed)
        with pytest.raises(Killed):
            ingest.run(database, settings, upload)
    made = store_directory(settings.data_dir, upload).stat().st_ino
    lapse(database)
    ingest.run(database, settings, upload)
    assert (found(database, upload).status, found(database, upload).documents) == ("ready", 2)
    assert store_directory(settings.data_dir, upload).stat().st_ino == made


def test_a_claim_whose_answer_is_lost_is_the_readers_and_counts_nobody(
    database: Engine, settings: Settings, upload: str
) -> None:
    loses_commits(database)()
    claimed = transact(database, lambda connection: corpora.claim(connection, upload, owner="reader", lease=30.0))
    assert claimed is not None
    assert claimed.readers_lost == 0


def test_an_outcome_whose_answer_is_lost_is_the_readers(
    database: Engine, settings: Settings, upload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose = loses_commits(database)

    def losing(*given: Any) -> Any:
        summary = store_upload(*given)
        lose()
        return summary

    monkeypatch.setattr(ingest, "ingest", losing)
    ingest.run(database, settings, upload)
    assert found(database, upload).status == "ready"
    assert not upload_path(settings.data_dir, upload).exists()


def test_an_upload_over_which_three_readers_were_lost_is_read_no_more(
    database: Engine, settings: Settings, upload: str
) -> None:
    for reader in ("a", "b", "c"):
        take(database, upload, reader)
    lapse(database)
    ingest.run(database, settings, upload)
    corpus = found(database, upload)
    assert (corpus.status, (corpus.error or {}).get("code")) == ("rejected", "reader_lost")


def parquet_read_by(script: str, database: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upload is Parquet, which this shell script reads."""
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE corpora SET format = 'parquet'")
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(path))


def test_readers_whose_process_for_parquet_is_killed_are_counted(
    database: Engine, settings: Settings, upload: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet_read_by("kill -9 $$", database, tmp_path, monkeypatch)
    for before in (0, 1, 2):
        lapse(database)
        with pytest.raises(ReaderKilled):
            ingest.run(database, settings, upload)
        assert (found(database, upload).status, found(database, upload).readers_lost) == ("validating", before)
        assert upload_path(settings.data_dir, upload).exists()
    lapse(database)
    ingest.run(database, settings, upload)
    assert (found(database, upload).error or {})["code"] == "reader_lost"


def test_readers_whose_process_for_parquet_cannot_run_are_not_counted(
    database: Engine, settings: Settings, upload: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet_read_by("exit 1", database, tmp_path, monkeypatch)
    for _ in range(5):
        lapse(database)
        with pytest.raises(OSError, match="Parquet"):
            ingest.run(database, settings, upload)
    take(database, upload, "next")
    assert (found(database, upload).status, found(database, upload).readers_lost) == ("validating", 0)
    assert upload_path(settings.data_dir, upload).exists()


def test_readers_that_find_the_disk_full_are_not_counted(
    database: Engine, settings: Settings, upload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StorageFull("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "ingest", full)
        for _ in range(5):
            lapse(database)
            with pytest.raises(StorageFull):
                ingest.run(database, settings, upload)
    lapse(database)
    ingest.run(database, settings, upload)
    assert found(database, upload).status == "ready"


@pytest.mark.parametrize("trouble", [RuntimeError("can't start new thread"), MemoryError()], ids=["thread", "memory"])
def test_readers_whom_the_machine_lets_down_are_not_counted(
    database: Engine, settings: Settings, upload: str, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    class Short(threading.Thread):
        def start(self) -> None:
            raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", Short)
        for _ in range(5):
            lapse(database)
            with pytest.raises((OSError, MemoryError)):
                ingest.run(database, settings, upload)
    lapse(database)
    ingest.run(database, settings, upload)
    assert found(database, upload).status == "ready"


def test_a_reader_that_misses_another_file_than_the_upload_leaves_it_to_the_next(
    database: Engine, settings: Settings, upload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_temporary_directory(*_: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "ingest", without_temporary_directory)
        with pytest.raises(FileNotFoundError):
            ingest.run(database, settings, upload)
    lapse(database)
    ingest.run(database, settings, upload)
    assert found(database, upload).status == "ready"


@pytest.mark.parametrize("file", ["sizes.bin", "corpus.json"])
def test_a_store_that_the_disk_has_damaged_before_its_outcome_was_written_is_made_again(
    database: Engine, settings: Settings, upload: str, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    def cut_off(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_finish", cut_off)
        with pytest.raises(MemoryError):
            ingest.run(database, settings, upload)
    (store_directory(settings.data_dir, upload) / file).unlink()
    lapse(database)
    ingest.run(database, settings, upload)
    assert (found(database, upload).status, texts(settings, upload)) == ("ready", ["a", "b"])


def test_readers_that_come_back_alive_are_not_counted_in_whatever_order_they_end(
    database: Engine, settings: Settings, upload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is taken for dead, and so the second is counted on top of it; then the first ends, then the second."""

    def full(*_: Any) -> None:
        raise StorageFull("The disk is full.")

    def late(*_: Any) -> None:
        lapse(database)
        monkeypatch.setattr(ingest, "ingest", overlapping)
        with pytest.raises(StorageFull):
            ingest.run(database, settings, upload)
        full()

    def overlapping(*_: Any) -> None:
        assert found(database, upload).readers_lost == 1
        full()

    for _ in range(4):
        lapse(database)
        monkeypatch.setattr(ingest, "ingest", late)
        with pytest.raises(StorageFull):
            ingest.run(database, settings, upload)
    monkeypatch.setattr(ingest, "ingest", store_upload)
    lapse(database)
    ingest.run(database, settings, upload)
    assert found(database, upload).status == "ready"


def test_a_reader_that_comes_back_alive_is_not_counted_beside_its_successor(
    database: Engine, settings: Settings, upload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*given: Any) -> Any:
        take(database, upload, "successor")
        assert found(database, upload).readers_lost == 1
        return store_upload(*given)

    monkeypatch.setattr(ingest, "ingest", late)
    ingest.run(database, settings, upload)
    assert found(database, upload).readers_lost == 0


def test_a_run_starts_no_reader_while_another_reads_its_upload(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spawned: list[str] = []

    class Reader:
        """Is gone at once, killed."""

        def __init__(self, settings: Settings, corpus_id: str) -> None:
            spawned.append(corpus_id)
            transact(
                world.database, lambda connection: corpora.claim(connection, corpus_id, owner="reader", lease=600.0)
            )

        def poll(self) -> int:
            return -signal.SIGKILL

    monkeypatch.setattr(ingest, "fits_in_process", lambda *_: False)
    monkeypatch.setattr(ingest, "spawn", Reader)
    world.schedule()
    world.shelf.documents = {"a": "x"}
    [run_id] = world.fire(0)
    runner = world.runner()
    for _ in range(10):
        put_off(world.database, run_id)
        runner.step()
    assert len(spawned) == 1
