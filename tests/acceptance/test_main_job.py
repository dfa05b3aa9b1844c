"""The main job with the echo model, end to end over HTTP: upload, submit, poll, results, export, metrics, cancel, delete."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from typing import Any
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from .stack import Stack, jsonl

DOCUMENTS: list[dict[str, Any]] = [
    {"id": f"doc-{k}", "text": f"Text number {k}. And a second sentence.", "reference": str(k % 4), "source": "test"}
    for k in range(500)
]


def label(text: str) -> str:
    return str(crc32(text.encode()) % 4)


@pytest.fixture(scope="module")
def corpus(stack: Stack) -> dict[str, Any]:
    return stack.upload(jsonl(DOCUMENTS), name="five hundred")


@pytest.fixture(scope="module")
def job(stack: Stack, corpus: dict[str, Any]) -> dict[str, Any]:
    submitted = stack.submit(task="classification", model="echo", corpus=corpus["id"], metadata={"night": 1})
    ended: dict[str, Any] = stack.wait(submitted["id"])
    return ended


def test_an_upload_says_what_was_read(corpus: dict[str, Any]) -> None:
    assert corpus["status"] == "ready"
    assert (corpus["documents"], corpus["invalid"]) == (500, 0)
    assert corpus["format"] == "jsonl"
    assert corpus["fields"] == ["source"]
    assert corpus["bytes"] == len(jsonl(DOCUMENTS))


def test_a_job_ends_with_counts_that_add_up(job: dict[str, Any]) -> None:
    assert job["status"] == "completed"
    assert job["counts"] == {"total": 500, "succeeded": 500, "failed": 0, "cancelled": 0, "pending": 0}
    assert job["progress"] == 1.0
    assert job["metadata"] == {"night": 1}
    assert job["model"] == {"id": "echo", "revision": "1"}
    assert job["params"]["top_k"] == 5
    assert job["error"] is None


def test_every_document_has_one_result_in_order(stack: Stack, job: dict[str, Any]) -> None:
    results = stack.results(job["id"])
    assert [result["position"] for result in results] == list(range(500))
    for result, document in zip(results, DOCUMENTS, strict=True):
        assert result["id"] == document["id"]
        assert result["status"] == "succeeded"
        assert result["output"]["label"] == label(document["text"])
        assert result["output"]["score"] == 1.0


def test_results_are_chosen_by_label_and_score(stack: Stack, job: dict[str, Any]) -> None:
    page = stack.get(f"/jobs/{job['id']}/results", label="2", min_score=0.5, limit=1000)
    assert [row["position"] for row in page["data"]] == [
        k for k, document in enumerate(DOCUMENTS) if label(document["text"]) == "2"
    ]
    assert page["next_cursor"] is None
    assert stack.get(f"/jobs/{job['id']}/results", max_score=0.5)["data"] == []
    assert stack.get(f"/jobs/{job['id']}/results", status="failed")["data"] == []


def test_one_result_is_found_by_position(stack: Stack, job: dict[str, Any]) -> None:
    assert stack.get(f"/jobs/{job['id']}/results/7")["id"] == "doc-7"
    assert stack.http.get(f"/api/v1/jobs/{job['id']}/results/500").status_code == 404


def test_exports_hold_input_and_output_in_input_order(stack: Stack, job: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in stack.export(job["id"], "jsonl").splitlines()]
    assert [line["position"] for line in lines] == list(range(500))
    assert lines[3]["output"]["label"] == label(DOCUMENTS[3]["text"])
    table = list(csv.DictReader(io.StringIO(stack.export(job["id"], "csv").decode())))
    assert [row["text"] for row in table] == [document["text"] for document in DOCUMENTS]
    assert [row["label"] for row in table] == [label(document["text"]) for document in DOCUMENTS]
    assert {row["source"] for row in table} == {"test"}
    columns = pq.read_table(io.BytesIO(stack.export(job["id"], "parquet"))).to_pydict()
    assert columns["label"] == [label(document["text"]) for document in DOCUMENTS]


def test_metrics_of_a_labelled_corpus_come_with_intervals(stack: Stack, job: dict[str, Any]) -> None:
    metrics = stack.metrics(job["id"])
    accuracy = metrics["accuracy"]
    right = sum(label(document["text"]) == document["reference"] for document in DOCUMENTS)
    assert accuracy["value"] == pytest.approx(right / 500, abs=1e-12)
    assert accuracy["ci_low"] < accuracy["value"] < accuracy["ci_high"]
    assert (accuracy["n"], accuracy["coverage"]) == (500, 1.0)
    matrix = stack.get(f"/jobs/{job['id']}/metrics")["confusion_matrix"]
    assert sum(map(sum, matrix["counts"])) == 500


def test_polling_with_an_etag_answers_only_what_has_changed(stack: Stack, job: dict[str, Any]) -> None:
    first = stack.http.get(f"/api/v1/jobs/{job['id']}")
    again = stack.http.get(f"/api/v1/jobs/{job['id']}", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_inline_documents_need_no_upload(stack: Stack) -> None:
    submitted = stack.submit(
        task="translation",
        model="echo",
        documents=[{"id": "a", "text": "abc"}, {"text": "xyz", "reference": "zyx", "note": 1}, {"text": "  "}],
    )
    ended = stack.wait(submitted["id"])
    assert ended["status"] == "completed_with_errors"
    first, second, third = stack.results(submitted["id"])
    assert (first["id"], first["output"]["translation"]) == ("a", "cba")
    assert (second["id"], second["output"]["translation"]) == ("1", "zyx")
    assert third["error"]["code"] == "empty_text"
    assert submitted["corpus"] not in [corpus["id"] for corpus in stack.get("/corpora", limit=1000)["data"]]


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("part-1.jsonl", jsonl(DOCUMENTS[:2]))
        archive.writestr("part-2.csv", "id,text\nc,third\n")
        archive.writestr("part-3.txt", "a whole document\nin two lines")
    return buffer.getvalue()


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["one", "two"]}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("media_type", "body", "documents"),
    [
        ("application/jsonl", jsonl(DOCUMENTS[:3]), 3),
        ("text/csv", b'id,text\n1,one\n2,"two\nlines"\n', 2),
        ("text/tab-separated-values", b"id\ttext\n1\tone\n", 1),
        ("text/plain", b"one\ntwo\nthree\n", 3),
        ("application/vnd.apache.parquet", parquet(), 2),
        ("application/zip", zipped(), 4),
    ],
)
def test_every_format_of_the_contract_is_read(stack: Stack, media_type: str, body: bytes, documents: int) -> None:
    corpus = stack.upload(body, media_type)
    assert (corpus["status"], corpus["documents"]) == ("ready", documents), corpus


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("zstd", zstandard.compress)])
def test_compressed_uploads_are_read(stack: Stack, encoding: str, pack: Any) -> None:
    response = stack.http.post(
        "/api/v1/corpora",
        content=pack(jsonl(DOCUMENTS[:5])),
        headers={"Content-Type": "application/x-ndjson", "Content-Encoding": encoding},
    )
    assert response.json()["documents"] == 5


def test_a_form_s_file_is_read_by_its_name(stack: Stack) -> None:
    response = stack.http.post("/api/v1/corpora", files={"file": ("reviews.csv", b"text\none\ntwo\n")})
    assert response.status_code == 201, response.text
    assert (response.json()["name"], response.json()["documents"]) == ("reviews.csv", 2)


def test_lines_that_are_no_documents_are_named_and_the_rest_runs(stack: Stack) -> None:
    body = b'{"text": "good"}\n{"text": 3}\nnot json\n{"other": 1}\n{"text": "\xff"}\n{"text": "fine"}\n'
    corpus = stack.upload(body)
    assert (corpus["documents"], corpus["invalid"]) == (2, 4)
    errors = stack.get(f"/corpora/{corpus['id']}/errors")["data"]
    assert [(error["line"], error["code"]) for error in errors] == [
        (2, "wrong_type"), (3, "invalid_json"), (4, "missing_field"), (5, "bad_encoding"),
    ]  # fmt: skip
    ended = stack.wait(stack.submit(task="summarization", model="echo", corpus=corpus["id"])["id"])
    assert (ended["status"], ended["corpus_invalid"]) == ("completed", 4)


def test_a_corpus_without_documents_is_rejected_and_says_why(stack: Stack) -> None:
    corpus = stack.upload(b"not json\n")
    assert corpus["status"] == "rejected"
    refused = stack.http.post("/api/v1/jobs", json={"task": "classification", "model": "echo", "corpus": corpus["id"]})
    assert (refused.status_code, refused.json()["code"]) == (422, "corpus_rejected")


def test_cancelling_keeps_what_has_ended_and_names_the_rest(stack: Stack, corpus: dict[str, Any]) -> None:
    submitted = stack.submit(task="classification", model="echo", corpus=corpus["id"], params={"delay_ms": 20})
    stack.wait(submitted["id"], lambda job: job["status"] == "running")
    busy = stack.http.delete(f"/api/v1/corpora/{corpus['id']}")
    assert (busy.status_code, busy.json()["code"]) == (409, "conflict")
    assert stack.http.post(f"/api/v1/jobs/{submitted['id']}/cancel").status_code == 202
    ended = stack.wait(submitted["id"])
    assert ended["status"] == "cancelled"
    results = stack.results(submitted["id"])
    assert len(results) == 500
    assert sum(result["status"] == "cancelled" for result in results) == ended["counts"]["cancelled"] > 0
    exported = [json.loads(line) for line in stack.export(submitted["id"]).splitlines()]
    assert [line["status"] for line in exported] == [result["status"] for result in results]


def test_a_running_job_shows_what_it_has(stack: Stack) -> None:
    lines = jsonl([{"text": f"document {k}"} for k in range(30)])
    corpus = stack.upload(lines)
    submitted = stack.submit(task="summarization", model="echo", corpus=corpus["id"], params={"delay_ms": 30})
    page = stack.get(f"/jobs/{submitted['id']}/results")
    assert page["next_cursor"] is not None
    assert stack.http.get(f"/api/v1/jobs/{submitted['id']}/export").status_code == 409
    assert stack.http.get(f"/api/v1/jobs/{submitted['id']}/export", params={"partial": "true"}).status_code == 200
    assert stack.get(f"/jobs/{submitted['id']}/metrics")["metrics"] is not None
    stack.wait(submitted["id"])


def test_a_deleted_job_is_gone(stack: Stack) -> None:
    submitted = stack.submit(task="classification", model="echo", documents=[{"text": "to be deleted, secretword"}])
    stack.wait(submitted["id"])
    assert stack.http.delete(f"/api/v1/jobs/{submitted['id']}").status_code == 204
    assert stack.http.get(f"/api/v1/jobs/{submitted['id']}").status_code == 404
    left = [
        path
        for path in (stack.data_dir / "corpora").rglob("*")
        if path.is_file() and b"secretword" in path.read_bytes()
    ]
    assert left == []
