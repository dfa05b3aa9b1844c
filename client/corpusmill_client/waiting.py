"""Following a job, a run or a corpus to its end over a connection that may fail.

Knows the long poll (`?wait=`, ETag, 304) and when to ask again. Must not know what a caller does with the news. A
server that restarts, is busy or cannot be reached is asked again for as long as it takes; a refusal for good is raised.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from corpusmill_client.errors import CorpusmillError, WaitTimeout
from corpusmill_client.transport import Transport, backoff

ENDED = frozenset({"completed", "completed_with_errors", "failed", "cancelled"})
#: Seconds that the server is asked to hold a question while nothing changes.
HOLD = 30
#: Internal errors in a row that are taken for passing.
FAULTS = 5

News = tuple[Mapping[str, Any] | None, CorpusmillError | None]


def changes(transport: Transport, path: str, timeout: float | None, ended: Collection[str] = ENDED) -> Iterator[News]:
    """The job, run or corpus at `path`, at once and then whenever it changes, until its status is one of `ended`.

    Yields (job, None) for a change, (None, trouble) while the server cannot be asked, and (None, None) when it answers
    again without a change. Raises WaitTimeout after `timeout` seconds, and CorpusmillError where the server refuses
    for good.
    """
    began = time.monotonic()
    etag: str | None = None
    last: Mapping[str, Any] | None = None
    trouble: CorpusmillError | None = None
    faults = idle = 0
    while True:
        asked = time.monotonic()
        left = HOLD * 2.0 if timeout is None else max(0.0, began + timeout - asked)
        hold = min(HOLD, int(left)) if etag else 0
        try:
            answer = transport.send(
                "GET",
                path,
                params={"wait": hold or None},
                headers={"If-None-Match": etag} if etag else None,
                patience=0,
                read=hold + 30.0,
            )
            data = transport.parsed(answer, having="status")
        except CorpusmillError as error:
            faults += 1
            if not error.passing and (error.status != 500 or faults > FAULTS):
                raise
            trouble = error
            yield None, trouble
            pause = backoff(faults)
        else:
            held = time.monotonic() - asked >= min(1.0, hold / 2) > 0
            if data is not None and data != last:
                etag, last, idle = answer.headers.get("etag"), data, 0
                yield data, None
                if data["status"] in ended:
                    return
                # A job that changes all the time is not asked more often than its age makes sensible.
                pause = min(2.0, max(0.2, (time.monotonic() - began) / 100))
            else:
                if trouble:
                    yield None, None
                # Answered at once though nothing changed: the server holds no more questions, or has no ETag.
                idle = 0 if held else idle + 1
                pause = 0.0 if held else min(5.0, backoff(idle))
            trouble, faults = None, 0
        if timeout is not None:
            left = began + timeout - time.monotonic()
            if left <= 0:
                raise _timeout(path, timeout, trouble)
            pause = min(pause, left)
        time.sleep(pause)


def _timeout(path: str, timeout: float, trouble: CorpusmillError | None) -> WaitTimeout:
    what = path.rpartition("/")[2]
    reason = f" The last answer was: {trouble}" if trouble else ""
    return WaitTimeout(f"{what} has not ended within {timeout:g} s; it goes on.{reason}", code="wait_timeout")
