"""Requests and answers: addresses, the key, time limits, back-off, and which requests may be sent again.

Knows HTTP and Corpusmill's problem answers. Must not know corpora or jobs. A request is sent again only where that
cannot create anything twice: it changes nothing, or asks for the same end, or never reached the server whole, or has an
`Idempotency-Key`, under which the server makes one thing and gives a repetition its first answer.
"""

from __future__ import annotations

import random
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2

from corpusmill_client.errors import UNKNOWN_OUTCOME, CorpusmillError, broken_off, refusal, unreachable

__version__ = "0.1.0"

#: Seconds of trying again: for a server that never answered, and for one that did and may be starting anew.
FIRST_PATIENCE, PATIENCE = 1.0, 30.0
LONGEST_DELAY = 10.0
_PREFIX = "/api/v1"
_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class Body(Protocol):
    """A request body, read once; `spent` says that it cannot be sent again, or that its last byte may have arrived."""

    spent: bool

    def __iter__(self) -> Iterator[bytes]: ...


def backoff(attempt: int, floor: float = 0.0) -> float:
    """Seconds before try `attempt` + 2: doubling from 0.2 to 10, the upper half at random, and never below `floor`."""
    delay: float = min(LONGEST_DELAY, 0.2 * 2.0 ** min(attempt, 16))
    return max(min(floor, PATIENCE), delay * (0.5 + random.random() / 2))  # noqa: S311 — spreads load, guards nothing


def address(url: str) -> str:
    """The server's address in full, without a slash at its end or the prefix of its API, which every request adds.

    Raises ValueError where it is none.
    """
    full = url.strip()
    full = full if "://" in full else f"http://{full}"
    parts = urlsplit(full)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is no address of a server; one looks like http://127.0.0.1:8000")
    return full.rstrip("/").removesuffix(_PREFIX).rstrip("/")


@dataclass(frozen=True, slots=True)
class _Failure:
    """A try without an answer to use: its error (given whether the caller may send it again) and when to try again."""

    error: Callable[[bool], CorpusmillError]
    cause: Exception | None
    unsent: bool = False
    delay: float = 0.0


class Transport:
    """One server, reached through a pool of connections; safe to use from several threads."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self.url = address(url)
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        headers = {"User-Agent": f"corpusmill-client/{__version__}", "Accept": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._met = False
        self._http = httpx2.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx2.Timeout(60, connect=5),
            # Below the server's own two seconds, so that a POST does not go out on a connection being closed.
            limits=httpx2.Limits(keepalive_expiry=1.0),
            # Reading the system's certificates takes longer than many a request; plain HTTP needs none. This context
            # trusts nobody.
            verify=parts.scheme == "https" or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            # A proxy of the environment cannot reach this machine's own loopback.
            trust_env=not (host in {"localhost", "::1"} or host.startswith("127.")),
        )

    def close(self) -> None:
        self._http.close()

    def json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        once: bool = False,
        repeatable: bool | None = None,
        having: str | None = None,
    ) -> Any:
        """The JSON of an answer; see `send` and `parsed`."""
        response = self.send(method, path, params=params, json=json, headers=headers, once=once, repeatable=repeatable)
        return self.parsed(response, having)

    def delete(self, path: str) -> None:
        """Removes a thing. Where an answer was lost, finding it gone at the next try is success."""
        try:
            self.send("DELETE", path)
        except CorpusmillError as error:
            if error.status != 404 or not error.tried:
                raise

    def parsed(self, response: httpx2.Response, having: str | None = None) -> Any:
        """The JSON of an answer that was read; None where it has no content.

        Raises CorpusmillError (`unexpected_answer`) where it is no JSON, or no object with the field `having`.
        """
        if response.status_code in {204, 304}:
            return None
        try:
            data = response.json()
        except ValueError as error:
            raise self._refusal(response, None) from error
        if having and not (isinstance(data, Mapping) and having in data):
            raise self._refusal(response, None)
        return data

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Body] | None = None,
        once: bool = False,
        repeatable: bool | None = None,
        patience: float | None = None,
        read: float = 60.0,
        stream: bool = False,
    ) -> httpx2.Response:
        """The answer to a request, sent again with back-off for `patience` seconds where that is safe.

        `once` gives it an `Idempotency-Key`, that of `headers` or a new one, the same in every try. `repeatable` says that
        sending it twice does no harm (default: what is no POST, or has such a key). `body` is called for each try; one
        whose body is not spent may be repeated whatever the method. `read` is the time limit for the answer to begin, in
        seconds. Raises CorpusmillError for every answer that is no success and no 304.
        """
        may_repeat = method != "POST" or once if repeatable is None else repeatable
        if once:
            headers = {"Idempotency-Key": str(uuid.uuid4()), **(headers or {})}
        doubtful = False  # whether a try that makes something may have arrived, and its answer was lost
        deadline: float | None = None
        attempt = 0
        while True:
            content = body() if body else None
            request = self._http.build_request(
                method,
                f"{_PREFIX}{path}",
                params={key: value for key, value in (params or {}).items() if value is not None},
                json=json,
                headers=headers,
                content=content,
                timeout=httpx2.Timeout(60, connect=5, read=read),
            )
            answer = self._try(request, stream=stream)
            if isinstance(answer, httpx2.Response):
                return answer
            whole = not (answer.unsent or (content is not None and not content.spent))
            doubtful = doubtful or (once and whole and answer.cause is not None)
            harmless = may_repeat or not whole
            # the key is this call's alone: the caller's next one has another
            failure = answer.error(harmless and not doubtful)
            failure.tried = attempt
            if doubtful and failure.passing and UNKNOWN_OUTCOME not in failure.detail:
                failure.detail += f" An earlier try was cut off. {UNKNOWN_OUTCOME}"
            if not (harmless and failure.passing):
                raise failure from answer.cause
            now = time.monotonic()
            deadline = deadline if deadline is not None else now + self._patience(patience)
            delay = backoff(attempt, answer.delay)
            if now + delay > deadline:
                raise failure from answer.cause
            time.sleep(delay)
            attempt += 1

    @contextmanager
    def stream(self, path: str, *, params: Mapping[str, Any] | None = None) -> Iterator[Iterator[bytes]]:
        """The body of a GET, in pieces as they arrive. Raises ConnectionFailed where it breaks off before its end."""
        response = self.send("GET", path, params=params, headers={"Accept": "*/*"}, read=300.0, stream=True)
        try:
            yield self._pieces(response)
        finally:
            response.close()

    def _pieces(self, response: httpx2.Response) -> Iterator[bytes]:
        try:
            yield from response.iter_bytes()
        except httpx2.RequestError as error:
            raise broken_off(_where(response.request), _reason(error), repeatable=True) from error

    def _try(self, request: httpx2.Request, *, stream: bool) -> httpx2.Response | _Failure:
        """One exchange."""
        try:
            response = self._http.send(request, stream=stream)
        except _UNSENT as error:
            away = unreachable(self.url, _reason(error))
            return _Failure(lambda _: away, error, unsent=True)
        except httpx2.RequestError as error:
            where, reason = _where(request), _reason(error)
            return _Failure(lambda harmless: broken_off(where, reason, repeatable=harmless), error)
        self._met = True
        if response.is_success or response.status_code == 304:
            return response
        response.read()
        response.close()
        try:
            problem = response.json()
        except ValueError:
            problem = None
        refused = self._refusal(response, problem)
        # Too many requests: turned away at the door, so nothing was begun.
        return _Failure(lambda _: refused, None, unsent=response.status_code == 429, delay=_retry_after(response))

    def _refusal(self, response: httpx2.Response, problem: Any) -> CorpusmillError:
        if response.is_redirect:
            target = response.headers.get("location", "another address")
            return CorpusmillError(
                f"{self.url} redirects to {target}: give the address it redirects to.",
                code="redirected",
                status=response.status_code,
            )
        return refusal(
            response.status_code,
            problem,
            where=_where(response.request),
            request_id=response.headers.get("x-request-id"),
            media=response.headers.get("content-type", ""),
        )

    def _patience(self, given: float | None) -> float:
        if given is not None:
            return given
        return PATIENCE if self._met else FIRST_PATIENCE


def _where(request: httpx2.Request) -> str:
    return f"{request.method} {request.url.copy_with(query=None)}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _retry_after(response: httpx2.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else 0.0
