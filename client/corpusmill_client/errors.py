"""What the client raises, and how a server's refusal becomes a sentence.

Knows RFC 9457 problems and the words for them. Must not know HTTP libraries, corpora or jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: HTTP statuses of a server, or of a proxy before it, that may answer otherwise in a moment.
PASSING = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One faulty field: a JSON pointer or a query parameter's name, and what is wrong with it."""

    pointer: str
    message: str


class CorpusmillError(Exception):
    """Something was refused or could not be done. `str(error)` says what, where and how to mend it.

    `code` is stable and in snake_case. `status` is the HTTP status, or None where no server answered. `errors` are the
    faults of single fields. `detail` is the sentence alone and `request_id` finds the request in the server's log.
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str = "error",
        status: int | None = None,
        errors: tuple[FieldFault, ...] = (),
        request_id: str | None = None,
        where: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.status = status
        self.errors = errors
        self.request_id = request_id
        self.where = where
        self.tried = 0  # how often the request had been sent before this answer

    @property
    def passing(self) -> bool:
        """Whether the same request may do better later: the server was away, busy or starting."""
        return self.status in PASSING

    def __str__(self) -> str:
        faults = [f"{fault.pointer}: {fault.message}" for fault in self.errors]
        lines = [self.detail, *(f"  {fault}" for fault in faults if fault not in self.detail)]
        if self.status is not None:
            context = [
                f"{self.where}: HTTP {self.status} {self.code}" if self.where else f"HTTP {self.status} {self.code}"
            ]
            context += [f"request {self.request_id}"] if self.request_id else []
            lines.append(f"  ({', '.join(context)})")
        return "\n".join(lines)


class ConnectionFailed(CorpusmillError):
    """No server answered at the address, or the connection to it was lost."""

    @property
    def passing(self) -> bool:
        return True


class WaitTimeout(CorpusmillError, TimeoutError):
    """A job had not ended within the time that was given to `wait`; it goes on."""


#: Of something new, whose answer was lost.
UNKNOWN_OUTCOME = "It may or may not have been accepted: look before sending it again."

_MEND = {
    401: "Set CORPUSMILL_API_KEY to the key of this server.",
    403: "Reach the server by the address and name that it was started with.",
}


def refusal(status: int, body: Any, *, where: str, request_id: str | None, media: str) -> CorpusmillError:
    """The error for an HTTP answer of 400 and above; `body` is its parsed JSON, or None where it was not JSON.

    Only an object that says `code` is a problem of Corpusmill's: anything else came from something in between, or from
    another server.
    """
    if not isinstance(body, Mapping) or not isinstance(body.get("code"), str):
        detail = f"This answer ({media or 'no type'}) is not Corpusmill's: is it the address of a Corpusmill server?"
        return CorpusmillError(detail, code="unexpected_answer", status=status, request_id=request_id, where=where)
    detail = str(body.get("detail") or body.get("title") or "The server refused this and did not say why.")
    mend = _MEND.get(status)
    return CorpusmillError(
        f"{detail} {mend}" if mend and "CORPUSMILL_" not in detail else detail,
        code=body["code"],
        status=status,
        errors=_faults(body.get("errors")),
        request_id=str(body.get("request_id") or request_id or "") or None,
        where=where,
    )


def _faults(raw: Any) -> tuple[FieldFault, ...]:
    items = raw if isinstance(raw, list) else []
    return tuple(
        FieldFault(str(item.get("pointer", "?")), str(item.get("message", "")))
        for item in items
        if isinstance(item, Mapping)
    )


def unreachable(url: str, reason: str) -> ConnectionFailed:
    """The error for a server that cannot be reached at all; nothing was sent."""
    return ConnectionFailed(
        f"No Corpusmill server answers at {url} ({reason}). Start one with `corpusmill up`, or say where there is one: "
        "CORPUSMILL_URL.",
        code="connection_failed",
    )


def broken_off(where: str, reason: str, *, repeatable: bool) -> ConnectionFailed:
    """The error for a connection that was lost under way; `repeatable`: sending it again is harmless."""
    advice = "Try again." if repeatable else UNKNOWN_OUTCOME
    return ConnectionFailed(f"{where}: the connection was lost ({reason}). {advice}", code="connection_lost")
