"""Faults of a rig's programs, one at a time, each over when its function returns.

Knows signals, the broker's keys and who holds a shard. Must not judge.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from .holders import held_by
from .link import Link
from .oracle import Documents
from .processes import until
from .rig import BOUND, Rig


@contextmanager
def cut(link: Link) -> Iterator[None]:
    """Nothing passes the link for the length of the block."""
    link.cut = True
    try:
        yield
    finally:
        link.cut = False


def wait(seconds: float) -> None:
    """Let what has been done have its effect."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end)


def restart(rig: Rig, name: str) -> None:
    """SIGKILL a program and start it again."""
    rig.kill(name)
    rig.start(name)


def kill_children(rig: Rig, name: str) -> None:
    """SIGKILL every process below a worker's parent."""
    for child in rig.processes[name].children():
        with suppress(psutil.NoSuchProcess):
            child.kill()


def drain(rig: Rig, *names: str) -> None:
    """SIGTERM programs and start each again, one after the other."""
    for name in names:
        rig.stop(name)
        rig.start(name)


def lose_broker(rig: Rig, *, persistent: bool) -> None:
    """SIGKILL the broker and start it again, with its log or empty."""
    rig.broker.process.kill()
    rig.killed_workers += len(rig.worker_names())
    rig.broker.start(persistent=persistent)


def empty_broker(rig: Rig) -> None:
    """Nothing has been rung for."""
    rig.broker.client.flushall()


def everything(rig: Rig) -> None:
    """SIGKILL every process there is, and start them all."""
    rig.kill(*rig.processes)
    rig.broker.process.kill()
    rig.database.down()
    rig.database.up()
    rig.broker.start()
    rig.start_all(*rig.names())


def empty_under_idle_workers(rig: Rig) -> None:
    """New workers, who have heard no bell, and a broker that has none left."""
    rig.stop("worker-0", "worker-1")
    rig.broker.client.flushall()
    rig.start("worker-0")
    rig.start("worker-1")


def kill_holder(held: list[Any]) -> None:
    """SIGKILL the child that holds these shards, unless it is just being killed for another reason."""
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(str(held[0].owner).rpartition(":")[2])).kill()


def kill_one_that_holds(rig: Rig, job_id: str, chance: random.Random, *, alone: bool = False) -> tuple[str, list[Any]]:
    """SIGKILL a worker in mid-job, its child `alone` or all of it, by chance one of those that hold shards of the job; its
    name and what it held when it was dead."""

    def holders() -> list[str]:
        assert rig.left(job_id), "the job is under way"
        return [name for name in rig.worker_names() if held_by(rig, name, job_id)]

    while True:
        name = chance.choice(until(holders, BOUND, "a worker holds a shard"))
        held = held_by(rig, name, job_id)
        owners = {one.owner for one in held}
        if not held:
            continue
        kill_holder(held) if alone else rig.kill(name)
        # One that had saved its last shard just before lost nothing and does not count.
        if lost := [one for one in rig.running(job_id) if one.owner in owners]:
            return name, lost
        rig.start(name)


def lose_a_message(rig: Rig, few: Documents) -> str:
    """A job whose one message was handed to a worker that died before it could note it: the message is nowhere any more.
    The sweeper is stopped meanwhile; no worker is left."""
    rig.kill("worker-1")
    rig.corpus(few)
    while True:
        until(lambda: rig.broker.listeners() == 1, what="one worker listens")
        rig.freeze("sweep-0", "worker-0")
        # A worker killed with a doorbell in its hands leaves it there for as long as the visibility timeout.
        left = rig.broker.unacknowledged
        job_id = rig.submit(few)
        lost = rig.broker.waiting == 0 and rig.broker.unacknowledged == left
        if lost:
            rig.kill("worker-0")
            return job_id
        # Its wait for messages ended just then, and nobody took the message: once more.
        rig.thaw("worker-0", "sweep-0")
        rig.await_ended(job_id)
