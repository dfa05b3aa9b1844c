"""An API that dies at the worst moments, and callers who ask again."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.acceptance.stack import jsonl

from .conftest import Measured
from .oracle import Documents
from .processes import until
from .rig import BOUND, Rig

pytestmark = pytest.mark.timeout(300)


@pytest.mark.fault("F9")
def test_an_upload_cut_off_by_a_dead_api_leaves_nothing(rig: Rig, corpus: Documents, measured: Measured) -> None:
    body = jsonl(corpus)
    before = corpora(rig)
    key = f"f9-{time.time_ns()}"
    with socket.create_connection(("127.0.0.1", rig.port)) as connection:
        connection.sendall(
            b"POST /api/v1/corpora HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n"
            b"Idempotency-Key: %s\r\nContent-Length: %d\r\n\r\n" % (key.encode(), len(body))
        )
        connection.sendall(body[: len(body) // 2])
        until(rig.temporary_files, what="half of the upload is on the disk")
        rig.kill("api")
    rig.start("api")
    started = time.monotonic()
    until(rig.answers, BOUND, "the API answers")
    measured.recoveries.append(time.monotonic() - started)
    assert corpora(rig) == before, "nothing half visible"
    # An orphan is removed once it is an hour old, by a sweeper's first look.
    an_hour_ago = time.time() - 4_000
    for path in (rig.data_dir / "uploads").iterdir():
        os.utime(path, (an_hour_ago, an_hour_ago))
    rig.restart("sweep-0")
    until(lambda: not rig.temporary_files(), BOUND, "the orphan is removed")
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": key}
    uploads = [rig.request("POST", "/corpora", content=body, headers=headers).json()["id"] for _ in range(2)]
    assert len(set(uploads)) == 1, "the key is the first upload's that was whole"
    asked = {"task": "classification", "model": "echo", "corpus": uploads[0]}
    jobs = [rig.request("POST", "/jobs", json=asked, headers={"Idempotency-Key": f"{key}-job"}) for _ in range(2)]
    assert [answer.status_code for answer in jobs] == [202, 202]
    job_id, other = (str(answer.json()["id"]) for answer in jobs)
    assert job_id == other, "one job"
    rig.await_ended(job_id)
    rig.verify(job_id, corpus)
    assert len(corpora(rig)) == len(before) + 1


@pytest.mark.fault("F9")
@pytest.mark.slow
def test_an_upload_that_had_arrived_whole_when_the_api_died_is_read_by_the_sweeper(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    before = corpora(rig)
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": f"f9-{time.time_ns()}"}
    rig.restart("api", FAULTS_POINT="before_ingest")
    until(rig.answers, BOUND, "the API answers")
    with pytest.raises(httpx2.HTTPError):
        rig.request("POST", "/corpora", content=jsonl(corpus), headers=headers)
    rig.processes["api"].wait()
    assert rig.temporary_files() != [], "the upload is on the disk"
    started = time.monotonic()
    rig.start("api")
    until(rig.answers, BOUND, "the API answers")
    again = rig.request("POST", "/corpora", content=jsonl(corpus), headers=headers)
    assert again.status_code == 201
    (made,) = set(corpora(rig)) - set(before)
    assert again.json()["id"] == made, "one corpus, which the key names"
    job_id = rig.submit(corpus, corpus=made)  # and waits for its documents, if they are not there yet
    until(lambda: read(rig, made)["status"] == "ready", 2 * BOUND, "the sweeper has read it")
    measured.recoveries.append(time.monotonic() - started)
    assert read(rig, made)["documents"] == len(corpus)
    rig.await_ended(job_id)
    rig.verify(job_id, corpus)


def read(rig: Rig, corpus_id: str) -> dict[str, Any]:
    found: dict[str, Any] = rig.request("GET", f"/corpora/{corpus_id}").json()
    return found


def corpora(rig: Rig) -> list[str]:
    return [one["id"] for one in rig.request("GET", "/corpora", params={"limit": 1000}).json()["data"]]


@pytest.mark.fault("F10")
def test_a_job_committed_by_a_dying_api_runs_though_nobody_rang(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    job_id = submit_to_the_dying(rig, corpus, "before_ring")
    measured.recoveries.append(rig.recovery(job_id, []))
    rig.await_ended(job_id)
    rig.start("api")
    rig.verify(job_id, corpus)


def submit_to_the_dying(rig: Rig, corpus: Documents, point: str, **arguments: Any) -> str:
    """Submit to an API that dies after the commit; the job's id, read from the database."""
    corpus_id = rig.corpus(corpus)
    rig.restart("api", FAULTS_POINT=point)
    until(lambda: alive(rig), BOUND, "the API answers")
    newest = "SELECT id FROM jobs ORDER BY key DESC LIMIT 1"
    before = rig.database.query(newest)
    with pytest.raises(httpx2.HTTPError):
        rig.request("POST", "/jobs", json={"task": "classification", "model": "echo", "corpus": corpus_id}, **arguments)
    rig.processes["api"].wait()
    after = rig.database.query(newest)
    assert after != before, "the job is committed, though its caller never heard of it"
    return str(after[0].id)


def alive(rig: Rig) -> bool:
    try:
        return rig.http.get("/healthz", timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False


@pytest.mark.fault("F47")
@pytest.mark.slow
def test_a_reader_that_breaks_off_and_resumes_sees_every_result_once(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    job_id = rig.submit(corpus, delay_ms=1)
    seen: list[int] = []
    cursor: str | None = None
    while True:
        params = {"limit": "300", **({"cursor": cursor} if cursor else {})}
        with rig.http.stream("GET", f"/api/v1/jobs/{job_id}/results", params=params) as response:
            next(response.iter_raw(100), None)  # broken off in the middle of the answer
        page = rig.request("GET", f"/jobs/{job_id}/results", params=params).json()
        seen += [one["position"] for one in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == list(range(len(corpus)))
    for _ in range(5):
        with rig.http.stream("GET", f"/api/v1/jobs/{job_id}/export", params={"format": "jsonl"}) as response:
            next(response.iter_raw(100), None)
    rig.await_ended(job_id)
    rig.verify(job_id, corpus)


@pytest.mark.fault("F11")
def test_a_job_posted_again_with_its_key_after_the_api_died_is_the_same_job(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    key = {"Idempotency-Key": f"f11-{time.time_ns()}"}
    job_id = submit_to_the_dying(rig, corpus, "after_ring", headers=key)
    rig.start("api")
    until(rig.answers, BOUND, "the API answers")
    body = {"task": "classification", "model": "echo", "corpus": rig.corpus(corpus)}
    again = rig.request("POST", "/jobs", json=body, headers=key)
    assert again.status_code == 202
    assert again.json()["id"] == job_id
    rig.await_ended(job_id)
    rig.verify(job_id, corpus)


@pytest.mark.fault("F12")
def test_fifty_posts_at_once_with_one_key_make_one_job(rig: Rig, corpus: Documents, measured: Measured) -> None:
    key = {"Idempotency-Key": f"f12-{time.time_ns()}"}
    body = {"task": "classification", "model": "echo", "corpus": rig.corpus(corpus)}
    before = count(rig)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: rig.request("POST", "/jobs", json=body, headers=key), range(50)))
    assert {answer.status_code for answer in answers} == {202}
    first = answers[0]
    assert all(answer.json() == first.json() for answer in answers), "one answer, whoever came first"
    assert {(answer.headers["Location"], answer.headers["ETag"]) for answer in answers} == {
        (f"/api/v1/jobs/{first.json()['id']}", first.headers["ETag"])
    }
    assert count(rig) == before + 1
    other = rig.request("POST", "/jobs", json={**body, "name": "another"}, headers=key)
    assert other.status_code == 422
    job_id = str(first.json()["id"])
    rig.await_ended(job_id)
    rig.verify(job_id, corpus)


def count(rig: Rig) -> int:
    return int(rig.database.query("SELECT count(*) AS n FROM jobs")[0].n)


@pytest.mark.fault("F20")
def test_a_database_that_fails_just_after_a_jobs_commit_turns_no_answer_into_a_refusal(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    corpus_id = rig.corpus(corpus)
    rig.restart("api", FAULTS_POINT="no_database_before_ring")
    until(rig.answers, BOUND, "the API answers")
    job_id = rig.submit(corpus, corpus=corpus_id)
    rig.await_ended(job_id)
    rig.verify(job_id, corpus)
