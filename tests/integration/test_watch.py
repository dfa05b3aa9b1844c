"""A worker that hears no doorbell while there is work ends itself, and no other does."""

from __future__ import annotations

from dataclasses import dataclass

from corpusmill.errors import BrokerUnavailable
from db.engine import Engine, transact
from db.shards import release
from tests.integration.test_database import a_job, claim
from worker.watch import Watch


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


def watch(database: Engine, queue: Queue) -> tuple[Watch, Clock, list[str]]:
    clock, ended = Clock(), list[str]()
    found = Watch(database=database, doorbell=queue, boot="boot", end=lambda: ended.append("ended"), clock=clock)  # type: ignore[arg-type]
    return found, clock, ended


def looked(found: Watch, clock: Clock, seconds: int) -> None:
    for _ in range(seconds // 10):
        found.look()
        clock.now += 10


def test_it_ends_after_ninety_seconds_in_which_work_and_messages_waited(database: Engine) -> None:
    a_job(database)
    found, clock, ended = watch(database, Queue())
    looked(found, clock, 90)
    assert not ended
    looked(found, clock, 10)
    assert ended == ["ended"]


def test_it_does_not_end_without_a_message_a_shard_or_a_broker(database: Engine) -> None:
    found, clock, ended = watch(database, queue := Queue())
    looked(found, clock, 200)  # there is no job
    a_job(database)
    queue.messages = 0
    looked(found, clock, 200)
    queue.messages, queue.broken = 1, True
    looked(found, clock, 200)
    assert not ended


def test_it_does_not_end_while_it_holds_a_shard_and_counts_anew_after_it(database: Engine) -> None:
    a_job(database)
    found, clock, ended = watch(database, Queue())
    looked(found, clock, 80)
    held = claim(database, "boot:12")
    looked(found, clock, 200)
    assert not ended
    transact(database, lambda connection: release(connection, held))
    looked(found, clock, 90)
    assert not ended
    looked(found, clock, 10)
    assert ended == ["ended"]
