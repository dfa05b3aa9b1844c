"""Documents that kill, hang or fail whoever runs them, or that no tokenizer likes."""

from __future__ import annotations

import json
import math

import pytest

from .conftest import Measured
from .failpoints import HANG, RAISE, SEGFAULT, SLEEP
from .oracle import Documents
from .rig import Rig

pytestmark = pytest.mark.timeout(300)


@pytest.mark.fault("F30")
def test_a_document_that_crashes_its_worker_is_found_and_fails_alone(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    poisoned = [dict(one) for one in corpus[:208]]
    poison = 203
    poisoned[poison]["text"] += SEGFAULT
    before = len(rig.ran())
    job_id = rig.submit(poisoned)
    shards = len(rig.shards(job_id))
    rig.await_ended(job_id, 140)
    ran = rig.ran()[before:]
    rig.verify(job_id, poisoned, failed={poison: "worker_lost"})
    measured.executions, measured.shards = len(ran), shards
    deaths = sum(1 for first, last in ran if first <= poison <= last)
    # Twice as a whole, once for each halving of 8 documents to 1, and once more alone.
    assert deaths <= 2 + math.log2(8) + 1, ran


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.fault("F29")
@pytest.mark.parametrize("word", [HANG, SLEEP])
def test_a_document_that_hangs_its_worker_is_found_and_fails_alone(
    rig: Rig, corpus: Documents, measured: Measured, word: str
) -> None:
    rig.restart(*rig.worker_names(), shard_limit_seconds="4")
    rig.ready()
    parents = [rig.processes[name].pid for name in rig.worker_names()]
    poisoned = [dict(one) for one in corpus[:104]]
    poison = 102
    poisoned[poison]["text"] += word
    before = len(rig.ran())
    job_id = rig.submit(poisoned)
    shards = len(rig.shards(job_id))
    rig.await_ended(job_id, 300)
    ran = rig.ran()[before:]
    rig.verify(job_id, poisoned, failed={poison: "worker_lost"})
    measured.executions, measured.shards = len(ran), shards
    assert sum(1 for first, last in ran if first <= poison <= last) <= 2 + math.log2(4) + 1, ran
    assert [rig.processes[name].pid for name in rig.worker_names()] == parents


@pytest.mark.slow
@pytest.mark.fault("F31")
def test_texts_that_no_tokenizer_likes_are_results_like_any_other(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    plain = corpus[:40]
    lines = [json.dumps(one).encode() for one in plain]
    emoji, long = "\U0001f469\u200d\U0001f680\u202e\ufeff", "x" * 10_000_000
    texts = {"nul": "a\x00b", "empty": "", "space": " \n\t ", "long": long, "emoji": emoji}
    strange = [json.dumps({"id": name, "text": text, "reference": "0"}).encode() for name, text in texts.items()]
    unreadable = [b'{"id": "bytes", "text": "\xff\xfe\x80"}', b'{"id": "open", "text": "']
    surrogate = b'{"id": "surrogate", "text": "a\\ud800b", "reference": "0"}'
    body = b"\n".join([*lines, *strange, *unreadable, surrogate]) + b"\n"
    response = rig.request("POST", "/corpora", content=body, headers={"Content-Type": "application/x-ndjson"})
    uploaded = response.json()
    assert uploaded["documents"] + uploaded["invalid"] == len(lines) + len(strange) + len(unreadable) + 1
    assert uploaded["invalid"] >= len(unreadable)
    job_id = rig.submit(corpus, corpus=uploaded["id"])
    assert rig.await_ended(job_id) == "completed_with_errors"
    listed = rig.request("GET", f"/corpora/{uploaded['id']}/documents", params={"limit": 1000}).json()["data"]
    kept = [{"id": one["id"], "text": one["text"], "reference": one["reference"]} for one in listed]
    texts["nul"] = texts["nul"].replace("\0", "\ufffd")  # which PostgreSQL could not keep
    assert {one["id"]: one["text"] for one in kept if one["id"] in texts} == texts
    assert kept[: len(plain)] == [dict(one) for one in plain]
    assert len(kept) == uploaded["documents"]
    empty = {k: "empty_text" for k, one in enumerate(kept) if not one["text"].strip()}
    assert len(empty) == 2
    rig.verify(job_id, kept, failed=empty)


@pytest.mark.slow
@pytest.mark.fault("F31")
def test_a_document_with_a_fault_that_nobody_foresaw_fails_alone(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    poisoned = [dict(one) for one in corpus[:104]]
    poisoned[101]["text"] += RAISE
    job_id = rig.submit(poisoned)
    rig.await_ended(job_id, 150)
    rig.verify(job_id, poisoned, failed={101: "worker_lost"})
