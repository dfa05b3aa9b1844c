"""Times as they are written: RFC 3339 in UTC.

Knows seconds since 1970. Must not know what time it is.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, overload


@overload
def rfc3339(seconds: float, to: Literal["milliseconds", "seconds"] = ...) -> str: ...
@overload
def rfc3339(seconds: float | None, to: Literal["milliseconds", "seconds"] = ...) -> str | None: ...
def rfc3339(seconds: float | None, to: Literal["milliseconds", "seconds"] = "milliseconds") -> str | None:
    """A time in seconds since 1970, cut `to` these; None where there is none."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=to).replace("+00:00", "Z")
