"""Rings for shards that wait: one message per shard, carrying its id and nothing else.

Knows how to publish and how to ask the broker about itself, quickly or not at all. Must not know what becomes of a
message: a doorbell that nobody heard is rung again by the sweeper.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis
from celery import Celery
from kombu import Connection, Producer
from kombu.exceptions import KombuError

from broker.address import redis_client
from broker.settings import celery_settings, message_limit, producer_transport
from corpusmill.errors import BrokerFull, BrokerUnavailable
from corpusmill.messages import SHARD_MESSAGE, SHARD_QUEUE
from corpusmill.settings import Settings

#: Seconds that a thread waits for another one that is publishing. With the producer's own limits this bounds a ring to
#: about two seconds, whatever the broker does.
_TURN = 1.0
_FAULTS = (KombuError, redis.RedisError, OSError)


@dataclass(slots=True)
class _Line:
    """What one process holds open: a publishing connection, taken in turns, and a client that threads may share."""

    app: Celery
    connection: Connection
    client: redis.Redis
    turn: threading.Lock = field(default_factory=threading.Lock)
    pid: int = field(default_factory=os.getpid)


class Doorbell:
    """The producer's end of the broker; threads may share one, and a forked child connects anew.

    Nothing is connected before the first call. Every method but `close` raises BrokerUnavailable where the broker does
    not answer within about two seconds. Raises InvalidSettings for a URL that may not be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._conf = celery_settings(settings)
        self._transport = producer_transport(message_limit(settings))
        self._open: _Line | None = None

    def ring(self, shard_ids: Sequence[int]) -> int:
        """Publish a message for each shard, in one round trip; how many were published."""
        if not shard_ids:
            return 0
        line = self._line()
        if not line.turn.acquire(timeout=_TURN):
            raise BrokerUnavailable("The broker is too slow: another thread still waits for it.")
        try:
            with self._translated():
                self._publish(line, shard_ids)
        except BrokerUnavailable:
            line.connection.collect()  # half-sent or half-read: the next ring starts on a new connection
            raise
        finally:
            line.turn.release()
        return len(shard_ids)

    def depth(self) -> int:
        """Messages that wait in the queue; those in a worker's hands are not counted."""
        with self._translated():
            return int(self._line().client.llen(SHARD_QUEUE))

    def ping(self) -> None:
        """Return if the broker answers and has room for messages."""
        client = self._line().client
        with self._translated():
            client.ping()
            most, used = _memory(client)
            if 0 < most <= used:
                raise redis.OutOfMemoryError(f"{used:,} of {most:,} bytes are used")

    def policy(self) -> dict[str, str | None]:
        """`version`, `maxmemory-policy` and `appendonly`; None for what this user may not ask."""
        client = self._line().client
        with self._translated():
            info = client.info("server")
            found = {"version": str(info.get("valkey_version") or info.get("redis_version"))}
            return found | {name: _setting(client, name) for name in ("maxmemory-policy", "appendonly")}

    def close(self) -> None:
        """Close this process's connections; a later call opens new ones."""
        line, self._open = self._open, None
        if line is not None and line.pid == os.getpid():
            line.connection.collect()
            line.client.close()

    def _line(self) -> _Line:
        line = self._open
        if line is None or line.pid != os.getpid():
            # Two threads may both come here; the line that loses was never connected.
            line = self._open = self._new_line()
        return line

    def _new_line(self) -> _Line:
        app = Celery("corpusmill", set_as_current=False, autofinalize=False)
        app.config_from_object(self._conf)
        url = self._conf["broker_url"]
        return _Line(
            app=app,
            connection=Connection(url, transport_options=self._transport, connect_timeout=1.0),
            client=redis_client(url),
        )

    def _publish(self, line: _Line, shard_ids: Sequence[int]) -> None:
        # kombu's pipeline: without it each message is a round trip of its own.
        producer: Any = Producer(line.connection.default_channel)
        with producer.batch(max_size=len(shard_ids)):
            for shard_id in shard_ids:
                line.app.send_task(
                    SHARD_MESSAGE,
                    args=[shard_id],
                    queue=SHARD_QUEUE,
                    producer=producer,
                    retry=False,
                )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except _FAULTS as error:
            cause = error.__cause__ or error
            if why := _lacking(cause):
                raise BrokerFull(
                    f"The broker at {_shown(self._conf)} {why}, and takes nothing meanwhile: {cause}", why=why
                ) from error
            raise BrokerUnavailable(f"The broker at {_shown(self._conf)} did not answer: {cause}") from error


def _lacking(cause: BaseException) -> str | None:
    """Why a broker that answers takes nothing; None where it is for another reason."""
    if isinstance(cause, redis.OutOfMemoryError):
        return "has no memory left (maxmemory)"
    if isinstance(cause, redis.ResponseError) and str(cause).startswith("MISCONF"):
        return "cannot write to its disk"
    return None


def _memory(client: redis.Redis) -> tuple[int, int]:
    """The most bytes that it takes and those that it has, where it would refuse more; 0 for no bound."""
    try:
        found: dict[str, Any] = client.info("memory")
    except redis.ResponseError:  # a hosted broker may forbid INFO
        return 0, 0
    bounded = found.get("maxmemory_policy") == "noeviction"
    return int(found.get("maxmemory", 0)) if bounded else 0, int(found.get("used_memory", 0))


def _setting(client: redis.Redis, name: str) -> str | None:
    try:
        values: dict[str | None, str | None] = client.config_get(name)
    except redis.ResponseError:  # a hosted broker may forbid CONFIG, or not know it
        return None
    return values.get(name)


def _shown(conf: dict[str, Any]) -> str:
    """The broker's URL without its password."""
    return str(Connection(conf["broker_url"]).as_uri())
