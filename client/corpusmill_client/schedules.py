"""Schedules and their runs as a caller sees them.

Knows their endpoints and shapes. Must not know how requests are repeated (`transport`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from corpusmill_client.pages import each, path_of
from corpusmill_client.resource import Resource
from corpusmill_client.views import sentence_of, time_of
from corpusmill_client.waiting import changes

#: The statuses of runs that have ended.
RUN_ENDED = frozenset({"succeeded", "failed", "skipped", "cancelled"})
#: What a server adds to a definition.
_ADDED = ("id", "revision", "next_fires", "created_at", "updated_at")


class Run(Resource):
    """What is done for one fire of a schedule, as it stood when last asked for."""

    @property
    def _path(self) -> str:
        return path_of("schedules", self.schedule, "runs", self.id)

    @property
    def schedule(self) -> str:
        """The id of its schedule."""
        return str(self._data["schedule"])

    @property
    def status(self) -> str:
        """waiting, running or paused; in the end succeeded, failed, skipped or cancelled."""
        return str(self._data["status"])

    @property
    def stage(self) -> str:
        """read, label, deliver, review or report."""
        return str(self._data["stage"])

    @property
    def ended(self) -> bool:
        return self.status in RUN_ENDED

    @property
    def fire_time(self) -> datetime | None:
        return time_of(self._data.get("fire_time"))

    @property
    def job(self) -> str | None:
        """The id of its job; None before there is one, and where nothing was new."""
        return self._data.get("job")

    @property
    def new_documents(self) -> int:
        return int(self._data.get("new_documents") or 0)

    @property
    def reused_documents(self) -> int:
        return int(self._data.get("reused_documents") or 0)

    @property
    def failed_documents(self) -> int:
        return int(self._data.get("failed_documents") or 0)

    @property
    def report(self) -> Mapping[str, Any] | None:
        return self._data.get("report")

    @property
    def broken(self) -> tuple[str, ...]:
        """A sentence for each rule of `fail_if` that its report breaks."""
        return tuple((self.report or {}).get("broken") or ())

    @property
    def error(self) -> str | None:
        """Why it failed, why it waits to try again, or what a run that succeeded could not do after its labels were
        delivered."""
        return sentence_of(self._data.get("error"))

    @property
    def exit_code(self) -> int:
        """What a cron job can act on. 0: well, or not ended; 1: it failed, was cancelled, could not ask people or write its
        report, or a rule of `fail_if` is broken; 3: documents failed."""
        if self.status in {"failed", "cancelled"} or self.broken or (self.status == "succeeded" and self.error):
            return 1
        return 3 if self.failed_documents else 0

    def wait(self, timeout: float | None = None, progress: Callable[[Run], object] | None = None) -> Run:
        """Waits until the run has ended and returns it, whatever the outcome (`status`, `exit_code`).

        `progress` is called whenever it has changed. Raises WaitTimeout after `timeout` seconds; the run goes on.
        """
        for data, _ in () if self.ended else changes(self._transport, self._path, timeout, RUN_ENDED):
            if data is not None and data != self._data:
                self._data = data
                if progress is not None:
                    progress(self)
        return self

    def __repr__(self) -> str:
        return f"Run({self.id!r}, {self.status}, stage={self.stage}, new={self.new_documents})"


class Schedule(Resource):
    """What fires every night, as it stood when last asked for."""

    @property
    def _path(self) -> str:
        return path_of("schedules", self.id)

    @property
    def definition(self) -> dict[str, Any]:
        """What was defined, with the defaults."""
        return {name: value for name, value in self._data.items() if name not in _ADDED}

    @property
    def name(self) -> str:
        return str(self._data["name"])

    @property
    def enabled(self) -> bool:
        return bool(self._data.get("enabled"))

    @property
    def next_fires(self) -> tuple[datetime, ...]:
        """The next five; none while it is not enabled."""
        return tuple(fire for fire in map(time_of, self._data.get("next_fires") or ()) if fire is not None)

    def change(self, **fields: Any) -> Schedule:
        """Puts each of these fields in the place of what was there, whole."""
        self._data = self._transport.json("PATCH", self._path, json=fields, having="id")
        return self

    def run(self, key: str | None = None) -> Run:
        """Starts a run now, beside the clock. Asked for again with the same `key` within 24 hours, it is the run that was
        started first, ended or not: for a scheduler that tries again."""
        headers = {"Idempotency-Key": key} if key else None
        data = self._transport.json("POST", f"{self._path}/run", headers=headers, once=True, having="id")
        return Run(self._transport, data)

    def runs(self, limit: int | None = None) -> Iterator[Run]:
        """Its runs, newest first, page by page as they are asked for."""
        for data in each(self._transport, f"{self._path}/runs", limit=limit):
            yield Run(self._transport, data)

    def get_run(self, id: str) -> Run:
        return Run(self._transport, self._transport.json("GET", path_of("schedules", self.id, "runs", id), having="id"))

    def delete(self) -> None:
        """Removes the schedule with its runs; jobs and what the sinks hold stay."""
        self._transport.delete(self._path)

    def __repr__(self) -> str:
        return f"Schedule({self.id!r}, {self.name!r}, enabled={self.enabled})"
