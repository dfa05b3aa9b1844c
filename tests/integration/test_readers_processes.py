"""Readers of uploads in processes of their own, killed or told to end, and the programs that start them, on both
databases."""

from __future__ import annotations

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
from urllib.request import Request, urlopen

import pytest
from flask.testing import FlaskClient

from corpusmill.settings import Settings, environ_of
from db import corpora, ingest
from db.corpora import upload_path
from db.engine import Engine, transact
from tests.integration.programs import sweeper_of
from tests.integration.unread import BODY, found, lapse, take, texts

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


def owned(database: Engine) -> bool:
    """Whether a reader has an upload, and did not say that it ended."""
    with database.begin() as connection:
        return connection.exec_driver_sql("SELECT owner FROM corpora").scalar_one() is not None


@pytest.mark.slow
def test_readers_that_are_killed_are_counted_whoever_had_started_them(
    http: FlaskClient, database: Engine, settings: Settings, upload: str, child: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = http.post("/api/v1/jobs", json={"task": "classification", "model": "echo", "corpus": upload}).get_json()[
        "id"
    ]
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
            sweeper_of(database, settings).sweep()
        ends.append(children[-1].wait())
    assert ends == [-signal.SIGKILL] * 3 + [0], "the fourth rejects it"
    answer = http.get(f"/api/v1/corpora/{upload}").get_json()
    assert (answer["status"], answer["error"]["code"]) == ("rejected", "reader_lost")
    assert http.get(f"/api/v1/jobs/{job_id}").get_json()["status"] == "failed"
    assert not upload_path(settings.data_dir, upload).exists()


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
    sweeper_of(database, settings).sweep()
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
