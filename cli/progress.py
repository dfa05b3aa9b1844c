"""Progress bars on stderr: bytes of an upload or export, documents of jobs.

Knows rich and terminals; without a terminal nothing is shown. Must not ask a server anything: callers tell.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cli.output import cell, console, span

if TYPE_CHECKING:
    from corpusmill_client import Job

#: Seconds before a transfer shows its bar: shorter ones need none.
PATIENCE = 0.5


class Bars:
    """Bars on one display; without a terminal every method does nothing."""

    def __init__(self) -> None:
        self._display: Any = None
        self._bars: dict[str, Any] = {}
        self._since = time.monotonic()
        if sys.stderr.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            text = ("{task.description}", "{task.fields[amount]}", "{task.fields[pace]}")
            columns = [TextColumn(each, markup=False) for each in text]
            self._display = Progress(
                columns[0], BarColumn(), *columns[1:], console=console(stderr=True), transient=True
            )

    def bytes(self, label: str, done: int, total: int | None) -> None:
        """Bytes sent or received so far."""
        waited = time.monotonic() - self._since
        if self._display is None or (label not in self._bars and waited < PATIENCE):
            return
        pace = f"{size(done / max(waited, 0.001))}/s"
        amount = f"{size(done)} of {size(total)}" if total else size(done)
        if total and done:
            pace += f", {span(waited * (total - done) / done)} left"
        self._show(label, done, total, amount, pace)

    def job(self, job: Job, label: str | None = None) -> None:
        """A job's documents as it now stands."""
        if self._display is None:
            return
        counts = job.counts
        amount = f"{counts.ended:,} of {counts.total:,}" if counts.total else ""
        self._show(label or job.name or job.id, counts.ended, counts.total or None, amount, pace_of(job))

    def close(self) -> None:
        if self._display is not None:
            self._display.stop()

    def _show(self, label: str, done: int, total: int | None, amount: str, pace: str) -> None:
        if label not in self._bars:
            self._display.start()
            self._bars[label] = self._display.add_task(cell(label), total=total, amount=amount, pace=pace)
        self._display.update(self._bars[label], completed=done, total=total, amount=amount, pace=pace)


@contextmanager
def bars() -> Iterator[Bars]:
    """Bars that are taken off the screen at the end."""
    shown = Bars()
    try:
        yield shown
    finally:
        shown.close()


def pace_of(job: Job) -> str:
    """What is worth saying of a job on its way: its rate and time left, or why there are none."""
    if job.trouble:
        return "the server does not answer, trying again"
    if job.status == "queued" and job.queue_position:
        return f"queued, number {job.queue_position}"
    if job.status != "running":
        return job.status.replace("_", " ")
    rate = f"{job.documents_per_second:,.1f} documents/s" if job.documents_per_second else "running"
    return f"{rate}, {span(job.eta_seconds)} left" if job.eta_seconds is not None else rate


def size(count: float) -> str:
    """A number of bytes for people: `640 B`, `1.5 MB`, `2.0 GB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
