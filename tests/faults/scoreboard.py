"""The scoreboard: every fault with what it does and what came of it, written to `docs/reliability.md`.

Knows the list of faults and the outcomes on disk. Must not run anything.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: Every fault, in order: what is done.
FAULTS = {
    "F1": "SIGKILL a worker in mid-shard",
    "F2": "SIGKILL a worker between the broker's handing it a message and its noting it",
    "F3": "SIGKILL a worker's child alone",
    "F4": "25 random SIGKILLs of workers",
    "F5": "SIGKILL between a shard's commit and the acknowledgement",
    "F6": "SIGKILL after inference, before the commit",
    "F7": "SIGTERM to all workers, new ones started (a deploy)",
    "F8": "SIGQUIT, and SIGTERM twice",
    "F9": "SIGKILL the API during an upload",
    "F10": "SIGKILL the API after a job's commit, before it rings",
    "F11": "SIGKILL the API after a job's commit, before the 202",
    "F12": "50 concurrent posts with one idempotency key",
    "F13": "SIGKILL the broker, started again with its log",
    "F14": "SIGKILL the broker, started again empty",
    "F15": "FLUSHALL three times in mid-job",
    "F16": "SIGSTOP the broker for 45 s",
    "F17": "broker away when the API starts and a job is submitted",
    "F18": "broker full (`maxmemory`)",
    "F19": "broker that may evict (`allkeys-lru`)",
    "F20": "database away for several leases (PostgreSQL: SIGKILL; SQLite: locked)",
    "F21": "database connections cut again and again; the reply to COMMIT lost",
    "F22": "lock contention: 6 workers on one database",
    "F23": "disk full under the database",
    "F24": "disk full under uploads, and under the broker's log",
    "F25": "network partition between workers and broker, 60 and 120 s",
    "F26": "network partition between a worker and the database, longer than its lease",
    "F27": "30 % packet loss and 500 ms of delay",
    "F28": "SIGSTOP a worker for longer than its lease, then SIGCONT",
    "F29": "a document that hangs native code, with and without the interpreter's lock",
    "F30": "a document that crashes native code",
    "F31": "documents that no tokenizer likes: NUL, surrogates, bad UTF-8, empty, 10 MB; an exception nobody foresaw",
    "F32": "the device runs out of memory above a batch size, and for one document always",
    "F33": "the device is lost (a sticky error)",
    "F34": "the kernel's out-of-memory killer",
    "F35": "a model that cannot be loaded, and one whose load kills the process",
    "F36": "every message delivered four times",
    "F37": "messages out of order, unknown, and of deleted and cancelled jobs",
    "F38": "a worker's clock 2 h ahead, the API's 2 h behind",
    "F39": "the wall clock set back 1 h in mid-job",
    "F40": "three sweepers, and workers and broker lost",
    "F41": "one of two sweepers killed for good",
    "F42": "cancel in mid-job, and a worker killed at that moment",
    "F43": "delete, pause and resume in mid-job",
    "F44": "expand-migration in mid-job, old and new workers mixed",
    "F45": "messages of another version in the queue",
    "F46": "webhook receiver down, slow or wrong",
    "F47": "a reader of results and exports that breaks off and resumes",
    "F48": "file descriptors exhausted (`ulimit -n`)",
    "F49": "SIGKILL everything, database and broker included",
    "F50": "SIGKILL `corpusmill up`; a second start on its directory",
    "F51": "an older backup of the database restored under a newer broker",
    "F52": "a million documents enqueued",
    "F53": "a noisy tenant beside a small job",
    "F54": "ten minutes of random faults",
    "long job": "20 random SIGKILLs of workers, 5 of a broker without persistence, 4 FLUSHALLs and a SIGSTOP beyond the "
    "lease under one job of 40,000 documents",
    "negative control F2": "F2 without a sweeper: the loss must be seen",
    "negative control F15": "F15 without a sweeper: the loss must be seen",
}

#: Why a fault has no test.
NOT_RUN = {
    "F46": "not run: webhooks are not built yet",
    "F53": "not run: tenants are not built yet",
}
DATABASES = ("sqlite", "postgresql")


def write(folder: Path, target: Path) -> bool:
    """Write the table; whether every fault with an outcome passed."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    rows = [_row(fault, [one for one in found if one["fault"] == fault]) for fault in FAULTS]
    passed = [one for one in found if one["passed"]]
    tested = {one["fault"] for one in passed}
    lost = {one["fault"] for one in found if not one["passed"] and not one["skipped"]}
    text = _TEXT.format(
        rows="\n".join(rows),
        date=datetime.now(UTC).date().isoformat(),
        machine=_machine(),
        score=f"{len(tested - lost)} of {len(FAULTS)}",
        runs=sum(not one["skipped"] for one in found),
        passed=len(passed),
    )
    target.write_text(text, encoding="utf-8")
    return not lost


def _row(fault: str, found: Sequence[dict[str, Any]]) -> str:
    cells = [fault, FAULTS[fault]]
    cells += [_verdict(fault, [one for one in found if one["database"] == database]) for database in DATABASES]
    recoveries = [seconds for one in found if one["passed"] for seconds in one["recoveries"]]
    cells.append(f"{statistics.median(recoveries):.1f}" if recoveries else "")
    ran = [one for one in found if one["passed"] and one["executions"]]
    cells.append(f"{sum(one['executions'] for one in ran)}/{sum(one['shards'] for one in ran)}" if ran else "")
    said = [part for one in found if one["note"] for part in one["note"].split("; ")]
    cells.append("; ".join(dict.fromkeys(said)))
    return "| " + " | ".join(cells) + " |"


def _verdict(fault: str, found: Sequence[dict[str, Any]]) -> str:
    ran = [one for one in found if not one["skipped"]]
    if not ran:
        skipped = next((one["skipped"].removeprefix("Skipped: ") for one in found), None)
        return f"not run: {skipped}" if skipped else NOT_RUN.get(fault, "not run")
    good = sum(one["passed"] for one in ran)
    return "passed" + (f" ({good} runs)" if good > 1 else "") if good == len(ran) else f"**failed** ({good}/{len(ran)})"


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {kernel(platform.release())}"


def kernel(release: str) -> str:
    """Linux with its version's first two numbers: what follows them is of one machine's build."""
    return "Linux " + ".".join(release.split("-", maxsplit=1)[0].split(".")[:2])


_TEXT = """\
# Reliability

Written by `make faults` (`python -m tests.faults`); do not edit. {date}, {machine}.

Each fault is injected into the real processes (gunicorn, Celery workers, sweeper, Valkey, and SQLite or PostgreSQL) at a
moment that the database shows, while a job of the echo model is under way. Whatever the fault, one oracle judges: exactly
one result for each document; SHA-256 over (position, output) as computed from the texts alone; metrics equal to those of
an undisturbed run, but for those of speed; the job ended, no shard held, no temporary file, the queue drained; no answer of
the API above 499 but 503; recovery within a minute. Leases last 5 seconds and sweeps are half a second apart, so that faults
take seconds; with the defaults (30 and 5) a dead worker's shards run again after up to 35 seconds.

{score} faults passed ({passed} of {runs} runs). *Recovery* is the median of seconds from the end of the fault (or from the
kill) until every shard that it held runs again and the job commits once more, the start of a replacement included where the
test starts one. *Executions* counts shards that went through the model, over the shards of the jobs.

| fault | what is done | SQLite | PostgreSQL | recovery, s | executions/shards | notes |
|---|---|---|---|---:|---:|---|
{rows}

Any of them alone: `python -m pytest tests/faults -k WORDS_OF_ITS_NAME`, e.g. `-k forty_thousand` for the long job and
`-k random_faults` for F54 (a minute of it; `FAULTS_SOAK_SECONDS=600` for ten).

A message that a worker held when it was killed stays in the broker's list of unacknowledged ones until the visibility
timeout (6 hours), comes again, and finds nothing to do: at most two for each killed worker.
"""
