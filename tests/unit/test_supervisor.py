"""The supervisor's decisions: when a part is started again, and what each program is told."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cli.datadir import DataDirectory
from cli.devices import cuda_ids
from cli.listening import bracketed, is_ready, listen, what_is_missing
from cli.service import worker_plans
from cli.supervise import Signals, Watched, said_of
from corpusmill.errors import BrokerUnavailable, InvalidSettings
from corpusmill.settings import Settings, refuse_open


@dataclass
class Mortal:
    """A part that ends when it is told to, and starts unless it is told not to."""

    code: int | None = None
    starts: int = 0
    refuses: bool = False

    def start(self) -> None:
        self.starts += 1
        if self.refuses:
            raise BrokerUnavailable("no room")
        self.code = None

    def poll(self) -> int | None:
        return self.code

    def said(self) -> str:
        return "its last words"


@dataclass
class Clock:
    """Looks at a part at the times it is given, and keeps what was said."""

    part: Mortal = field(default_factory=Mortal)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watched = Watched(name="worker", part=self.part)
        self.watched.start(0.0)

    def dies_at(self, now: float, code: int = 1) -> float:
        """The pause until it is started again."""
        self.part.code = code
        self.watched.look(now, self.said.append)
        assert self.watched.due is not None
        return self.watched.due - now


def test_a_part_that_runs_is_left_alone() -> None:
    clock = Clock()
    clock.watched.look(100.0, clock.said.append)
    assert (clock.part.starts, clock.said) == (1, [])


def test_a_part_that_died_is_started_again_after_a_pause() -> None:
    clock = Clock()
    assert clock.dies_at(5.0, -signal.SIGSEGV) == 0.5
    clock.watched.look(5.4, clock.said.append)
    assert clock.part.starts == 1
    clock.watched.look(5.5, clock.said.append)
    assert clock.part.starts == 2
    assert "worker ended (killed by SIGSEGV); starting it again in 0.5 s" in clock.said[0]
    assert "its last words" in clock.said[0]


def test_the_pause_doubles_up_to_half_a_minute_while_it_keeps_dying() -> None:
    clock, now, pauses = Clock(), 1.0, []
    for _ in range(9):
        pauses.append(clock.dies_at(now))
        now += pauses[-1]
        clock.watched.look(now, clock.said.append)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_the_pause_is_short_again_after_a_minute_of_life() -> None:
    clock = Clock()
    for now in (1.0, 2.0):
        clock.dies_at(now)
        clock.watched.look(now + 10, clock.said.append)
    assert clock.dies_at(12.0 + 60.0) == 0.5


def test_a_part_that_cannot_be_started_is_tried_again() -> None:
    clock = Clock()
    clock.dies_at(1.0)
    clock.part.refuses = True
    clock.watched.look(1.5, clock.said.append)
    assert "could not be started: no room" in clock.said[-1]
    clock.part.refuses = False
    clock.watched.look(2.5, clock.said.append)
    assert (clock.part.starts, clock.watched.due) == (3, None)


@pytest.mark.parametrize(
    ("code", "said"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL"), (-99, "killed by signal 99")]
)
def test_an_exit_code_is_put_into_words(code: int, said: str) -> None:
    assert said_of(code) == said


def test_a_machine_without_a_gpu_runs_one_worker_with_every_core() -> None:
    [(name, settings, extra)] = worker_plans(Settings(), [])
    assert (name, settings.device, extra["CUDA_VISIBLE_DEVICES"]) == ("worker", "cpu", "")
    assert settings.threads == len(os.sched_getaffinity(0))


def test_the_cores_are_shared_out_among_workers_and_none_goes_without() -> None:
    plans = worker_plans(Settings(workers=64), [])
    assert [name for name, _, _ in plans][:2] == ["worker-0", "worker-1"]
    assert {settings.threads for _, settings, _ in plans} == {max(1, len(os.sched_getaffinity(0)) // 64)}


def test_every_cuda_device_has_a_worker_that_sees_no_other() -> None:
    plans = worker_plans(Settings(), ["0", "1"])
    assert [(name, extra["CUDA_VISIBLE_DEVICES"]) for name, _, extra in plans] == [("worker-0", "0"), ("worker-1", "1")]
    assert {settings.device for _, settings, _ in plans} == {"cuda"}


def test_more_workers_than_devices_take_turns_on_them() -> None:
    plans = worker_plans(Settings(workers=3), ["GPU-a", "GPU-b"])
    assert [extra["CUDA_VISIBLE_DEVICES"] for _, _, extra in plans] == ["GPU-a", "GPU-b", "GPU-a"]


def test_threads_that_are_set_are_used() -> None:
    [(_, settings, extra)] = worker_plans(Settings(threads=3), [])
    assert (settings.threads, extra["OMP_NUM_THREADS"]) == (3, "3")


def test_devices_are_named_as_the_environment_lets_them_be_seen() -> None:
    assert cuda_ids(2, {}) == ["0", "1"]
    assert cuda_ids(2, {"CUDA_VISIBLE_DEVICES": "GPU-aa, 3"}) == ["GPU-aa", "3"]


def test_an_api_beyond_loopback_needs_a_key() -> None:
    refuse_open(Settings(host="127.0.0.1"))
    refuse_open(Settings(host="0.0.0.0", api_key="k"))
    with pytest.raises(InvalidSettings, match="CORPUSMILL_API_KEY"):
        refuse_open(Settings(host="0.0.0.0"))


def test_a_data_directory_is_used_by_one_supervisor_at_a_time(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path / "new")
    with pytest.raises(InvalidSettings, match=f"in use by process {os.getpid()} "):
        DataDirectory(tmp_path / "new")
    first.release()
    DataDirectory(tmp_path / "new").release()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSettings, match="CORPUSMILL_DATA_DIR"):
        DataDirectory(tmp_path / "file" / "data")


def test_a_port_that_is_taken_is_refused_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.listening._PATIENCE", 0.0)
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidSettings, match=f"127.0.0.1:{port}"):
            listen("127.0.0.1", port)
        assert not is_ready("127.0.0.1", port, timeout=0.05), "nobody answers on it yet"


@pytest.mark.parametrize(
    ("status", "body", "missing"),
    [
        (200, b"{}", ""),
        (503, b'{"checks": {"database": "does not answer", "broker": "ok"}}', "database: does not answer"),
        (404, b"<h1>Not here</h1>", "something else answers in the API's place"),
    ],
)
def test_what_keeps_a_service_from_being_ready_is_said(status: int, body: bytes, missing: str) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert what_is_missing("127.0.0.1", server.server_port) == missing
        server.shutdown()


def test_a_file_in_the_place_of_the_data_directory_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSettings, match="it is no directory"):
        DataDirectory(tmp_path / "file")


def test_an_ipv6_address_is_bracketed_in_a_url() -> None:
    assert (bracketed("::1"), bracketed("localhost")) == ("[::1]", "localhost")


def test_signals_are_counted_and_end_a_wait() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals().caught() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        signals.wait(60.0)
        assert signals.count == 2
    assert signal.getsignal(signal.SIGTERM) is before
