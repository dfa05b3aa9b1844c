"""The embedded Valkey: a real server, its lock, its log, and what becomes of it when its starter dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from broker.address import redis_client, socket_path
from broker.embedded import Embedded
from corpusmill.errors import BrokerUnavailable, InvalidSettings

ROOT = Path(__file__).parents[2]
#: Starts a server, says its number, and waits to be killed.
STARTER = """\
import sys, time
from pathlib import Path
from typing import Any
from broker.embedded import Embedded
server = Embedded(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""
#: Starts one as a system without `prctl` would, and ends.
ORPHANER = """\
import sys
from pathlib import Path
from typing import Any
import broker.embedded
broker.embedded.tethered = lambda command, *, signal: command
server = broker.embedded.Embedded(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
"""
#: Holds a lock file as another program might, with its number in it.
HOLDER = """\
import fcntl, os, sys, time
with open(sys.argv[1], "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(str(os.getpid()))
    file.flush()
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("v")  # short enough for a socket


@pytest.fixture
def server(data: Path) -> Iterator[Embedded]:
    server = Embedded(data)
    server.start()
    yield server
    server.kill()


def eventually(happens: Callable[[], bool]) -> None:
    """Return once it does; the test's own time limit ends the waiting."""
    while not happens():
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def setting(server: Embedded, name: str) -> str:
    client: redis.Redis = redis_client(server.url)
    value = client.config_get(name)[name]
    client.close()
    return str(value)


def push(server: Embedded, value: str) -> list[bytes]:
    """Append a value to a list; the whole list."""
    client: redis.Redis = redis_client(server.url)
    client.rpush("list", value)
    found: Any = client.lrange("list", 0, -1)
    client.close()
    return list(found)


def test_it_listens_on_a_private_socket_and_on_no_port(server: Embedded, data: Path) -> None:
    assert setting(server, "port") == "0"
    assert (data / "broker" / "valkey.sock").stat().st_mode & 0o777 == 0o700
    assert (data / "broker").stat().st_mode & 0o777 == 0o700


def test_it_evicts_nothing_and_writes_a_log(server: Embedded) -> None:
    assert setting(server, "maxmemory-policy") == "noeviction"
    assert setting(server, "appendonly") == "yes"
    assert setting(server, "appendfsync") == "everysec"
    assert setting(server, "save") == ""


def test_what_is_in_it_outlives_a_clean_stop(server: Embedded) -> None:
    push(server, "a")
    server.stop()
    server.start()
    assert push(server, "b") == [b"a", b"b"]


def test_it_starts_again_after_it_was_killed(server: Embedded) -> None:
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: server.poll() is not None)
    assert server.poll() == -signal.SIGKILL
    server.start()
    assert push(server, "a")[-1] == b"a"


def test_a_log_that_cannot_be_read_is_set_aside(server: Embedded, data: Path) -> None:
    push(server, "a")
    server.stop()
    [log] = (data / "broker" / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(b"this is no log\n" * 5)
    server.start()
    assert push(server, "b") == [b"b"]
    [kept] = (data / "broker" / "appendonlydir.unreadable").glob("*.incr.aof")
    assert kept.read_bytes().startswith(b"this is no log")


def test_a_log_that_ends_in_mid_command_loses_that_command_alone(server: Embedded, data: Path) -> None:
    push(server, "a")
    push(server, "b")
    server.stop()
    [log] = (data / "broker" / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(log.read_bytes()[:-4])
    server.start()
    assert push(server, "c") == [b"a", b"c"]


def test_it_ends_when_its_starter_is_killed(data: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(data)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.wait()
    starter.stdout.close()
    eventually(lambda: gone(pid))


def orphan_of(data: Path) -> int:
    """A server of this directory whose starter has ended, where no kernel told it so."""
    starter = subprocess.run(
        [sys.executable, "-c", ORPHANER, str(data)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    push(Embedded(data), "orphan")
    return int(starter.stdout)


def test_an_orphan_is_ended_and_what_it_held_is_kept(data: Path) -> None:
    orphan_of(data)
    server = Embedded(data)
    server.start()
    assert push(server, "a") == [b"orphan", b"a"]
    server.kill()


def test_an_orphan_is_ended_even_where_its_socket_was_removed(data: Path) -> None:
    orphan_of(data)
    (data / "broker" / "valkey.sock").unlink()
    server = Embedded(data)
    server.start()
    assert push(server, "a") == [b"orphan", b"a"], "two servers never write to one log"
    server.kill()


def test_an_orphan_that_hears_nothing_is_killed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.embedded._END_SECONDS", 0.3)
    os.kill(orphan_of(data), signal.SIGSTOP)
    server = Embedded(data)
    server.start()
    assert push(server, "a")[-1] == b"a"
    server.kill()


def test_a_holder_that_is_no_server_of_ours_is_left_alone(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.embedded._END_SECONDS", 0.1)
    (data / "broker").mkdir()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, data / "broker" / "lock"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(BrokerUnavailable, match=f"process {holder.pid}"):
        Embedded(data).start()
    assert holder.poll() is None
    holder.kill()
    holder.wait()
    holder.stdout.close()


def test_a_data_directory_with_a_long_path_has_its_socket_elsewhere(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runtime = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    long = data / ("d" * 60) / ("e" * 60)
    server = Embedded(long)
    server.start()
    assert push(server, "a") == [b"a"]
    [folder] = runtime.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert socket_path(long) == folder / "valkey.sock", "another shell finds it by the record"
    server.stop()


def test_a_socket_directory_that_is_a_link_is_refused(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("r")))
    long = data / ("d" * 60) / ("e" * 60)
    socket_path(long).parent.symlink_to(data)
    with pytest.raises(InvalidSettings, match="is a link"):
        Embedded(long).start()


def test_what_keeps_a_server_from_starting_is_said(data: Path) -> None:
    (data / "broker").mkdir()
    (data / "broker" / "valkey.sock").mkdir()
    with pytest.raises(BrokerUnavailable, match="Failed opening Unix socket"):
        Embedded(data).start()
