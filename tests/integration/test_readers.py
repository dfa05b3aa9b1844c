"""Readers of uploads that are cut off, paused or killed, on both databases: the upload is kept until one has read it, a
corpus that is ready stays so, and those that were killed are counted whoever had started them."""

from __future__ import annotations

import errno
import gzip
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from flask.testing import FlaskClient

from corpora import ReaderKilled, Store
from corpora import ingest as store_upload
from corpusmill.errors import StorageFull
from corpusmill.settings import Settings, environ_of
from db import corpora, ingest
from db.corpora import Corpus, store_directory, upload_path
from db.engine import Engine, reading, transact
from tests.integration.steps import loses_commits
from tests.integration.test_races import Bell
from tests.integration.world import World, put_off
from worker.sweep import Sweeper

BODY = b'{"text": "a"}\n{"text": "b"}\n'
JOB = {"task": "classification", "model": "echo"}
#: A reader that ends as it is told once it has claimed the upload.
CHILD = """
import os, sys, time, db.ingest as reader
def ingest(*_):
    print(flush=True)
    {then}
{first}
reader.ingest = ingest
reader.main()
"""
#: Says so before it says that it ends, and takes its time.
TOLD_AGAIN = """
leave = reader._leave
def slowly(*given, **named):
    print(flush=True)
    time.sleep(0.5)
    leave(*given, **named)
reader._leave = slowly
"""
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def settings(http: FlaskClient) -> Settings:
    application: Any = http.application
    found: Settings = application.extensions["corpusmill"].settings
    return found


@pytest.fixture
def upload(database: Engine, settings: Settings) -> str:
    """The id of an upload that has arrived whole, which nobody reads."""
    path = upload_path(settings.data_dir, "corpus_x")
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    transact(
        database,
        lambda connection: corpora.create(
            connection, id="corpus_x", name=None, format="jsonl", encoding=None, bytes=len(BODY), sha256="0" * 64,
            options={"text_field": "text"},
        ),
    )  # fmt: skip
    return "corpus_x"


def found(database: Engine, corpus_id: str) -> Corpus:
    with reading(database) as connection:
        return corpora.get(connection, corpus_id)


def texts(settings: Settings, corpus_id: str) -> list[str]:
    return [one.text for one in Store(store_directory(settings.data_dir, corpus_id)).documents()]


def lapse(database: Engine) -> None:
    """The lease of whoever reads is over, as after a pause or while the database was away."""
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE corpora SET created_at = 1")
        connection.exec_driver_sql("UPDATE corpora SET lease_until = 1 WHERE lease_until IS NOT NULL")


def owned(database: Engine) -> bool:
    """Whether a reader has an upload, and did not say that it ended."""
    with database.begin() as connection:
        return connection.exec_driver_sql("SELECT owner FROM corpora").scalar_one() is not None


def take(database: Engine, corpus_id: str, owner: str) -> None:
    lapse(database)
    taken = transact(database, lambda connection: corpora.claim(connection, corpus_id, owner=owner, lease=30.0))
    assert taken is not None


@pytest.fixture
def child(settings: Settings, upload: str) -> Iterator[Start]:
    """Starts a reader of the upload in a process of its own."""
    environ, started = {**os.environ, **environ_of(settings)}, []

    def start(then: str, first: str = "") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", CHILD.format(then=then, first=first), upload]
        started.append(subprocess.Popen(command, env=environ, stdout=subprocess.PIPE))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def begun(reader: subprocess.Popen[bytes]) -> None:
    assert reader.stdout is not None
    while (line := reader.stdout.readline()) != b"\n":  # a log
        assert line, "it ended"


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


def test_a_reader_without_the_folder_of_uploads_leaves_them_to_others_and_an_upload_that_is_missing_alone_is_lost(
    database: Engine, settings: Settings, upload: str
) -> None:
    folder = upload_path(settings.data_dir, upload).parent
    aside = folder.rename(folder.with_name("elsewhere"))  # as before a file system is mounted
    with pytest.raises(FileNotFoundError):
        ingest.run(database, settings, upload)
    assert (found(database, upload).status, found(database, upload).readers_lost) == ("validating", 0)
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


@pytest.mark.slow
def test_readers_that_are_killed_are_counted_whoever_had_started_them(
    http: FlaskClient, database: Engine, settings: Settings, upload: str, child: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = http.post("/api/v1/jobs", json=JOB | {"corpus": upload}).get_json()["id"]
    children = []

    def spawn(settings: Settings, corpus_id: str) -> subprocess.Popen[bytes]:
        children.append(child("os.kill(os.getpid(), 9)"))
        return children[-1]

    monkeypatch.setattr(ingest, "spawn", spawn)
    ends = []
    for starter in ("the API", "a sweeper", "another sweeper", "one that was started again"):
        lapse(database)
        if starter == "the API":
            spawn(settings, upload)
        else:
            Sweeper(settings=settings, database=database, doorbell=Bell()).sweep()  # type: ignore[arg-type]
        ends.append(children[-1].wait())
    assert ends == [-signal.SIGKILL] * 3 + [0], "the fourth rejects it"
    answer = http.get(f"/api/v1/corpora/{upload}").get_json()
    assert (answer["status"], answer["error"]["code"]) == ("rejected", "reader_lost")
    assert http.get(f"/api/v1/jobs/{job_id}").get_json()["status"] == "failed"
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


def test_a_store_that_the_disk_has_damaged_before_its_outcome_was_written_is_made_again(
    database: Engine, settings: Settings, upload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_finish", cut_off)
        with pytest.raises(MemoryError):
            ingest.run(database, settings, upload)
    (store_directory(settings.data_dir, upload) / "sizes.bin").unlink()
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


@pytest.mark.parametrize("times", [1, 2])
def test_a_reader_that_is_told_to_end_leaves_the_upload_and_is_not_counted(
    database: Engine, settings: Settings, upload: str, child: Start, times: int
) -> None:
    first = TOLD_AGAIN if times > 1 else ""
    reader = child("time.sleep(600)", first=first)
    for _ in range(times):
        begun(reader)
        reader.terminate()
    assert reader.wait(60) > 0
    take(database, upload, "next")
    assert (found(database, upload).status, found(database, upload).readers_lost) == ("validating", 0)
    assert upload_path(settings.data_dir, upload).exists()


def test_a_reader_whose_lease_is_anothers_stops(database: Engine, upload: str, child: Start) -> None:
    reader = child("time.sleep(600)", first="reader.LEASE_SECONDS = 0.3")
    begun(reader)
    while not found(database, upload).readers_lost:
        lapse(database)
        transact(database, lambda connection: corpora.claim(connection, upload, owner="successor", lease=600.0))
    assert reader.wait(60) > 0
    assert found(database, upload).readers_lost == 0, "it was not killed"


def test_a_process_that_ends_in_order_ends_its_readers_so(
    database: Engine, settings: Settings, upload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = CHILD.format(then="time.sleep(20)", first="")
    # stands for the API or a sweeper: what it starts is the reader above
    starter = f"""
import os, subprocess, sys, db.ingest as reader
from corpusmill.settings import settings_from
start = subprocess.Popen
subprocess.Popen = lambda command, **named: start([sys.executable, "-c", {script!r}, command[-1]], **named)
reader.spawn(settings_from(os.environ), sys.argv[1])
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", starter, upload], env={**os.environ, **environ_of(settings)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    begun(process)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    assert process.wait(60) == 0
    take(database, upload, "next")
    assert found(database, upload).readers_lost == 0


#: A program that is started with CHILD as its readers.
PROGRAM = """
import os, subprocess, sys, threading
from corpusmill.settings import settings_from
start = subprocess.Popen
subprocess.Popen = lambda command, **named: start([sys.executable, "-c", {script!r}, command[-1]], **named)
{then}
"""
Program = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def program(settings: Settings) -> Iterator[Program]:
    """Starts a program whose readers stand still once they have claimed an upload; it has a session of its own."""
    environ, started = {**os.environ, **environ_of(settings)}, []

    def start(then: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        script = CHILD.format(then="time.sleep(600)", first="")
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(script=script, then=then)], env=environ, pass_fds=pass_fds,
                stdout=subprocess.PIPE, start_new_session=True,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for one in started:
        end_session(one)
        one.communicate()


def end_session(program: subprocess.Popen[bytes]) -> None:
    """As `up` does with what a program of its leaves behind."""
    with suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_an_api_that_is_told_to_end_while_an_upload_waits_for_its_reader_ends_the_reader_in_order(
    number: signal.Signals, database: Engine, settings: Settings, program: Program
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1/corpora"
        api = program(
            f"from cli.server import Server\nServer(settings_from(os.environ), 'fd://{listener.fileno()}').run()",
            pass_fds=(listener.fileno(),),
        )
        headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}

        def send() -> None:
            with suppress(OSError):  # whether it is answered is not said here
                urlopen(Request(url, gzip.compress(BODY), headers), timeout=60).close()

        sending = threading.Thread(target=send)
        sending.start()
        begun(api)
        [corpus_id] = [path.name for path in settings.data_dir.glob("uploads/*")]
        api.send_signal(number)
        api.wait()
        end_session(api)
    sending.join()
    assert found(database, corpus_id).status == "validating"
    lapse(database)
    Sweeper(settings=settings, database=database, doorbell=Bell()).sweep()  # type: ignore[arg-type]
    while found(database, corpus_id).status == "validating":
        time.sleep(0.1)
    assert found(database, corpus_id).readers_lost == 0
    assert texts(settings, corpus_id) == ["a", "b"]


def test_a_sweeper_that_is_told_to_end_tells_its_reader_before_it_waits_for_its_runs(
    database: Engine, settings: Settings, upload: str, program: Program
) -> None:
    lapse(database)
    sweeper = program("""
import worker.sweep as sweep
sweep.Runner.keep = lambda *_: threading.Event().wait()
sweep._LEAVE_SECONDS = 600.0
sweep.main(settings_from(os.environ))
""")
    begun(sweeper)
    sweeper.terminate()
    while owned(database):
        time.sleep(0.1)
    assert sweeper.poll() is None, "it waits"
    assert found(database, upload).status == "validating"


def test_a_reader_that_is_started_after_its_process_was_told_to_end_is_told_so(
    database: Engine, upload: str, program: Program
) -> None:
    process = program(f"""
import db.ingest as reader
reader.end_readers()
sys.exit(0 if reader.spawn(settings_from(os.environ), {upload!r}).wait() else 1)
""")
    assert process.wait() == 0
    assert not owned(database)


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
