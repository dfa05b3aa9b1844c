"""`corpusmill schedule tick`: slots fired and runs gone on with in this process, by the operator's hand.

Knows the runner and what a run's outcome is called. Must not know what a run does.
"""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from corpusmill import logs
from corpusmill.settings import settings_from
from db import runs
from db.engine import create_engine, now, reading
from db.runs import Run
from pipeline.parts import real_parts
from pipeline.running import Runner
from pipeline.ticking import tick


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A run as it stood when the tick was over."""

    run: str
    schedule: str
    fire_time: float
    status: str
    new_documents: int
    reused_documents: int
    failed_documents: int
    broken: tuple[str, ...]
    error: str | None

    @property
    def exit_code(self) -> int:
        """0: well, or left to others; 1: failed, not all of it done, or a rule broken; 3: documents failed."""
        if self.status in {"failed", "cancelled"} or self.broken or (self.status == "succeeded" and self.error):
            return 1
        return 3 if self.failed_documents else 0

    @property
    def sentence(self) -> str:
        """For people: what became of it."""
        said = f"{self.schedule} {self.run} {self.status}: {self.new_documents:,} new, {self.reused_documents:,} reused"
        failed = f", {self.failed_documents:,} failed" if self.failed_documents else ""
        why = "".join(f"; {each}" for each in (*self.broken, *((self.error,) if self.error else ())))
        return f"{said}{failed}{why}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"exit_code": self.exit_code}


def tick_and_wait(at: float | None, data: Path | None, *, wait: bool) -> list[Outcome]:
    """Fire what has come by a clock, and go on with every run up to it that has not ended, whoever fired it."""
    settings = settings_from(os.environ, data_dir=data)
    settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
    logs.configure(settings)  # to stderr: what is asked for comes on stdout
    database = create_engine(settings.database)
    runner = Runner(settings=settings, database=database, parts=real_parts())
    signal.signal(signal.SIGTERM, lambda *_: runner.stopping.set())
    try:
        fired = tick(database, at=at)
        until = now(database) if at is None else at
        with reading(database) as connection:
            waited = list(dict.fromkeys([*fired, *runs.unfinished(connection, until=until)]))
        if wait:
            runner.wait(waited)
        with reading(database) as connection:
            return [_outcome(runs.get(connection, run_id)) for run_id in waited]
    finally:
        database.dispose()


def _outcome(run: Run) -> Outcome:
    counts = run.counts.get("documents", {})
    return Outcome(
        run=run.id,
        schedule=run.definition.name,
        fire_time=run.fire_time,
        status=run.status,
        new_documents=sum(counts.get(name, 0) for name in ("new", "changed", "relabelled")),
        reused_documents=counts.get("reused", 0),
        failed_documents=counts.get("failed", 0),
        broken=tuple((run.report or {}).get("broken", ())),
        error=(run.error or {}).get("message"),
    )
