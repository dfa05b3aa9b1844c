"""The client when the network or the server fails: what it sends again, what it must not, and what it says."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from corpusmill_client import Client, ConnectionFailed, CorpusmillError, Run
from corpusmill_client.transport import backoff

from tests.unit.contract_peer import Peer


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses made; none takes any time."""
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    return made


@pytest.fixture
def peer(naps: list[float]) -> Iterator[Peer]:
    started = Peer().start()
    yield started
    started.stop()


@pytest.fixture
def client(peer: Peer) -> Iterator[Client]:
    with Client(peer.url, api_key="unused") as opened:
        opened.models()
        yield opened


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "a document of some length"}\n' * 100_000)
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_that_is_not_there_is_said_with_its_address_and_how_to_start_one(naps: list[float]) -> None:
    url = f"http://127.0.0.1:{_free_port()}"
    with Client(url) as client, pytest.raises(ConnectionFailed) as failed:
        client.models()
    assert url in str(failed.value)
    assert "corpusmill up" in str(failed.value)
    assert (failed.value.code, failed.value.status) == ("connection_failed", None)
    assert len(naps) <= 4


@pytest.mark.parametrize("how", ["hang up", "lose the answer", "503", "429", "html"])
def test_a_question_is_asked_again_whatever_came_between(client: Client, peer: Peer, how: str) -> None:
    peer.misbehave("GET", "/models", how, times=3)
    assert client.models()[0].id == "echo"


def test_a_question_is_given_up_when_patience_ends(client: Client, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corpusmill_client.transport.PATIENCE", 0.0)
    peer.misbehave("GET", "/models", "503", times=50)
    with pytest.raises(CorpusmillError, match="Oh") as refused:
        client.models()
    assert refused.value.code == "database_unavailable"


@pytest.mark.parametrize("how", ["hang up", "lose the answer", "503", "429", "html"])
def test_a_job_a_schedule_and_a_run_are_asked_for_again_under_one_key_and_made_once(
    client: Client, peer: Peer, how: str
) -> None:
    for path in ("/jobs", "/schedules", "/run"):
        peer.misbehave("POST", path, how, times=2)
    client.classify(["a"], model="echo")
    client.create_schedule({"name": "reviews"}).run()
    assert (len(peer.jobs), len(peer.schedules), len(peer.nights)) == (1, 1, 1)
    for path in ("/jobs", "/schedules", "/run"):
        assert len(peer.asked("POST", path)) == 3
        assert len({each.headers["idempotency-key"] for each in peer.asked("POST", path)}) == 1
    client.classify(["a"], model="echo")
    assert len(peer.jobs) == 2


def test_a_submission_that_fails_inside_the_server_is_not_sent_again(client: Client, peer: Peer) -> None:
    peer.misbehave("POST", "/jobs", "500")
    with pytest.raises(CorpusmillError):
        client.classify(["a"], model="echo")
    assert len(peer.asked("POST", "/jobs")) == 1


@pytest.mark.parametrize("after", ["lose the answer", "503"])
def test_a_submission_given_up_after_its_answer_was_lost_says_to_look_before_sending_again(
    client: Client, peer: Peer, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    monkeypatch.setattr("corpusmill_client.transport.PATIENCE", 1.0)
    peer.misbehave("POST", "/jobs", "lose the answer")
    peer.misbehave("POST", "/jobs", after, times=5000)
    with pytest.raises(CorpusmillError, match="may or may not have been accepted"):
        client.classify(["a"], model="echo")
    assert len(list(client.jobs())) == 1


def test_an_upload_broken_off_before_its_end_is_sent_again_from_the_start(
    client: Client, peer: Peer, corpus: Path
) -> None:
    peer.misbehave("POST", "/corpora", "hang up half way", times=2)
    assert client.upload(corpus).documents == 100_000
    assert peer.seen[-1].body == corpus.read_bytes()
    assert len(peer.corpora) == 1


@pytest.mark.parametrize("how", ["hang up", "lose the answer", "503"])
def test_an_upload_that_may_have_arrived_is_sent_again_and_makes_one_corpus(
    client: Client, peer: Peer, corpus: Path, how: str
) -> None:
    peer.misbehave("POST", "/corpora", how, times=2)
    assert client.upload(corpus).id == "corpus_0"
    assert len(peer.corpora) == 1


def test_an_upload_whose_source_changed_after_its_answer_was_lost_is_no_second_corpus(
    client: Client, peer: Peer, tmp_path: Path
) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("one")
    peer.misbehave("POST", "/corpora", "lose the answer")
    sendings = []

    def write(sent: int, size: int | None) -> None:
        sendings.append(sent)
        path.write_text("two")

    with pytest.raises(CorpusmillError, match="another request") as refused:
        client.upload(path, progress=write)
    assert (refused.value.code, len(sendings), len(peer.corpora)) == ("idempotency_key_reused", 2, 1)


def test_a_stream_that_can_be_read_once_is_not_sent_again(client: Client, peer: Peer, corpus: Path) -> None:
    peer.misbehave("POST", "/corpora", "hang up half way")
    with corpus.open("rb") as file, pytest.raises(ConnectionFailed, match="may or may not have been accepted"):
        client.upload(file)
    assert len(peer.asked("POST", "/corpora")) == 1


def test_a_refusal_in_the_middle_of_an_upload_is_read_and_told(client: Client, peer: Peer, corpus: Path) -> None:
    peer.misbehave("POST", "/corpora", "refuse early", times=5)
    with pytest.raises(CorpusmillError, match="larger than this server takes") as refused:
        client.upload(corpus)
    assert refused.value.status == 413
    assert len(peer.asked("POST", "/corpora")) == 1


def test_a_file_that_shrinks_while_it_is_sent_is_no_corpus(client: Client, peer: Peer, corpus: Path) -> None:
    def shrink(sent: int, size: int | None) -> None:
        with corpus.open("ab") as file:
            file.truncate(10)

    with pytest.raises(CorpusmillError, match="became shorter") as refused:
        client.upload(corpus, progress=shrink)
    assert refused.value.code == "source_changed"
    assert not peer.corpora


def test_waiting_survives_a_server_that_restarts(client: Client, peer: Peer, naps: list[float]) -> None:
    peer.steps = 4
    job = client.classify(["a", "b", "c", "d"], model="echo")
    troubles: list[str | None] = []

    def tell(each: object) -> None:
        troubles.append(job.trouble)
        if job.counts.succeeded == 2 and not job.trouble and len(troubles) < 3:
            peer.stop()
        elif job.trouble and len(troubles) == 5:
            peer.start()

    assert job.wait(progress=tell).status == "completed"
    assert "No Corpusmill server answers" in str(troubles[3])
    assert (troubles[0], troubles[-1]) == (None, None)


@pytest.mark.parametrize("how", ["hang up", "503", "500", "html"])
def test_waiting_survives_answers_that_pass(client: Client, peer: Peer, how: str) -> None:
    job = client.classify(["a"], model="echo")
    peer.misbehave("GET", job.id, how, times=4)
    assert job.wait().status == "completed"


@pytest.mark.parametrize("status", [500, 503])
def test_waiting_for_a_run_survives_answers_that_pass(naps: list[float], status: int) -> None:
    answers = [(200, "running"), *[(status, "")] * 4, (200, "succeeded")]

    class Nights(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, found = answers[0] if len(answers) == 1 else answers.pop(0)
            run = {"id": "run_a", "schedule": "sched_a", "status": found, "stage": "label"}
            problem = {"status": code, "title": "it passes", "code": "internal" if code == 500 else "unavailable"}
            body = json.dumps(run if found else problem).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json" if found else "application/problem+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing is written for a request."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Nights) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            with Client(f"http://127.0.0.1:{server.server_port}") as client:
                transport = client._transport
                waiting = {"id": "run_a", "schedule": "sched_a", "status": "waiting", "stage": "read"}
                assert Run(transport, waiting).wait().status == "succeeded"
        finally:
            server.shutdown()


def test_waiting_ends_where_the_server_refuses_for_good(client: Client, peer: Peer) -> None:
    job = client.classify(["a"], model="echo")
    del peer.jobs[job.id]
    with pytest.raises(CorpusmillError, match="There is no job_0"):
        job.wait()


def test_waiting_ends_where_the_server_keeps_failing_inside(client: Client, peer: Peer) -> None:
    job = client.classify(["a"], model="echo")
    peer.misbehave("GET", job.id, "500", times=50)
    with pytest.raises(CorpusmillError, match="500"):
        job.wait()


def test_waiting_does_not_flood_a_server_that_answers_at_once(client: Client, peer: Peer, naps: list[float]) -> None:
    peer.steps = 10_000  # one document in thousands of steps: nothing to see changes
    job = client.classify(["a"], model="echo")
    with pytest.raises(TimeoutError):
        job.wait(timeout=0.3)
    assert max(naps[:10]) > 0.1


def test_an_export_cut_short_is_fetched_again_and_never_left_half(
    client: Client, peer: Peer, tmp_path: Path, naps: list[float]
) -> None:
    job = client.classify(["a", "b"], model="echo").wait()
    peer.misbehave("GET", "/export", "cut short", times=2)
    assert job.export(tmp_path / "out.jsonl").read_text().count("\n") == 2
    peer.misbehave("GET", "/export", "cut short", times=3)
    (tmp_path / "out.jsonl").write_text("what was there before")
    with pytest.raises(ConnectionFailed, match="connection was lost"):
        job.export(tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert (tmp_path / "out.jsonl").read_text() == "what was there before"


def test_rows_cut_short_are_an_error_and_not_a_shorter_list(client: Client, peer: Peer) -> None:
    job = client.classify(["a", "b"], model="echo").wait()
    peer.misbehave("GET", "/export", "cut short")
    with pytest.raises(ConnectionFailed):
        job.to_list()


def test_a_deletion_whose_answer_was_lost_is_success(client: Client, peer: Peer) -> None:
    job = client.classify(["a"], model="echo")
    peer.misbehave("DELETE", job.id, "lose the answer")
    job.delete()
    assert not peer.jobs
    with pytest.raises(CorpusmillError, match="There is no job_0"):
        job.delete()


def test_a_cancellation_is_safe_to_repeat(client: Client, peer: Peer) -> None:
    job = client.classify(["a"], model="echo")
    peer.misbehave("POST", "/cancel", "lose the answer")
    assert job.cancel().status == "cancelled"


@pytest.mark.parametrize(
    ("how", "message"), [("no json", "Corpusmill server"), ("redirect", "https://elsewhere.example/")]
)
def test_another_server_at_the_address_is_recognised(client: Client, peer: Peer, how: str, message: str) -> None:
    peer.misbehave("GET", "/models", how)
    with pytest.raises(CorpusmillError, match=message):
        client.models()


def test_several_threads_may_share_a_client(client: Client, peer: Peer) -> None:
    ended: list[str] = []
    threads = [
        threading.Thread(target=lambda: ended.append(client.classify(["a"], model="echo").wait().status))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == ["completed"] * 8


def test_pauses_grow_to_a_limit_and_honour_what_the_server_asks() -> None:
    assert all(0.1 <= backoff(0) <= 0.2 for _ in range(100))
    assert all(5.0 <= backoff(1000) <= 10.0 for _ in range(100))
    assert backoff(0, floor=7.0) == 7.0
    assert backoff(0, floor=86_400.0) == 30.0
