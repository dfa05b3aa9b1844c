"""The demonstration: what it shows, and that the server it starts is always ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpusmill_client import Client
from corpusmill_client.views import Metric, Metrics
from typer.testing import CliRunner, Result

import demo as corpora
from cli.commands import app
from cli.demo import PARTS, examples, metric_lines, print_text
from cli.own_server import ServerFault, own_server
from tests.unit.contract_peer import Peer

#: Stands for `corpusmill up`: a server that says when it is ready, and leaves a mark when it is asked to end.
SERVER = """
import os, pathlib, signal, sys, threading
from tests.unit.contract_peer import Peer
data = pathlib.Path(sys.argv[-1])
data.mkdir(exist_ok=True)
(data / "shards").write_text(os.environ["CORPUSMILL_SHARD_DOCUMENTS"])
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
peer = Peer().start()
print("starting", flush=True)
print(f"ready {peer.url}", flush=True)
ended.wait()
(data / "ended").touch()
"""


@pytest.fixture(autouse=True)
def _small_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.delenv("CORPUSMILL_URL", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(corpora, "CORPORA", tmp_path)
    for part in PARTS:
        lines = [{"text": f"{part.task} {n}. More.\nMore.", "reference": f"gold {n}"} for n in range(9)]
        (tmp_path / part.file).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def peer() -> Iterator[Peer]:
    started = Peer()
    names = ("accuracy", "f1_macro", "rouge1", "rouge2", "rougeL", "bleu", "chrf")
    metric = {"value": 0.75, "ci_low": 0.5, "ci_high": 1.0, "n": 9, "coverage": 1.0}
    started.metrics = {"metrics": [metric | {"name": name} for name in names], "confusion_matrix": None}
    started.start()
    yield started
    started.stop()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.own_server.COMMAND", (sys.executable, "-c", SERVER))
    monkeypatch.setattr("cli.demo._answers", lambda: False)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["demo", *(str(each) for each in arguments)])


def test_the_demo_shows_a_table_and_three_examples_of_each_task(peer: Peer) -> None:
    done = run("--url", peer.url)
    assert done.exit_code == 0, done.stderr
    for shown in ("demo/classifier", "accuracy 0.750 (0.500 to 1.000)", "rouge2 0.8 (0.5 to 1.0)", "bleu 0.8"):
        assert shown in done.stdout
    assert done.stdout.count("  input ") == done.stdout.count("  output ") == done.stdout.count("  reference ") == 9
    assert ".eroM .eroM .4 noitalsnart" in done.stdout.replace("\n", " ")
    assert [json.loads(each.body)["model"] for each in peer.asked("POST", "/jobs")] == [part.model for part in PARTS]
    assert json.loads(peer.asked("POST", "/jobs")[1].body)["params"] == {"method": "extractive"}


def test_the_demo_as_json_holds_jobs_metrics_and_examples(peer: Peer) -> None:
    jobs = json.loads(run("--url", peer.url, "--json").stdout)["jobs"]
    assert [job["status"] for job in jobs] == ["completed"] * 3
    assert [len(job["examples"]) for job in jobs] == [3] * 3
    assert jobs[0]["metrics"][0]["name"] == "accuracy"


def test_the_demo_fails_where_a_job_does_and_says_why(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    create = Peer.add_job
    monkeypatch.setattr(
        Peer, "add_job", lambda *args, **more: create(*args, **more | {"error": {"message": "No room."}})
    )
    done = run("--url", peer.url)
    assert done.exit_code == 1
    assert "No room." in done.stdout


def test_the_demo_starts_a_server_where_none_answers_and_ends_it(stand_in: None, tmp_path: Path) -> None:
    done = run("--data", tmp_path / "data")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "data" / "ended").exists()
    assert "The server is ready at http://127.0.0.1:" in done.stderr


@pytest.mark.parametrize(("set_by_user", "meant"), [(None, "64"), ("500", "500")])
def test_shards_are_small_enough_for_bars_to_move_unless_the_user_says_otherwise(
    stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_by_user: str | None, meant: str
) -> None:
    monkeypatch.delenv("CORPUSMILL_SHARD_DOCUMENTS", raising=False)
    if set_by_user is not None:
        monkeypatch.setenv("CORPUSMILL_SHARD_DOCUMENTS", set_by_user)
    with own_server(tmp_path / "data"):
        assert (tmp_path / "data" / "shards").read_text() == meant


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, RuntimeError])
def test_the_server_is_ended_whatever_happens(
    stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        raise trouble

    monkeypatch.setattr("cli.demo._wait", fail)
    done = run("--data", tmp_path / "data")
    assert done.exit_code == (130 if trouble is KeyboardInterrupt else 1)
    assert (tmp_path / "data" / "ended").exists()


def test_a_server_of_the_demos_own_needs_no_directory_and_leaves_none(
    stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "made"))
    with own_server(None) as url, Client(url) as client:
        assert client.models()
        assert len(list((tmp_path / "made").iterdir())) == 1
    assert list((tmp_path / "made").iterdir()) == []


def test_a_server_that_does_not_start_is_told_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; sys.exit('Error: the port is taken.')"
    monkeypatch.setattr("cli.own_server.COMMAND", (sys.executable, "-c", program))
    with pytest.raises(ServerFault, match=r"did not start(?s:.*)the port is taken"), own_server(None):
        pass


def test_a_server_that_never_becomes_ready_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.own_server.COMMAND", (sys.executable, "-c", "import signal; signal.pause()"))
    monkeypatch.setattr("cli.own_server.READY_SECONDS", 0.2)
    with pytest.raises(ServerFault, match=r"not ready within 0\.2 s"), own_server(None):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from cli import own_server\n"
        f"own_server.COMMAND = (sys.executable, '-c', {SERVER!r})\n"
        f"with own_server.own_server(pathlib.Path({str(tmp_path / 'data')!r})) as url:\n"
        "    print(url, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as starter:
        assert starter.stdout
        starter.stdout.readline()
        starter.send_signal(number)
    deadline = time.monotonic() + 30
    while not (tmp_path / "data" / "ended").exists():
        assert time.monotonic() < deadline, "the server goes on"
    assert starter.returncode == (-9 if number is signal.SIGKILL else 128 + number)


def test_a_server_that_is_named_excludes_a_directory_for_one(peer: Peer, tmp_path: Path) -> None:
    assert run("--url", peer.url, "--data", tmp_path).exit_code == 2


def test_a_corpus_that_is_not_installed_is_said_before_anything_starts(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / PARTS[0].file).unlink()
    done = run("--url", peer.url)
    assert (done.exit_code, "reviews.jsonl is not there" in done.stderr) == (1, True)
    assert not peer.asked("POST", "/corpora")


def test_examples_are_spread_over_the_documents_and_succeeded(peer: Peer) -> None:
    with Client(peer.url) as client:
        texts = [{"text": " " if n == 1 else f"text {n}", "reference": ["first", "second"]} for n in range(7)]
        job = client.translate(texts, model="echo").wait()
        assert examples(job) == [{"input": f"text {n}", "output": f"{n} txet", "reference": "first"} for n in (2, 3, 5)]


def test_each_sentence_of_a_summary_has_its_own_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_text("output", ["word " * 60, "Two."], lines=2)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("  output     word")
    assert second.endswith("…")
    assert third == "             Two."


def test_metrics_that_are_not_there_are_left_out() -> None:
    metrics = Metrics(metrics=(Metric(name="bleu", value=31.26), Metric(name="chrf", value=None)))
    assert metric_lines(metrics, ("bleu", "chrf", "ter")) == ("bleu 31.3",)
