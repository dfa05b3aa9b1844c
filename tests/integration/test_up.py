"""`corpusmill up` as a whole: real programs that are killed, started again, and ended in order."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from broker.address import redis_client, socket_path, socket_url
from broker.embedded import Embedded
from cli.service import cuda_devices
from corpusmill.errors import InvalidSettings
from corpusmill.settings import Settings
from tests.integration.up import CLI, ROOT, Up, end, eventually, start

DELAYED = {"delay_ms": 50}


def all_gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs any more; one that nobody has waited for does not run either."""
    return not any(_runs(process) for process in processes)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *arguments], cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = start(tmp_path_factory.mktemp("u"))
    yield up
    end(up)


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One for a test that ends it."""
    up = start(tmp_path_factory.mktemp("u"))
    yield up
    end(up)


def test_its_own_files_are_private_and_each_program_has_a_log(shared: Up) -> None:
    assert (shared.data / "logs").stat().st_mode & 0o777 == 0o700
    assert {path.name for path in (shared.data / "logs").iterdir()} >= {
        "api.log", "broker.log", "sweep.log", "worker.log"
    }  # fmt: skip


def test_a_second_one_on_the_same_directory_is_refused_by_the_first_ones_number(shared: Up) -> None:
    second = run("up", "--port", "0", "--data", str(shared.data))
    assert second.returncode == 1
    assert f"in use by process {shared.process.pid} " in second.stderr
    assert shared.is_ready()


@pytest.mark.parametrize("words", [("cli", "api"), ("cli", "worker"), ("cli", "sweep"), ("valkey-server",)])
def test_a_program_that_is_killed_is_started_again_and_the_reason_said(shared: Up, words: tuple[str, ...]) -> None:
    before = shared.program(*words)
    family = [before, *before.children(recursive=True)]
    before.kill()
    eventually(lambda: all_gone(family))
    name = "broker" if words == ("valkey-server",) else words[-1]
    eventually(lambda: f"{name} ended (killed by SIGKILL)" in shared.messages())

    def is_back() -> bool:
        try:
            return shared.program(*words).pid != before.pid and shared.is_ready()
        except (ValueError, IndexError, psutil.Error):  # none yet, or one that is just beginning
            return False

    eventually(is_back)


def test_no_caller_is_refused_while_the_api_is_started_again(shared: Up) -> None:
    eventually(shared.is_ready)
    api = shared.program("cli", "api")
    for process in (api, *api.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    eventually(lambda: all_gone([api]))
    with urllib.request.urlopen(f"{shared.url}/healthz", timeout=60) as answer:
        assert answer.status == 200


def test_the_doctor_finds_a_running_service_sound(shared: Up) -> None:
    eventually(shared.is_ready)
    found = run("doctor", "--json", "--data", str(shared.data))
    assert found.returncode == 0, found.stdout
    checks = {check["check"]: check["state"] for check in json.loads(found.stdout)["checks"]}
    assert {checks[name] for name in ("database", "clock", "broker", "broker eviction", "broker persistence")} == {"ok"}


def test_the_doctor_refuses_a_broker_that_may_evict_the_queue(shared: Up) -> None:
    eventually(shared.is_ready)
    client = redis_client(socket_url(socket_path(shared.data)))
    client.config_set("maxmemory-policy", "allkeys-lru")
    found = run("doctor", "--data", str(shared.data))
    client.config_set("maxmemory-policy", "noeviction")
    client.close()
    assert found.returncode == 1
    assert "CONFIG SET maxmemory-policy noeviction" in found.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_all_in_order(alone: Up, number: signal.Signals) -> None:
    family = alone.everything()
    alone.process.send_signal(number)
    assert alone.process.wait() == 0
    assert all_gone(family)
    said = alone.messages().splitlines()
    # Between the two nothing is said, but of a program that a busy machine did not let end within the time there is.
    between = said[said.index("corpusmill: stopping") + 1 :]
    assert between.pop() == "corpusmill: stopped"
    assert all("did not end in time" in line for line in between)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", alone.port))


def test_a_job_that_is_cut_is_finished_by_the_next_start_even_with_an_empty_broker(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = tmp_path_factory.mktemp("u")
    environ = {"CORPUSMILL_SHARD_DOCUMENTS": "5"}
    first = start(data, **environ)
    documents = [{"text": f"text {number}"} for number in range(60)]
    job = first.ask("/jobs", {"task": "classification", "model": "echo", "documents": documents, "params": DELAYED})
    eventually(lambda: first.ask(f"/jobs/{job['id']}")["counts"]["succeeded"] >= 5)
    first.process.terminate()
    assert first.process.wait() == 0
    end(first)

    broker = Embedded(tmp_path_factory.mktemp("v"))
    broker.start()
    second = start(data, **environ, CORPUSMILL_BROKER_URL=broker.url)
    eventually(lambda: second.ask(f"/jobs/{job['id']}")["status"] == "completed")
    results = second.ask(f"/jobs/{job['id']}/results?limit=1000")["data"]
    assert [result["position"] for result in results] == list(range(60))
    with urllib.request.urlopen(f"{second.url}/metrics", timeout=30) as answer:
        assert b"corpusmill_losses 0.0" in answer.read(), "a shard that is given back is no loss"
    end(second)
    broker.kill()


def test_a_second_signal_ends_it_at_once(alone: Up) -> None:
    worker = alone.program("cli", "worker")
    family = alone.everything()
    worker.suspend()
    alone.process.terminate()
    eventually(lambda: "stopping" in alone.messages())
    alone.process.terminate()
    assert alone.process.wait() == 0
    assert "worker did not end in time and was killed" in alone.messages()
    assert all_gone(family)


def test_when_it_is_killed_nothing_outlives_it_and_the_next_one_takes_over(alone: Up) -> None:
    # the supervisor, four programs, and the children of two
    eventually(lambda: len(alone.everything()) >= 7)
    family = alone.everything()
    alone.process.kill()
    alone.process.wait()
    eventually(lambda: all_gone(family))
    after = start(alone.data, "--port", str(alone.port))
    assert after.url == alone.url
    end(after)


def test_it_refuses_to_be_open_to_a_network_without_a_key(tmp_path: Path) -> None:
    refused = run("up", "--host", "0.0.0.0", "--port", "0", "--data", str(tmp_path / "data"))
    assert refused.returncode == 1
    assert "CORPUSMILL_API_KEY" in refused.stderr
    assert not (tmp_path / "data").exists(), "nothing was begun"


def test_it_refuses_a_broker_beyond_this_machine_without_a_password(tmp_path: Path) -> None:
    refused = run("up", "--port", "0", "--data", str(tmp_path), CORPUSMILL_BROKER_URL="redis://queue:6379/0")
    assert refused.returncode == 1
    assert "has no password" in refused.stderr


def test_it_names_a_setting_that_is_none(tmp_path: Path) -> None:
    refused = run("up", "--data", str(tmp_path), CORPUSMILL_LEASE="3")
    assert refused.returncode == 1
    assert "CORPUSMILL_LEASE: no such setting" in refused.stderr


def test_the_api_alone_refuses_to_be_open_to_a_network_without_a_key() -> None:
    refused = run("api", CORPUSMILL_HOST="0.0.0.0", CORPUSMILL_PORT="0")
    assert refused.returncode == 1
    assert "CORPUSMILL_API_KEY" in refused.stderr


def test_the_database_can_be_made_and_brought_up_to_date_beforehand(tmp_path: Path) -> None:
    data = tmp_path / "new"
    assert run("db", "upgrade", "--data", str(data)).returncode == 0
    assert run("db", "upgrade", "--data", str(data)).returncode == 0
    assert (data / "corpusmill.sqlite3").exists()


def test_the_doctor_says_what_is_missing_before_the_first_start_and_makes_nothing(tmp_path: Path) -> None:
    found = run("doctor", "--json", "--data", str(tmp_path / "new"))
    states = {check["check"]: check["state"] for check in json.loads(found.stdout)["checks"]}
    assert (found.returncode, states["database"], states["broker"]) == (0, "warning", "warning")
    assert not (tmp_path / "new").exists()


def test_the_doctor_names_each_part_that_does_not_answer(tmp_path: Path) -> None:
    found = run(
        "doctor", "--json",
        CORPUSMILL_DATA_DIR=str(tmp_path),
        CORPUSMILL_BROKER_URL="redis://127.0.0.1:1/0",
        CORPUSMILL_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none",
        CORPUSMILL_MODELS_ROOT=str(tmp_path / "nowhere"),
    )  # fmt: skip
    faults = {check["check"] for check in json.loads(found.stdout)["checks"] if check["state"] == "fault"}
    assert (found.returncode, faults) == (1, {"database", "broker", "models root"})


def test_the_doctor_says_of_a_place_what_the_operator_alone_may_read(tmp_path: Path) -> None:
    places = tmp_path / "places.toml"
    places.write_text('[databases.shop]\nurl = "postgresql://somebody:secret@127.0.0.1:1/none"\n')
    found = run("doctor", "--json", CORPUSMILL_DATA_DIR=str(tmp_path), CORPUSMILL_PLACES_FILE=str(places))
    [said] = [check for check in json.loads(found.stdout)["checks"] if check["check"] == "database shop"]
    assert said["state"] == "fault"
    assert "127.0.0.1" in said["found"]
    assert "secret" not in found.stdout


def test_a_cuda_device_that_is_not_there_is_refused() -> None:
    if cuda_devices(Settings(device="auto")):
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(InvalidSettings, match="CORPUSMILL_DEVICE is cuda"):
        cuda_devices(Settings(device="cuda"))
