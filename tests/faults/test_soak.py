"""Everything at once, by chance."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from . import oracle
from .clock import set_wrong, shim_in
from .conftest import Make, Measured
from .failpoints import SEGFAULT
from .links import broker_link, database_link
from .oracle import Documents, documents
from .processes import until
from .rig import Rig
from .trouble import Kinds, Trouble

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

#: How long each soak lasts: ten minutes in `make faults`, a minute elsewhere, unless the environment says otherwise.
SECONDS = float(os.environ.get("FAULTS_SOAK_SECONDS", "600" if "FAULTS_OUTCOMES" in os.environ else "60"))
#: A fault comes after this share of a job's documents since the last one, or after so many seconds where a poison document
#: is being searched for.
_SHARE, _LULL_SECONDS = 0.15, 20.0
#: The last shard of the poisoned corpus is small, so that halving it takes half a minute.
_TAIL, _POISON = 8, 2_003


@pytest.mark.fault("F54")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_faults_change_nothing(
    make_rig: Make, corpus: Documents, measured: Measured, seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    poisoned = documents(len(corpus) + _TAIL, "Among them: ")
    poisoned[_POISON]["text"] += SEGFAULT
    few = documents(500, "Beside: ")
    with ExitStack() as stack:
        rig = make_rig()
        link, rig.settings["broker_url"] = stack.enter_context(broker_link(rig, seed))
        trouble = Trouble(rig=rig, chance=chance, few=few, broker=link, shim=shim_in(tmp_path))
        if rig.database.kind == "postgresql":
            trouble.database, rig.settings["database_url"] = stack.enter_context(database_link(rig, seed))
        if trouble.shim is not None:
            rig.variables |= set_wrong(trouble.shim, rig.folder / "clock", 0)
        trouble.prepare()
        rig.up()
        known = {rig.corpus(one): one for one in (corpus, few, poisoned, *trouble.harmful.values())}
        for one in (corpus, few, *trouble.harmful.values()):
            rig.baseline(one)
        before = {one.id for one in rig.jobs()}

        kinds = trouble.kinds()
        (faults, jobs), measured.executions = rig.executions(lambda: soak(trouble, kinds, [poisoned, corpus]))
        trouble.tidy()
        trouble.settle()
        # With nobody killed any more, not one message may stay unacknowledged, of this job or of those before.
        last = rig.submit(corpus)
        rig.await_ended(last)
        rig.verify(last, corpus)
        found = rig.request("GET", "/corpora", params={"limit": 1000}).json()["data"]
        assert {one["id"] for one in found} == set(known), "no upload that was cut off or refused is to be seen"
        # Those of an API that died before it could answer are among them: the database knows of all.
        for one in rig.jobs():
            if one.id not in before | {last}:
                measured.shards += len(rig.shards(one.id))
                judge(rig, one.id, known[one.corpus_id], trouble.asked.get(one.id), {_POISON: "worker_lost"})
        assert left_of_no_job(rig) == {"shards": 0, "results": 0, "metrics": 0}
    measured.note = f"{faults} faults of {len(kinds)} kinds in {jobs} jobs in {SECONDS:.0f} s"


def soak(trouble: Trouble, kinds: Kinds, corpora: Sequence[Documents]) -> tuple[int, int]:
    """Jobs one after the other, over the corpora in turn, with faults in the middle of each, until the time is over and
    every job has ended; how many faults and jobs."""
    rig, chance = trouble.rig, trouble.chance
    deck: list[str] = []
    faults = jobs = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        body = {"task": "classification", "model": "echo", "params": {"delay_ms": 20}}
        response = trouble.ask("POST", "/jobs", json=body | {"corpus": rig.corpus(corpora[jobs % len(corpora)])})
        assert response.status_code == 202, response.text
        job_id, share = str(response.json()["id"]), _SHARE
        jobs += 1
        while await_due(trouble, job_id, share) and time.monotonic() < end:
            # A deck of all kinds, shuffled again when it is through: none is left out for long.
            deck = deck or chance.sample(sorted(kinds), len(kinds))
            kind = deck.pop()
            print(f"{time.strftime('%H:%M:%S')} {job_id} {rig.progress(job_id)}: {kind}")
            kinds[kind]()
            faults += 1
            done, left = rig.progress(job_id)
            share = done / (done + left) + _SHARE

    def all_ended() -> bool:
        trouble.supervise()
        return all(one.outcome and one.evaluated for one in rig.jobs())

    until(all_ended, 300, "every job has ended")
    return faults, jobs


def await_due(trouble: Trouble, job_id: str, share: float) -> bool:
    """Block until the next fault is due: that share of the job has ended, or nothing has for a while. Whether the job is
    still under way."""
    lull = time.monotonic() + _LULL_SECONDS

    def due() -> bool:
        trouble.supervise()
        done, left = trouble.rig.progress(job_id)
        return not left or done >= share * (done + left) or time.monotonic() > lull

    until(due)
    return trouble.rig.left(job_id) > 0


def judge(rig: Rig, job_id: str, found: Documents, asked: str | None, failed: Mapping[int, str]) -> None:
    """What is right for a job of which `asked` was asked; `failed` is what fails of a corpus that is so long."""
    assert asked != "delete", "a job that was deleted is not there any more"
    if asked is None:
        rig.verify(job_id, found, failed={position: code for position, code in failed.items() if position < len(found)})
        return
    job, rows = rig.job(job_id), rig.results(job_id)
    counts = job["counts"]
    if asked == "fail":
        assert (job["status"], job["error"]["code"]) == ("failed", "model_fault"), job
        assert counts["succeeded"] == len(rows) == 0, job
        rig.clean(job_id)
        return
    assert job["status"] == "cancelled"
    assert counts["succeeded"] + counts["cancelled"] == counts["total"] == len(found)
    assert len(rows) == len({row.position for row in rows}) == counts["succeeded"]
    assert all(oracle.loaded(row.output) == oracle.expected(found[row.position]) for row in rows)
    rig.clean(job_id)


def left_of_no_job(rig: Rig) -> dict[str, int]:
    """Rows of jobs that are gone."""
    counted = "SELECT count(*) AS n FROM {} WHERE job_key NOT IN (SELECT key FROM jobs)"
    return {name: rig.database.query(counted.format(name))[0].n for name in ("shards", "results", "metrics")}
