"""A message in the parent's hands, whose acknowledgement may fail without making the worker deaf.

Knows Celery's consumer and its loop. Must not know what the message asks for.
"""

from __future__ import annotations

from celery.worker.request import Request as CeleryRequest
from kombu.asynchronous import get_event_loop


class Request(CeleryRequest):
    """Celery's own, but for a message that cannot be acknowledged because the connection died while it was answered.

    Celery writes that down and leaves it. The message then counts as in hand for ever, and as long as one is in hand no
    other is asked for: nothing is read or written on the connection any more, so that nobody finds out that it is dead.
    """

    def acknowledge(self) -> None:
        """Acknowledge the message, or have the consumer connect anew."""
        super().acknowledge()
        self._look_after(2)

    def reject(self, requeue: bool = False) -> None:
        """Give the message back, or have the consumer connect anew."""
        super().reject(requeue=requeue)
        self._look_after(2)

    def _look_after(self, rounds: int) -> None:
        """Look whether it went through, so many rounds of the loop later: it is done by the loop itself, in the next one."""
        loop = get_event_loop()
        if loop is not None:
            loop.call_soon(self._look, rounds)

    def _look(self, rounds: int) -> None:
        if rounds > 1:
            self._look_after(rounds - 1)
        elif not self.message.acknowledged:
            # as the loop itself does where it finds its connection dead
            raise ConnectionResetError("a message could not be acknowledged")
