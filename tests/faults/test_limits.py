"""What the machine gives too little of: memory, file descriptors, disk; and what the device does not give at all."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import httpx2
import pyarrow.parquet
import pytest

from tests.acceptance.stack import jsonl

from .cgroups import control_group
from .conftest import Make, Measured
from .failpoints import DEADLY, DEVICE, EATS, OOM
from .holders import held_by
from .injections import kill_holder
from .oracle import Documents, documents
from .processes import ROOT, until
from .rig import BOUND, Rig
from .shortage import fill, limited_files, small_disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.fault("F32")
def test_a_document_that_does_not_fit_the_device_fails_alone(rig: Rig, corpus: Documents, measured: Measured) -> None:
    rig.kill("worker-1")
    without_room = rig.folder / "without-room"
    without_room.unlink(missing_ok=True)
    rig.restart("worker-0", FAULTS_BATCH="8", FAULTS_ROOM=str(without_room))
    rig.ready()
    heavy = [dict(one) for one in corpus[:200]]
    for position in (0, 77, 199):
        heavy[position]["text"] += OOM
    before = len(rig.ran())
    job_id = rig.submit(heavy)
    rig.await_ended(job_id)
    measured.executions, measured.shards = len(rig.ran()) - before, len(rig.shards(job_id))
    rig.verify(job_id, heavy, failed=dict.fromkeys((0, 77, 199), "out_of_memory"))
    assert measured.executions == measured.shards
    assert sum(one.losses for one in rig.shards(job_id)) == 0
    sizes = [int(line) for line in without_room.read_text(encoding="ascii").splitlines()]
    assert [size for size in sizes if size >= 8] == [50, 25, 12], (
        "halved until it fitted, and remembered in later shards"
    )
    assert sizes.count(1) == 3, "alone at the last, each of them once"


@pytest.mark.fault("F33")
def test_a_lost_device_restarts_the_process_and_blames_no_document(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    rig.kill("worker-1")
    token = rig.folder / "once-device"
    token.unlink(missing_ok=True)
    rig.restart("worker-0", FAULTS_ONCE=str(token))
    rig.ready()
    parent = rig.processes["worker-0"].pid
    log = rig.folder / "worker-0.log"
    said = len(log.read_bytes())
    cursed = [dict(one) for one in corpus[:200]]
    cursed[120]["text"] += DEVICE
    job_id = rig.submit(cursed)
    # The same again in the process that takes the first one's place.
    until(lambda: pauses(log, said) == [1.0], BOUND, "the process ends")
    token.unlink()
    rig.await_ended(job_id)
    rig.verify(job_id, cursed)
    measured.shards = len(rig.shards(job_id))
    assert token.exists()
    assert pauses(log, said) == [1.0, 2.0], "it waits longer each time"
    assert sum(one.losses for one in rig.shards(job_id)) == 0
    assert rig.processes["worker-0"].alive
    assert rig.processes["worker-0"].pid == parent


def pauses(log: Path, since: int) -> list[float]:
    """Seconds that a worker's processes waited before they ended for the loss of their device; from that byte of the log."""
    lines = log.read_bytes()[since:].decode(errors="replace").splitlines()
    return [json.loads(line)["seconds"] for line in lines if '"device lost; this process ends"' in line]


@pytest.mark.fault("F34")
def test_a_worker_killed_for_its_memory_is_replaced(rig: Rig, corpus: Documents, measured: Measured) -> None:
    with control_group("memory", 600 << 20) as group:
        try:
            rig.kill("worker-1")
            group.add(rig.processes["worker-0"].pid, *(child.pid for child in rig.processes["worker-0"].children()))
            hungry = [dict(one) for one in corpus[:104]]
            hungry[101]["text"] += EATS
            job_id = rig.submit(hungry)
            rig.await_ended(job_id, 200)
            rig.verify(job_id, hungry, failed={101: "worker_lost"})
        finally:
            rig.kill("worker-0")


@pytest.mark.fault("F48")
def test_a_worker_without_file_descriptors_recovers_and_blames_no_document(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    rig.kill("worker-1")
    job_id = rig.submit(corpus, delay_ms=3)
    rig.await_done(job_id, 0.2)
    log = rig.folder / "worker-0.log"
    with limited_files([child.pid for child in rig.processes["worker-0"].children()]):
        until(lambda: "Too many open files" in log.read_text(errors="replace"), BOUND, "it cannot open a file")
    measured.recoveries.append(rig.recovery(job_id, rig.running(job_id)))
    rig.await_ended(job_id)
    rig.verify(job_id, corpus)
    measured.shards = len(rig.shards(job_id))
    # Celery opens files as well, and its process may end for want of them: once, which is charged to what it ran.
    assert max(one.losses for one in rig.shards(job_id)) <= 1, "the machine's want is not charged again and again"


@pytest.mark.fault("F48")
def test_an_api_without_file_descriptors_answers_again_when_it_has_some(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    job_id = rig.submit(corpus, delay_ms=10)
    rig.await_done(job_id, 0.1)
    before = rig.done(job_id)
    log = rig.folder / "api.log"
    said = log.read_text(errors="replace").count("Too many open files")
    with limited_files([rig.processes["api"].pid, *(one.pid for one in rig.processes["api"].children())]):
        with suppress(httpx2.HTTPError):
            assert httpx2.get(f"{rig.http.base_url}/readyz", timeout=5).status_code == 503
        until(lambda: log.read_text(errors="replace").count("Too many open files") > said, BOUND, "it cannot accept")
        until(lambda: rig.done(job_id) > before, BOUND, "the workers go on meanwhile")
    started = time.monotonic()
    until(lambda: rig.start("api") and rig.answers(), BOUND, "the API answers")  # its supervisor starts it, if it ended
    measured.recoveries.append(time.monotonic() - started)
    rig.await_ended(job_id)
    rig.verify(job_id, corpus)


@pytest.mark.fault("F48")
def test_a_worker_that_cannot_fork_is_replaced_and_loses_nothing(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    log = rig.folder / "worker-0.log"

    def refusals() -> int:
        return log.read_text(errors="replace").count("Resource temporarily unavailable")

    with control_group("pids", 0) as group:
        try:
            job_id = rig.submit(corpus, delay_ms=10)
            held = until(lambda: held_by(rig, "worker-0", job_id), what="worker-0 holds a shard")
            group.add(rig.processes["worker-0"].pid)
            before = refusals()
            kill_holder(held)
            until(lambda: refusals() > before, BOUND, "it cannot start another child")
            group.allow("max")
            rig.start("worker-0")  # as its supervisor does, where it has ended
            measured.recoveries.append(rig.recovery(job_id, held))
            rig.await_ended(job_id)
            rig.ready()
            rig.killed_workers += 1
            rig.verify(job_id, corpus)
        finally:
            rig.kill("worker-0")


def says_that_it_is_full(rig: Rig, what: str, check: str = "disk") -> None:
    """`/readyz` and the doctor say which disk is full, and are content again once it is not."""
    response = rig.http.get("/readyz", timeout=30)
    assert response.status_code == 503
    assert what in response.json()["checks"][check], response.text
    assert doctor(rig).returncode == 1
    assert "disk" in doctor(rig).stdout


def doctor(rig: Rig) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "doctor"]
    return subprocess.run(command, cwd=ROOT, env=rig.environ(), capture_output=True, text=True, check=False)


@pytest.mark.fault("F23")
def test_a_full_disk_under_the_database_stops_the_job_until_there_is_room(
    make_rig: Make, kind: str, corpus: Documents, measured: Measured
) -> None:
    rig = make_rig()
    with tempfile.TemporaryDirectory(prefix="disk-") as folder, small_disk(Path(folder), 48):
        try:
            # Of PostgreSQL the tables alone: without room for its log it would end itself, which is F20.
            rig.database.settle_on(Path(folder))
            rig.up()
            few = documents(1_000, "disk ")
            rig.baseline(few)
            job_id = rig.submit(few, delay_ms=10)
            rig.await_done(job_id, 0.2)
            ballast = fill(Path(folder))
            taken: list[str] = []
            until(lambda: refused(rig, few, taken), BOUND, "a job is refused, with the reason")
            until(lambda: "its disk is full" in worker_logs(rig), BOUND, "a worker says so too")
            if kind == "sqlite":  # of a server's disk nobody else can look at the room
                says_that_it_is_full(rig, "database")
            before = rig.done(job_id)
            assert before < len(few)
            ballast.unlink()
            measured.recoveries.append(rig.recovery(job_id, []))
            assert rig.done(job_id) >= before
            for one in (job_id, *taken):
                rig.await_ended(one)
                rig.verify(one, few)
                assert sum(shard.losses for shard in rig.shards(one)) == 0, "it is charged to no shard"
            assert rig.database.damages() == []
            assert rig.answers(), "ready again"
        finally:
            rig.scrap()
            rig.database.leave()


def worker_logs(rig: Rig) -> str:
    return "".join((rig.folder / f"{name}.log").read_text(errors="replace") for name in rig.worker_names())


def refused(rig: Rig, few: Documents, taken: list[str]) -> bool:
    """Whether the API says that it cannot take a job, and why; where there was room for it still, it is `taken`."""
    asked = {"task": "classification", "model": "echo", "corpus": rig.corpus(few)}
    response = rig.request("POST", "/jobs", json=asked)
    assert response.status_code in (202, 503), response.text
    if response.status_code == 202:
        taken.append(str(response.json()["id"]))
        return False
    assert "its disk is full" in response.json()["detail"]
    return True


@pytest.mark.fault("F24")
def test_a_full_disk_under_uploads_refuses_them_and_keeps_nothing(
    make_rig: Make, kind: str, corpus: Documents, measured: Measured
) -> None:
    rig = make_rig(workers=1)
    with small_disk(rig.data_dir / "uploads", 8), small_disk(rig.broker.folder, 8):
        try:
            rig.up()
            rig.baseline(corpus)
            ready = rig.submit(corpus)
            rig.await_ended(ready)
            body = jsonl([{"id": "long", "text": "x" * 9_000_000}])
            headers = {"Content-Type": "application/x-ndjson"}
            refused = rig.http.post("/api/v1/corpora", content=body, headers=headers)
            assert refused.status_code == 507, refused.text
            assert rig.temporary_files() == []
            job_id = rig.submit(corpus, delay_ms=2)
            rig.await_done(job_id, 0.1)
            ballast = fill(rig.broker.folder)
            other = rig.submit(corpus)
            rig.await_done(job_id, 0.4)
            until(lambda: not rig.broker.answers(), BOUND, "Valkey has found out")
            says_that_it_is_full(rig, "cannot write to its disk", "broker")
            ballast.unlink()
            started = time.monotonic()
            until(rig.answers, BOUND, "Valkey answers, and the API says so")
            ballast = fill(rig.data_dir / "uploads")
            says_that_it_is_full(rig, "uploads")
            asked = {"task": "classification", "model": "echo", "documents": list(corpus[:100])}
            refused = rig.http.post("/api/v1/jobs", json=asked)
            assert refused.status_code == 507, refused.text
            assert rig.temporary_files() == [ballast.name], "of documents in a job nothing is kept either"
            for format in ("jsonl", "csv", "parquet"):  # which need no disk
                exported = rig.request("GET", f"/jobs/{ready}/export", params={"format": format})
                assert exported.status_code == 200
                assert rows_in(format, exported.content) == len(corpus)
            ballast.unlink()
            assert rig.answers()
            rig.start("worker-0")
            rig.await_ended(job_id)
            rig.await_ended(other)
            measured.recoveries.append(time.monotonic() - started)
            rig.killed_workers += 1
            rig.verify(job_id, corpus)
            rig.verify(other, corpus)
        finally:
            rig.scrap()


def rows_in(format: str, content: bytes) -> int:
    """Documents in an exported file."""
    if format == "parquet":
        return int(pyarrow.parquet.ParquetFile(io.BytesIO(content)).metadata.num_rows)
    return len(content.splitlines()) - (format == "csv")


@pytest.mark.fault("F35")
def test_a_model_that_cannot_be_loaded_fails_its_job_and_no_other(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        broken = Path(folder) / "broken"
        shutil.copytree(ROOT / "demo" / "models" / "classifier", broken)
        rig.restart("api", *rig.worker_names(), models_root=folder)
        rig.ready()
        parents = [rig.processes[name].pid for name in rig.worker_names()]
        rig.freeze(*rig.worker_names())
        job_id = rig.submit(corpus[:100], model="broken")
        weights = broken / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
        rig.thaw(*rig.worker_names())
        other = rig.submit(corpus, delay_ms=1)
        assert rig.await_ended(job_id) == "failed"
        error = rig.job(job_id)["error"]
        assert "broken" in error["message"]
        rig.await_ended(other)
        rig.verify(other, corpus)
        assert [rig.processes[name].pid for name in rig.worker_names()] == parents


@pytest.mark.fault("F35")
def test_a_model_whose_load_kills_the_process_fails_its_job_and_charges_no_document(
    rig: Rig, corpus: Documents, measured: Measured
) -> None:
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        shutil.copytree(ROOT / "demo" / "models" / "classifier", Path(folder) / DEADLY)
        # A lease of the usual length, in which a parent has started another child even on a busy machine.
        rig.restart("api", *rig.worker_names(), models_root=folder, lease_seconds="30")
        rig.ready()
        parents = [rig.processes[name].pid for name in rig.worker_names()]
        job_id = rig.submit(corpus[:400], model=DEADLY)
        other = rig.submit(corpus, delay_ms=1)
        assert rig.await_ended(job_id) == "failed"
        error = rig.job(job_id)["error"]
        assert error["code"] == "model_fault"
        assert DEADLY in error["message"]
        deaths = sum(one.attempt for one in rig.shards(job_id))
        assert deaths <= 3, "each claim of it is a process that died"
        measured.note = f"{deaths} processes died of a model's load"
        rig.await_ended(other)
        rig.verify(other, corpus)
        for one in (job_id, other):
            assert sum(shard.losses for shard in rig.shards(one)) == 0
        assert [rig.processes[name].pid for name in rig.worker_names()] == parents
