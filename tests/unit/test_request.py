"""A worker's message whose acknowledgement does not reach the broker: kombu's loop and messages, a broker that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu.asynchronous import Hub, set_event_loop
from kombu.message import Message
from kombu.utils.imports import symbol_by_name
from vine import promise

from corpusmill.messages import SHARD_MESSAGE
from worker.tasks import ring


class Channel:
    """A channel to a broker that answers, or does not."""

    no_ack_consumers = None

    def __init__(self, *, alive: bool) -> None:
        self.alive = alive

    def basic_ack(self, tag: str, multiple: bool = False) -> None:
        if not self.alive:
            raise ConnectionError("nobody there")

    def basic_reject(self, tag: str, requeue: bool = False) -> None:
        self.basic_ack(tag)


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    set_event_loop(made)
    made.call_repeatedly(0.001, lambda: None)  # so that no round waits for anything to be read
    yield made
    set_event_loop(None)
    made.close()


def received(hub: Hub, *, alive: bool) -> Any:
    """A message as Celery's consumer makes a request of it, acknowledged in the loop's next round."""
    headers = {"id": "1", "task": SHARD_MESSAGE}
    message = Message(
        channel=Channel(alive=alive), delivery_tag="1", body="[[7], {}, {}]", content_type="application/json",
        content_encoding="utf-8", headers=headers, properties={}, delivery_info={},
    )  # fmt: skip
    app = Celery(set_as_current=False)
    make = symbol_by_name(ring.Request)  # as Celery's consumer finds it
    return make(
        message, app=app, task=ring, headers=headers, body=message.body, connection_errors=(ConnectionError,),
        on_ack=later(hub, message.ack_log_error), on_reject=later(hub, message.reject_log_error),
        eventer=SimpleNamespace(enabled=False),
    )  # fmt: skip


def later(hub: Hub, verb: Any) -> Any:
    return lambda *arguments: hub.call_soon(promise(verb, arguments))


def rounds(hub: Hub, count: int = 8) -> None:
    loop = hub.create_loop()
    for _ in range(count):
        next(loop)


@pytest.mark.parametrize("verb", ["acknowledge", "reject"])
def test_a_message_that_cannot_be_acknowledged_ends_the_loop_so_that_the_consumer_connects_anew(
    hub: Hub, verb: str
) -> None:
    getattr(received(hub, alive=False), verb)()
    with pytest.raises(ConnectionError, match="nobody there"):
        rounds(hub)


def test_a_second_one_on_the_next_connection_does_so_too(hub: Hub) -> None:
    for _ in range(2):
        received(hub, alive=False).acknowledge()
        with pytest.raises(ConnectionError, match="nobody there"):
            rounds(hub)
        hub.reset()  # as Celery's loop does whenever it loses its connection
        hub.call_repeatedly(0.001, lambda: None)


@pytest.mark.parametrize("verb", ["acknowledge", "reject"])
def test_a_message_that_is_acknowledged_lets_the_loop_go_on(hub: Hub, verb: str) -> None:
    request = received(hub, alive=True)
    getattr(request, verb)()
    rounds(hub)
    assert request.message.acknowledged


def test_a_message_is_acknowledged_once_however_often_it_is_asked_for(hub: Hub) -> None:
    request = received(hub, alive=True)
    request.acknowledge()
    rounds(hub)
    request.acknowledge()
    rounds(hub)
