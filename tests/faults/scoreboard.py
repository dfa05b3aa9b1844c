"""The scoreboard: every fault with what it does and what came of it, written to `docs/reliability.md`.

Knows the list of faults and the outcomes on disk. Must not run anything.
"""

from __future__ import annotations

import os
import platform
import statistics
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from . import outcomes
from .outcomes import Expected

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
    "F22": "lock contention: 8 workers on one database (SQLite: 50 ms of patience)",
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
    "F39": "SIGKILL a worker, and the wall clock set back, or on, by 1 h at that moment",
    "F40": "three sweepers, and workers and broker lost",
    "F41": "one of two sweepers killed for good",
    "F42": "cancel in mid-job, and a worker killed at that moment",
    "F43": "delete, pause and resume in mid-job",
    "F44": "expand-migration in mid-job, old and new workers mixed",
    "F45": "messages of another version in the queue",
    "F46": "webhook receiver down, slow or wrong",
    "F47": "a reader of results and exports that breaks off and resumes",
    "F48": "no file descriptors left, in a worker and in the API; a worker that cannot fork",
    "F49": "SIGKILL everything, database and broker included",
    "F50": "SIGKILL `corpusmill up`; a second start on its directory",
    "F51": "an older backup of the database restored under a newer broker",
    "F52": "a million documents enqueued",
    "F53": "a noisy tenant beside a small job",
    "F54": "ten minutes of random faults",
    "long job": "20 random SIGKILLs of workers, 5 of a broker without persistence, 4 FLUSHALLs and a SIGSTOP beyond the "
    "lease under one job of 40,000 documents",
    "deaf worker": "a worker whose consumer is gone, as reconnecting has left them: it ends and is started again",
    "night": "SIGKILL a sweeper at each of eight steps of a night's run",
    "negative control F2": "F2 without a sweeper: the loss must be seen",
    "negative control F15": "F15 without a sweeper: the loss must be seen",
}

#: Why a fault has no test.
NOT_RUN = {
    "F46": "not run: webhooks are not built yet",
    "F53": "not run: tenants are not built yet",
}
#: Faults of the list that F54 does not have among its own, by the reason.
NOT_BY_CHANCE = {
    "they are of a system's installation, start or restoration": ("F19", "F44", "F50", "F51"),
    "they need a disk or a control group under a server or a worker": ("F23", "F34"),
    "they need a size of their own": ("F22", "F52"),
    "they are of what a client sends or reads": ("F12", "F31", "F47"),
    "they are not built yet": ("F46", "F53"),
}
#: Reasons to be skipped that hold on every machine; whoever skips for another one has not been run here.
NOT_FOR_THIS = frozenset({"a SQLite file has no connections", "a SQLite file is for one host"})
#: Seeds that a fault of chance is tried with; one is enough for the others.
SEEDS = {"F4": 3, "F27": 3, "F54": 3}
DATABASES = ("sqlite", "postgresql")


def write(folder: Path, target: Path, code: str) -> list[str]:
    """Write the table of what is kept in `folder`, found with the code of that digest; what is wanting, a line each."""
    tests = outcomes.read(folder)
    faults = FAULTS | {one.fault: one.fault.replace("_", " ") for one in tests if one.fault not in FAULTS}
    rows, wanting, good = [], [], 0
    for fault, done in faults.items():
        found = [one for one in tests if one.fault == fault]
        said = {database: _said(fault, [one for one in found if one.database == database]) for database in DATABASES}
        rows.append(_row(fault, done, [", ".join(parts) for parts in said.values()], found))
        lacking = [f"{fault}, {database}: {part}" for database in said for part in said[database] if "**" in part]
        wanting += lacking
        good += not lacking and any(one.outcome == "passed" for one in found)
    ran = [one for one in tests if one.outcome in ("passed", "failed")]
    text = _TEXT.format(
        rows="\n".join(rows),
        when=_dates(tests),
        code=code,
        machine=_machine(),
        score=f"{good} of {len(faults)}",
        passed=sum(one.outcome == "passed" for one in ran),
        runs=len(ran),
        left_out="; ".join(f"{', '.join(faults)}, since {reason}" for reason, faults in NOT_BY_CHANCE.items()),
        whole=_INCOMPLETE.format(wanting=len(wanting)) if wanting else _COMPLETE,
    )
    target.write_text("\n\n".join(_filled(part) for part in text.split("\n\n")), encoding="utf-8")
    return wanting


def _filled(paragraph: str) -> str:
    """The paragraph in lines of the house's length, unless it is a table or a heading."""
    if paragraph.startswith(("|", "#")):
        return paragraph
    end = "\n" if paragraph.endswith("\n") else ""
    return textwrap.fill(paragraph, 120, break_long_words=False, break_on_hyphens=False) + end


def _row(fault: str, done: str, said: Sequence[str], found: Sequence[Expected]) -> str:
    ran = [one.last for one in found if one.last and one.outcome == "passed"]
    recoveries = [seconds for one in ran for seconds in one.recoveries]
    counted = [one for one in ran if one.executions]
    notes = [part for one in ran if one.note for part in one.note.split("; ")]
    cells = [
        fault,
        done,
        *said,
        f"{statistics.median(recoveries):.1f}" if recoveries else "",
        f"{sum(one.executions for one in counted)}/{sum(one.shards for one in counted)}" if counted else "",
        "; ".join(dict.fromkeys(notes)),
    ]
    return "| " + " | ".join(cells) + " |"


def _said(fault: str, tests: Sequence[Expected]) -> list[str]:
    """What came of a fault on a database; in bold what is wanting."""
    if not tests:
        return [NOT_RUN.get(fault, "**no test**")]
    said = []
    by_outcome = {name: [one for one in tests if one.outcome == name] for name in ("passed", "failed", "skipped", "")}
    if passed := by_outcome["passed"]:
        said.append("passed" + (f" ({len(passed)} runs)" if len(passed) > 1 else ""))
        if failures := sum(one.failures for one in passed):
            said.append(f"after {_number(failures, 'failure')}")
    if failed := by_outcome["failed"]:
        longest = max(one.last.seconds for one in failed if one.last)
        said.append(f"**failed** ({len(failed)} of {len(tests)}, after {longest:.0f} s)")
    reasons = dict.fromkeys(one.last.reason for one in by_outcome["skipped"] if one.last)
    said += [f"not run: {reason}" if reason in NOT_FOR_THIS else f"**not run here**: {reason}" for reason in reasons]
    if without := by_outcome[""]:
        said.append(f"**no outcome** ({len(without)} of {len(tests)})")
    if (seeds := len({one.seed for one in tests})) < SEEDS.get(fault, 1):
        said.append(f"**{seeds} of {SEEDS[fault]} seeds**")
    return said


def _number(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count > 1 else "")


def _dates(tests: Sequence[Expected]) -> str:
    """On which days the outcomes that count were found."""
    days = sorted({datetime.fromtimestamp(one.last.at, UTC).date().isoformat() for one in tests if one.last})
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "never run"


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


_COMPLETE = "Complete: every test has passed, or was left out for a reason that holds on every machine."
_INCOMPLETE = "**Incomplete**: what is in bold is wanting, in {wanting} places."

_TEXT = """\
# Reliability

Written by `make faults` (`python -m tests.faults`); do not edit. {when}, code `{code}`, {machine}.

Each fault is injected into the real processes (gunicorn, Celery workers, sweeper, Valkey, and SQLite or PostgreSQL) at a
moment that the database shows, while a job of the echo model is under way; F54 and F4 take theirs by chance. One oracle
judges every job that is to be completed: exactly one result for each document; SHA-256 over (position, output) as computed
from the texts alone; metrics equal to those of an undisturbed run, but for those of speed (where documents must fail, of a
run over the others); the job ended, no shard held, no temporary file, the queue drained; no answer of the API above 499 but
503. A job that is cancelled, deleted or must fail is judged by its status, its counts and what is left of it; F12, F19, F31,
F47 and F52 by the answers and figures that they are about besides. Where a recovery is shown, the test fails once it takes
longer than lease, sweep and the start of a process may on a busy machine, which is 25 seconds, or 60 where the list of
faults allows a minute. Leases last 5 seconds and sweeps are half a second apart, so that faults take seconds; with the
defaults (30 and 5) a dead worker's shards run again after up to 35 seconds, and one that is lost a second time or more often
waits another 1, 2, 4 or at most 8.

{score} faults passed ({passed} of {runs} runs). {whole} *Passed, after n failures*: the same code failed before, as often as
that. *Recovery* is the median of seconds from the end of the fault (or from the kill) until every shard that it held runs
again and the job commits once more, the start of a replacement included where the test starts one; two systems at a time
were tried on the machine named above, so it is no measure of one that has a machine to itself. *Executions* counts shards
that went through the model, over the shards of the jobs.

| fault | what is done | SQLite | PostgreSQL | recovery, s | executions/shards | notes |
|---|---|---|---|---:|---:|---|
{rows}

Any of them alone: `python -m pytest tests/faults -k WORDS_OF_ITS_NAME`, e.g. `-k forty_thousand` for the long job and
`-k random_faults` for F54 (a minute of it; `FAULTS_SOAK_SECONDS=600` for ten).

F54 draws from the other faults, but for some: {left_out}. Of F24 it has the disk of the uploads, of F32 the batch size, of
F35 the model whose load kills the process, and of F48 the file descriptors.

A message that a worker held when it was killed stays in the broker's list of unacknowledged ones until the visibility
timeout (6 hours), comes again, and finds nothing to do: at most two for each killed worker.
"""
