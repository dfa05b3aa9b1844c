"""Which worker holds which shards, and what has become of them.

Knows a rig's workers and its shards. Must not know how any test ends.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from .processes import until
from .rig import BOUND, Rig


def held_by(rig: Rig, name: str, job_id: str) -> list[Any]:
    """The shards that a worker holds: its owner's name ends with the number of its child, which lives."""
    pids = {str(child.pid) for child in rig.processes[name].children() if lives(child)}
    return [one for one in rig.running(job_id) if str(one.owner).rpartition(":")[2] in pids]


def lives(process: psutil.Process) -> bool:
    """Whether a process runs: one that was killed is listed until its parent has asked after it."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def hold_frozen(rig: Rig, job_id: str) -> list[Any]:
    """Stop worker-0 while it holds shards; what it holds."""
    while True:
        until(lambda: held_by(rig, "worker-0", job_id), what="worker-0 holds a shard")
        rig.freeze("worker-0")
        if held := held_by(rig, "worker-0", job_id):
            return held
        rig.thaw("worker-0")


def ended(rig: Rig, job_id: str, held: list[Any]) -> bool:
    now = {one.key: one for one in rig.shards(job_id)}
    return all(now[one.key].state == "done" and now[one.key].attempt > one.attempt for one in held)


def rows_of(rig: Rig, job_id: str, held: list[Any]) -> list[Any]:
    """The shards as they ended: attempt, owner and time."""
    keys = {one.key for one in held}
    return [(one.key, one.attempt, one.owner, one.finished_at) for one in rig.shards(job_id) if one.key in keys]


def successor(rig: Rig, job_id: str, lost: Any) -> Any:
    """The shard that somebody lost, once another has it."""
    return until(
        lambda: next((one for one in rig.shards(job_id) if one.key == lost.key and one.attempt > lost.attempt), None),
        BOUND,
        "another has the shard",
    )


def wait_before_writing(rig: Rig, *names: str, **extra: str) -> Path:
    """Start workers anew, with further settings, so that the first of them to write a shard waits before it does, when it
    has looked for the last time whether the shard is its own. The file that is there while it waits."""
    writes = rig.folder / f"once-{time.monotonic_ns()}"
    rig.restart(*names, FAULTS_POINT="before_finish", FAULTS_ONCE=str(writes), **extra)
    rig.ready()
    return writes


def let_write(writes: Path) -> None:
    """Let the worker that waits go on."""
    writes.with_name(f"{writes.name}-go").touch()
