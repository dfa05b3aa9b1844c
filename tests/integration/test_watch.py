"""A worker that hears no doorbell while there is work ends itself, and no other does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from corpusmill.errors import BrokerUnavailable
from db.engine import Engine, transact
from db.shards import release
from tests.integration.steps import a_job, claim
from worker.watch import Watch, answers


@dataclass
class Queue:
    """A queue of so many messages, in place of a broker whose worker is deaf."""

    messages: int = 1
    broken: bool = False

    def depth(self) -> int:
        if self.broken:
            raise BrokerUnavailable("away")
        return self.messages


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def watch(database: Engine, queue: Queue, folder: Path, *, up: bool = True) -> tuple[Watch, Clock, list[str]]:
    clock, ended, sign = Clock(), list[str](), folder / "answered"
    if up:
        answers(sign)
    found = Watch(
        database=database, doorbell=queue, boot="boot", sign=sign, end=lambda: ended.append("ended"), clock=clock  # type: ignore[arg-type]
    )  # fmt: skip
    found.look()
    return found, clock, ended


def looked(found: Watch, clock: Clock, seconds: int) -> None:
    for _ in range(seconds // 10):
        found.look()
        clock.now += 10


def test_it_ends_after_ninety_seconds_in_which_work_and_messages_waited(database: Engine, tmp_path: Path) -> None:
    a_job(database)
    found, clock, ended = watch(database, Queue(), tmp_path)
    looked(found, clock, 90)
    assert not ended
    looked(found, clock, 10)
    assert ended == ["ended"]


def test_it_does_not_end_without_a_message_a_shard_or_a_broker(database: Engine, tmp_path: Path) -> None:
    found, clock, ended = watch(database, queue := Queue(), tmp_path)
    looked(found, clock, 200)  # there is no job
    a_job(database)
    queue.messages = 0
    looked(found, clock, 200)
    queue.messages, queue.broken = 1, True
    looked(found, clock, 200)
    assert not ended


def test_it_does_not_end_while_it_holds_a_shard_and_counts_anew_after_it(database: Engine, tmp_path: Path) -> None:
    a_job(database)
    found, clock, ended = watch(database, Queue(), tmp_path)
    looked(found, clock, 80)
    held = claim(database, "boot:12")
    looked(found, clock, 200)
    assert not ended
    transact(database, lambda connection: release(connection, held))
    looked(found, clock, 90)
    assert not ended
    looked(found, clock, 10)
    assert ended == ["ended"]


def test_a_worker_that_answers_doorbells_is_not_deaf_though_it_takes_no_shard(database: Engine, tmp_path: Path) -> None:
    a_job(database)  # as one that only newer workers can run
    found, clock, ended = watch(database, Queue(), tmp_path)
    for _ in range(20):
        looked(found, clock, 10)
        answers(found.sign)
    assert not ended
    looked(found, clock, 110)
    assert ended == ["ended"]


def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize("again", [False, True])
def test_it_does_not_end_while_its_child_starts_for_as_long_as_that_may_take(
    database: Engine, tmp_path: Path, *, again: bool
) -> None:
    a_job(database)
    found, clock, ended = watch(database, Queue(), tmp_path, up=False)
    if again:
        found.sign.write_text(str(gone()))
    looked(found, clock, 300)
    assert not ended
    answers(found.sign)
    looked(found, clock, 90)
    assert not ended, "the time is counted anew once it is up"
    looked(found, clock, 20)
    assert ended == ["ended"]


def test_it_ends_where_its_child_never_comes_up(database: Engine, tmp_path: Path) -> None:
    a_job(database)
    found, clock, ended = watch(database, Queue(), tmp_path, up=False)
    looked(found, clock, 380)
    assert not ended
    looked(found, clock, 30)
    assert ended
