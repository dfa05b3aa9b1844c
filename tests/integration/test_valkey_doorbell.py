"""Ringing: what arrives in a real Valkey, and how quickly a ring gives up when the broker does not answer."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import torch

from broker.address import redis_client
from broker.doorbell import Doorbell
from broker.embedded import Embedded
from broker.settings import celery_settings
from corpusmill.errors import BrokerUnavailable
from corpusmill.messages import SHARD_QUEUE
from corpusmill.settings import Settings
from db.engine import migrate

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    server = Embedded(tmp_path_factory.mktemp("v"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(shared: Embedded) -> Embedded:
    """A server that runs and holds nothing."""
    if shared.pid is None or shared.poll() is not None:
        shared.start()
    client: redis.Redis = redis_client(shared.url)
    client.flushall()
    client.close()
    return shared


@pytest.fixture
def doorbell(server: Embedded) -> Iterator[Doorbell]:
    doorbell = Doorbell(Settings(broker_url=server.url))
    yield doorbell
    doorbell.close()


def messages(server: Embedded) -> list[Any]:
    """The queue's messages, oldest first."""
    client: redis.Redis = redis_client(server.url)
    found: Any = client.lrange(SHARD_QUEUE, 0, -1)
    client.close()
    return [json.loads(message) for message in reversed(found)]


def arguments(message: Any) -> Any:
    positional, named, _ = json.loads(base64.b64decode(message["body"]))
    assert named == {}
    return positional


def test_a_ring_sends_one_message_per_shard_with_its_id_and_nothing_else(server: Embedded, doorbell: Doorbell) -> None:
    assert doorbell.ring([7, 8]) == 2
    first, second = messages(server)
    assert (arguments(first), arguments(second)) == ([7], [8])
    assert first["headers"]["task"] == "corpusmill.shard"
    assert first["content-type"] == "application/json"
    assert first["headers"]["eta"] is None


def test_a_whole_window_arrives_in_order(server: Embedded, doorbell: Doorbell) -> None:
    assert doorbell.ring(range(256)) == 256
    assert [arguments(message) for message in messages(server)] == [[number] for number in range(256)]
    assert doorbell.depth() == 256


def test_ringing_for_nothing_asks_nothing_of_the_broker() -> None:
    assert Doorbell(Settings(broker_url="redis://127.0.0.1:1")).ring([]) == 0


def test_the_queue_may_be_emptied_between_rings(server: Embedded, doorbell: Doorbell) -> None:
    doorbell.ring([1])
    client: redis.Redis = redis_client(server.url)
    client.flushall()
    client.close()
    doorbell.ring([2])
    assert [arguments(message) for message in messages(server)] == [[2]]


def test_a_ring_after_the_broker_was_started_again_arrives(server: Embedded, doorbell: Doorbell) -> None:
    doorbell.ring([1])
    doorbell.ping()
    server.stop()
    server.start()
    doorbell.ring([2])
    assert doorbell.depth() == 2


def test_a_broker_that_is_not_there_is_reported_without_its_password() -> None:
    doorbell = Doorbell(Settings(broker_url="redis://:hunter2@127.0.0.1:1/0"))
    for ask in (lambda: doorbell.ring([1]), doorbell.depth, doorbell.ping, doorbell.policy):
        with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1") as caught:
            ask()
        assert "hunter2" not in str(caught.value)
    doorbell.close()


def test_every_thread_gets_an_answer_from_a_broker_that_hangs_and_rings_go_on_after_it(
    server: Embedded, doorbell: Doorbell
) -> None:
    doorbell.ring([0])
    assert server.pid is not None
    refused: list[BaseException] = []

    def ring(number: int) -> None:
        try:
            doorbell.ring([number])
        except BrokerUnavailable as error:
            refused.append(error)

    os.kill(server.pid, signal.SIGSTOP)
    try:
        threads = [threading.Thread(target=ring, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert len(refused) == 6
    doorbell.ring([99])
    assert [99] in [arguments(message) for message in messages(server)]


def test_threads_share_one_doorbell(server: Embedded, doorbell: Doorbell) -> None:
    threads = [threading.Thread(target=doorbell.ring, args=([number] * 5,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert doorbell.depth() == 40


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_rings_on_a_connection_of_its_own(server: Embedded, doorbell: Doorbell) -> None:
    doorbell.ring([1])
    child = os.fork()
    if child == 0:
        os._exit(0 if doorbell.ring([2]) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    doorbell.ring([3])
    assert [arguments(message) for message in messages(server)] == [[1], [2], [3]]


def test_a_closed_doorbell_may_be_rung_again(server: Embedded, doorbell: Doorbell) -> None:
    doorbell.ring([1])
    doorbell.close()
    doorbell.ring([2])
    assert doorbell.depth() == 2


def test_it_leaves_no_connections_behind_when_rings_fail(server: Embedded, doorbell: Doorbell) -> None:
    doorbell.ring([1])
    client: redis.Redis = redis_client(server.url)
    before = client.info("clients")["connected_clients"]
    client.config_set("maxmemory", "1")
    for _ in range(5):
        with pytest.raises(BrokerUnavailable, match="maxmemory"):
            doorbell.ring([2])
    client.config_set("maxmemory", "0")
    doorbell.ring([3])
    assert client.info("clients")["connected_clients"] <= before
    client.close()


def test_the_brokers_policy_can_be_asked(server: Embedded, doorbell: Doorbell) -> None:
    policy = doorbell.policy()
    assert (policy["maxmemory-policy"], policy["appendonly"]) == ("noeviction", "yes")
    assert policy["version"] is not None
    assert int(policy["version"].split(".")[0]) >= 7


def test_a_policy_that_may_not_be_asked_is_unknown(server: Embedded) -> None:
    client: Any = redis_client(server.url)
    client.execute_command("ACL", "SETUSER", "poor", "on", ">pw", "~*", "+@all", "-config")
    url = server.url.replace("redis+socket:///", "redis+socket://poor:pw@/")
    doorbell = Doorbell(Settings(broker_url=url))
    assert doorbell.policy()["maxmemory-policy"] is None
    doorbell.close()
    client.execute_command("ACL", "DELUSER", "poor")
    client.close()


TASKS = """\
import os, sys
from celery import shared_task

@shared_task(name="corpusmill.shard")
def ring(shard_id):
    with open(os.environ["HEARD"], "a") as file:
        print(shard_id, "billiard.spawn" in sys.modules, os.getppid() == int(os.environ["PARENT"]), file=file)
"""
WORKER = """\
import json, os, sys
from celery import Celery

if __name__ == "__main__":  # which it is not in the child
    os.environ["PARENT"] = str(os.getpid())
    app = Celery("worker")
    app.config_from_object(json.loads(sys.argv[1]) | {"include": ["heard"]})
    app.worker_main(["worker", "--loglevel", "WARNING", "--without-gossip", "--without-mingle"])
"""


def test_a_worker_with_these_settings_hears_it_in_a_spawned_child_and_ends_on_sigterm(
    server: Embedded, doorbell: Doorbell, tmp_path: Path
) -> None:
    (tmp_path / "heard.py").write_text(TASKS)
    (tmp_path / "listen.py").write_text(WORKER)
    heard = tmp_path / "heard.txt"
    worker = subprocess.Popen(
        [sys.executable, tmp_path / "listen.py", json.dumps(celery_settings(Settings(broker_url=server.url)))],
        env={**os.environ, "HEARD": str(heard), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        doorbell.ring([41, 42])
        while not (heard.exists() and heard.read_text().count("\n") == 2):
            assert worker.poll() is None
            time.sleep(0.05)
        assert heard.read_text() == "41 True True\n42 True True\n"
        worker.terminate()
        assert worker.wait() == 0
        assert doorbell.depth() == 0
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def test_a_worker_whose_process_cannot_be_made_ready_answers_no_doorbell(
    server: Embedded, doorbell: Doorbell, tmp_path: Path
) -> None:
    """It is started again and again, and what waits is left to others."""
    if torch.cuda.is_available():
        pytest.skip("this machine has the device that is to be missing")
    migrate(f"sqlite:///{tmp_path / 'corpusmill.sqlite3'}")
    doorbell.ring([1])
    environ = os.environ | {
        "CORPUSMILL_DATA_DIR": str(tmp_path), "CORPUSMILL_BROKER_URL": server.url, "CORPUSMILL_DEVICE": "cuda",
    }  # fmt: skip
    log = tmp_path / "log"
    with log.open("wb") as file:
        worker = subprocess.Popen([sys.executable, "-m", "cli", "worker"], env=environ, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 120
        while log.read_text().count("cannot be made ready") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "doorbell answered" not in log.read_text()
    finally:
        worker.terminate()
        worker.wait(40)
