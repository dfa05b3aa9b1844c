"""Requests to a labelling tool: its address, its key, and what its refusals mean to a run.

Knows HTTP and which faults pass. Must not know any tool's endpoints. Nothing is sent again here: a run that is put off does
the stage again.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2

from corpusmill.errors import PlaceFault, PlaceUnavailable

#: Seconds for a batch to be taken in.
_PATIENCE = 120.0
_SHOWN = 300


class Wire:
    """A connection to one tool; a context manager. `headers` is asked for the key before each request; after a 401 it is
    asked once more, with `renewed`."""

    def __init__(self, name: str, url: str, headers: Callable[[bool], Mapping[str, str]] = lambda _: {}) -> None:
        self.name = name
        parts = urlsplit(url)
        host = parts.hostname or ""
        self._headers = headers
        self._http = httpx2.Client(
            base_url=url.rstrip("/"),
            timeout=httpx2.Timeout(_PATIENCE, connect=10.0),
            follow_redirects=False,
            # reading the system's certificates takes longer than many a request, and plain HTTP needs none
            verify=parts.scheme == "https" or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            trust_env=not (host in {"localhost", "::1"} or host.startswith("127.")),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def json(self, method: str, path: str, *, params: Mapping[str, Any] | None = None, json: Any = None) -> Any:
        """The JSON of an answer. Raises PlaceUnavailable where there is none or the fault may pass, PlaceFault otherwise."""
        response = self._send(method, path, params, json, renewed=False)
        if response.status_code == 401:
            response = self._send(method, path, params, json, renewed=True)
        where = f"{self.name} ({method} {path})"
        if response.status_code in {408, 425, 429} or response.status_code >= 500:
            raise PlaceUnavailable(f"{where} answered {response.status_code}: {_shown(response)}")
        if not response.is_success:
            raise PlaceFault(f"{where} answered {response.status_code}: {_shown(response)}")
        try:
            return response.json() if response.content else None
        except ValueError as error:
            raise PlaceFault(f"{where} answered with what is no JSON: is the address right?") from error

    def _send(
        self, method: str, path: str, params: Mapping[str, Any] | None, json: Any, *, renewed: bool
    ) -> httpx2.Response:
        try:
            headers = dict(self._headers(renewed))
            return self._http.request(method, path, params=params, json=json, headers=headers)
        except httpx2.RequestError as error:
            # an exception's text may hold the address with what stands in it, never the key: that is in a header
            reason = str(error) or type(error).__name__
            raise PlaceUnavailable(f"{self.name} did not answer {method} {path}: {reason}") from error


def _shown(response: httpx2.Response) -> str:
    text = " ".join(response.text.split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
