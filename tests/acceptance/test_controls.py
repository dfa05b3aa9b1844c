"""What an operator asks of a job over HTTP: pause, resume, retry, and the same request twice."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from .stack import PATIENCE, Stack, jsonl

TEXTS = [{"id": str(k), "text": f"Text {k}."} for k in range(400)]


@pytest.fixture(scope="module")
def corpus(stack: Stack) -> str:
    return str(stack.upload(jsonl(TEXTS))["id"])


def ask(stack: Stack, job_id: str, move: str) -> httpx2.Response:
    return stack.http.post(f"/api/v1/jobs/{job_id}/{move}")


def test_a_paused_job_stands_still_and_a_resumed_one_ends_exactly(stack: Stack, corpus: str) -> None:
    job = stack.submit(task="classification", model="echo", corpus=corpus, params={"delay_ms": 10})
    stack.wait(job["id"], lambda seen: seen["status"] == "running")
    assert ask(stack, job["id"], "pause").status_code == 202
    paused = stack.wait(job["id"], lambda seen: seen["status"] == "paused")
    assert paused["counts"]["pending"] > 0
    assert stack.get(f"/jobs/{job['id']}", wait=2)["counts"] == paused["counts"]
    assert ask(stack, job["id"], "resume").status_code == 202
    ended = stack.wait(job["id"])
    assert (ended["status"], ended["counts"]["succeeded"]) == ("completed", len(TEXTS))
    assert [row["position"] for row in stack.results(job["id"])] == list(range(len(TEXTS)))


def test_a_retry_runs_failed_documents_again_and_keeps_the_others(stack: Stack) -> None:
    documents = [{"id": "a", "text": "One."}, {"id": "b", "text": "  "}, {"id": "c", "text": "Three."}]
    job = stack.submit(task="classification", model="echo", documents=documents)
    before = stack.wait(job["id"])
    assert before["status"] == "completed_with_errors"
    answer = ask(stack, job["id"], "retry")
    assert answer.status_code == 202
    after = stack.wait(job["id"])
    assert (after["status"], after["counts"]) == (before["status"], before["counts"])
    assert [row["status"] for row in stack.results(job["id"])] == ["succeeded", "failed", "succeeded"]


def test_a_job_with_reuse_runs_only_texts_that_no_other_ran_and_says_so(stack: Stack) -> None:
    own = uuid4().hex
    documents = [{"id": str(number), "text": f"{own} {number}.", "reference": str(number % 4)} for number in range(50)]
    asked: dict[str, Any] = {"task": "classification", "model": "echo"}
    first = stack.wait(stack.submit(**asked, documents=documents, reuse=True)["id"])
    plain = stack.wait(stack.submit(**asked, documents=documents)["id"])
    second = stack.wait(stack.submit(**asked, documents=[*documents, {"text": f"{own} new."}], reuse=True)["id"])
    assert [(job["reuse"], job["reused"]) for job in (first, plain, second)] == [(True, 0), (False, 0), (True, 50)]
    assert second["counts"] == {"total": 51, "succeeded": 51, "failed": 0, "cancelled": 0, "pending": 0}
    assert list(stack.results(second["id"]))[:50] == list(stack.results(plain["id"]))


def test_an_illegal_move_says_what_would_be_legal(stack: Stack) -> None:
    job = stack.submit(task="classification", model="echo", documents=[{"text": "One."}])
    stack.wait(job["id"])
    for move in ("pause", "resume", "cancel", "retry"):
        answer = ask(stack, job["id"], move)
        assert answer.status_code == 409
        assert f"is completed; {move} is for jobs that are" in answer.json()["detail"]


def post(stack: Stack, key: str, **body: Any) -> httpx2.Response:
    return stack.http.post("/api/v1/jobs", json=body, headers={"Idempotency-Key": key})


def test_fifty_requests_at_a_time_with_one_key_make_one_job(stack: Stack) -> None:
    key, body = (
        uuid4().hex,
        {"task": "classification", "model": "echo", "documents": [{"text": "One."}], "name": "once"},
    )
    known = len(stack.get("/jobs", limit=1000)["data"])
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: post(stack, key, **body), range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({json.dumps(answer.json(), sort_keys=True) for answer in answers}) == 1
    assert len(stack.get("/jobs", limit=1000)["data"]) == known + 1
    stack.wait(answers[0].json()["id"])
    assert post(stack, key, **body).json() == answers[0].json()


def test_another_request_with_a_used_key_is_refused(stack: Stack) -> None:
    key = uuid4().hex
    assert post(stack, key, task="classification", model="echo", documents=[{"text": "One."}]).status_code == 202
    refused = post(stack, key, task="classification", model="echo", documents=[{"text": "Two."}])
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert post(stack, "", task="classification", model="echo", documents=[{"text": "One."}]).status_code == 422


def test_a_refused_request_does_not_use_up_its_key(stack: Stack) -> None:
    key = uuid4().hex
    body = {"task": "classification", "model": "echo", "corpus": "corpus_none"}
    assert post(stack, key, **body).status_code == 422
    assert post(stack, key, task="classification", model="echo", documents=[{"text": "One."}]).status_code == 202


def test_the_same_upload_twice_with_one_key_is_one_corpus(stack: Stack) -> None:
    headers = {"Idempotency-Key": uuid4().hex, "Content-Type": "application/x-ndjson"}
    answers = [
        stack.http.post("/api/v1/corpora", content=content, headers=headers)
        for content in (jsonl(TEXTS[:3]), jsonl(TEXTS[:3]), jsonl(TEXTS[:4]))
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 422]
    assert answers[0].json() == answers[1].json()
    stored = {path.name for path in (stack.data_dir / "corpora").iterdir()}
    assert not any(name.endswith((".part", ".upload")) for name in stored)


def test_workers_say_what_they_hold(stack: Stack, corpus: str) -> None:
    job = stack.submit(task="classification", model="echo", corpus=corpus, params={"delay_ms": 20})
    shards = set()
    for _ in range(200):
        seen = stack.get("/workers")["data"]
        shards |= {worker["shard"]["job"] for worker in seen if worker["shard"]}
        if shards:
            break
        stack.get(f"/jobs/{job['id']}", wait=1)
    assert shards == {job["id"]}
    (worker,) = seen
    assert worker["device"] == "cpu"
    assert worker["memory"]["resident"] > 10 << 20
    assert worker["started_at"] <= worker["seen_at"]
    stack.wait(job["id"])
    for _ in range(200):  # it says so with its next heartbeat
        (worker,) = stack.get("/workers")["data"]
        if worker["models"]:
            break
        stack.get(f"/jobs/{job['id']}", wait=1)
    assert worker["models"] == [job["model"]]


def traces(stack: Stack, word: str) -> list[str]:
    """The files below the data directory that hold a word."""
    found = []
    for path in sorted(stack.data_dir.rglob("*")):
        with suppress(FileNotFoundError):  # removed while it is looked for
            if path.is_file() and word.encode() in path.read_bytes():
                found.append(str(path.relative_to(stack.data_dir)))
    return found


def test_nothing_of_a_text_is_left_when_its_corpus_and_jobs_are_deleted(stack: Stack) -> None:
    word = f"secret{uuid4().hex}"
    documents = [{"id": f"{word}-{k}", "text": f"{word} {k}. More of it.", "note": word} for k in range(60)]
    corpus = stack.upload(jsonl(documents))
    jobs = [
        stack.submit(task="summarization", model="echo", corpus=corpus["id"], reuse=True),
        stack.submit(task="translation", model="echo", documents=[{"text": word}], reuse=True),
    ]
    for job in jobs:
        assert stack.wait(job["id"])["status"] == "completed"
    assert traces(stack, word)
    assert traces(stack, word[::-1])
    for path in (*(f"/jobs/{job['id']}" for job in jobs), f"/corpora/{corpus['id']}"):
        assert stack.http.delete(f"/api/v1{path}").status_code == 204
    deadline = time.monotonic() + PATIENCE
    while left := traces(stack, word) + traces(stack, word[::-1]):  # the log goes once nobody is at work for a moment
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_what_has_a_time_to_live_goes_by_itself(stack: Stack) -> None:
    corpus = stack.upload(jsonl(TEXTS[:5]), ttl_seconds="2")
    job = stack.submit(
        task="classification", model="echo", corpus=corpus["id"], params={"delay_ms": 500}, ttl_seconds=2
    )
    assert (job["expires_at"], corpus["expires_at"] is None) == (None, False)
    ended = stack.wait(job["id"])  # its corpus is kept for as long as it runs
    assert (ended["status"], ended["expires_at"] > ended["finished_at"]) == ("completed", True)
    for path in (f"/jobs/{job['id']}", f"/corpora/{corpus['id']}"):
        deadline = time.monotonic() + 60
        while stack.http.get(f"/api/v1{path}").status_code != 404:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert not (stack.data_dir / "corpora" / corpus["id"]).exists()
