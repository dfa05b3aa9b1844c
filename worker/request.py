"""A message in the parent's hands, whose acknowledgement may fail without making the worker deaf.

Knows how Celery's request acknowledges. Must not know what the message asks for.
"""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request as CeleryRequest


class Request(CeleryRequest):
    """Celery's own, but for a message that cannot be acknowledged because the connection died while it was answered.

    Celery writes that down and leaves it. The message then counts as in hand for ever, and as long as one is in hand no
    other is asked for: nothing is read or written on the connection any more, so that nobody finds out that it is dead.
    Here the failure goes up into the consumer's loop, where that of any other use of the connection has it connect anew.
    """

    def __init__(self, message: Any, **more: Any) -> None:
        super().__init__(message, **more)
        # The errors that acknowledging and rejecting keep to themselves.
        self._connection_errors = ()
