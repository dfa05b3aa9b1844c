"""The whole system, from HTTP to SQL, against our engine alone: `corpusmill up` with one worker, and a job.

Knows how the two sides take turns and what the rows tell. Must not know how either side runs.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from corpusmill_client import Client, Job

from bench import corpora
from bench.answers import Answers, agreement_of_scores
from bench.encoders import AS_PIPELINE, STANDARD
from bench.models import make_classifier
from bench.names import ALONE, SYSTEM
from bench.processes import Ran, Work, alone, server
from bench.sizes import Size
from bench.tables import Group, Row
from worker.device import DeviceChoice

_MODEL = "distilbert"
_HOW = (
    "a job's wall seconds are from its creation to its last commit, as the server tells them; CPU seconds are those of all "
    "of the server's processes"
)


def system_groups(
    size: Size, root: Path, cores: frozenset[int], device: DeviceChoice = "cpu", *, tiny: bool = False
) -> Iterator[Group]:
    """DistilBERT over texts with a long tail, once by the engine in a process of its own and once as a job, in turn.

    Answers must be equal on a CPU; in half precision they may depend on what shares a batch.
    """
    if not (root / _MODEL).exists():
        make_classifier(_MODEL, root / _MODEL, corpora.paragraphs(STANDARD, seed=5).texts, tiny=tiny)
    texts = corpora.paragraphs(size.system, seed=9)
    source, answers = root / "texts.json", root / "answers.json"
    source.write_text(json.dumps(texts.texts), encoding="utf-8")
    work = Work(root=root, model=_MODEL, task="classification", params=AS_PIPELINE, device=device)
    own = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    if own:
        os.sched_setaffinity(0, cores)  # what is started from here on may use them all
    try:
        with alone(work, source, answers, len(cores)) as engine, server(work) as up, Client(up.url) as client:
            up.run(client, texts.texts[:32])  # loads the model
            rounds = [(engine.run(), up.run(client, texts.texts)) for _ in range(size.rounds)]
            last = rounds[-1][1].job
            scores = [dict((result.output or {})["scores"]) for result in last.results()]
            facts = _facts(last)
    finally:
        if own:
            os.sched_setaffinity(0, own)
    reference = Answers(scores=[row["scores"] for row in json.loads(answers.read_text(encoding="utf-8"))])
    rows = [
        _engine_row([one for one, _ in rounds], size.system),
        _job_row([one for _, one in rounds], reference, Answers(scores=scores), facts, gated=device == "cpu"),
    ]
    yield Group(
        key="system", title="Whole system, DistilBERT", reference=ALONE, rows=rows, by_wall=True,
        corpus=f"{size.system} {texts.origin}", facts={"cores": float(len(cores))},
        notes=[_HOW, _phases(rows[-1], facts)],
    )  # fmt: skip


def _engine_row(runs: list[dict[str, float]], count: int) -> Row:
    walls = [run["wall"] for run in runs]
    return Row(
        name=ALONE, documents=count, rounds=len(runs), cpu_seconds=statistics.median(run["cpu"] for run in runs),
        wall_seconds=statistics.median(walls), spread=max(walls) / min(walls) - 1, same=count,
    )  # fmt: skip


def _job_row(
    jobs: list[Ran], reference: Answers, answers: Answers, facts: Mapping[str, float], *, gated: bool
) -> Row:  # fmt: skip
    agreement = agreement_of_scores(reference, answers)
    walls = [one.wall for one in jobs]
    return Row(
        name=SYSTEM, documents=agreement.n, compared=agreement.n, rounds=len(jobs),
        cpu_seconds=statistics.median(one.cpu for one in jobs), wall_seconds=statistics.median(walls),
        spread=max(walls) / min(walls) - 1, same=agreement.same, largest_difference=agreement.largest_difference,
        facts={"upload_seconds": statistics.median(one.upload for one in jobs), **facts}, gated=gated,
        holds=agreement.holds or not gated,
    )  # fmt: skip


def _facts(job: Job) -> dict[str, float]:
    """What the job itself tells of its running: seconds by phase and shares."""
    wanted = ("seconds/", "padding_share", "device_busy_share")
    metrics: Any = job.metrics()
    return {
        metric.name: float(metric.value)
        for metric in metrics
        if metric.name.startswith(wanted) and metric.value is not None
    }


def _phases(row: Row, facts: Mapping[str, float]) -> str:
    """The last job's own figures in words, and the cores that the server took."""
    phases = {name.partition("/")[2]: value for name, value in facts.items() if name.startswith("seconds/")}
    told = ", ".join(f"{name} {value:.2f}" for name, value in phases.items())
    busy = f"device busy {facts['device_busy_share']:.0%}; " if "device_busy_share" in facts else ""
    cores = row.cpu_seconds / row.wall_seconds
    upload = row.facts["upload_seconds"]
    return (
        f"{busy}{cores:.1f} CPU cores taken; the upload before a job took {upload:.2f} s; seconds by phase of the last "
        f"job: {told}"
    )
