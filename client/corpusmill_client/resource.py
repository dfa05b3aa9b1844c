"""What everything that a server keeps has in common for a caller: an id, the server's answer, and asking for it again.

Knows ids and paths. Must not know what any one thing holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from corpusmill_client.transport import Transport
from corpusmill_client.views import time_of


class Resource(ABC):
    """One thing of the server's, as it stood when last asked for."""

    def __init__(self, transport: Transport, data: Mapping[str, Any]) -> None:
        self._transport = transport
        self._data = data

    @property
    @abstractmethod
    def _path(self) -> str:
        """Where the server has it."""

    @property
    def data(self) -> Mapping[str, Any]:
        """The server's answer whole."""
        return self._data

    @property
    def id(self) -> str:
        return str(self._data["id"])

    @property
    def created_at(self) -> datetime | None:
        return time_of(self._data.get("created_at"))

    def refresh(self) -> Self:
        """The same, asked for again."""
        self._data = self._transport.json("GET", self._path, having="id")
        return self
