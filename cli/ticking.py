"""`corpusmill schedule tick`: slots fired and runs gone on with in this process, by the operator's hand.

Knows the runner and how a run's outcome is said. Must not know what a run does.
"""

from __future__ import annotations

import os
import signal
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


def sentence_of(run: Run) -> str:
    """For people: what became of a run."""
    said = f"{run.definition.name} {run.id} {run.status}: {run.new_documents:,} new, {run.reused_documents:,} reused"
    failed = f", {run.failed_documents:,} failed" if run.failed_documents else ""
    error = _error(run)
    why = "".join(f"; {each}" for each in (*run.broken, *((error,) if error else ())))
    return f"{said}{failed}{why}"


def view_of(run: Run) -> dict[str, Any]:
    """For JSON; `fire_time` is in seconds since 1970."""
    return {
        "run": run.id, "schedule": run.definition.name, "fire_time": run.fire_time, "status": run.status,
        "new_documents": run.new_documents, "reused_documents": run.reused_documents,
        "failed_documents": run.failed_documents, "broken": run.broken, "error": _error(run), "exit_code": run.exit_code,
    }  # fmt: skip


def _error(run: Run) -> str | None:
    return (run.error or {}).get("message")


def tick_and_wait(at: float | None, data: Path | None, *, wait: bool) -> list[Run]:
    """Fire what has come by a clock, and go on with every run up to it that has not ended, whoever fired it. Returns
    these runs as they stand when that is over."""
    settings = settings_from(os.environ, data_dir=data)
    settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
    logs.configure(settings)  # to stderr: what is asked for comes on stdout
    database = create_engine(settings.database)
    runner = Runner(settings=settings, database=database, parts=real_parts())
    signal.signal(signal.SIGTERM, lambda *_: runner.stopping.set())
    try:
        fired = tick(database, at=at, by_hand=True)
        until = now(database) if at is None else at
        with reading(database) as connection:
            waited = list(dict.fromkeys([*fired, *runs.unfinished(connection, until=until)]))
        if wait:
            runner.wait(waited)
        with reading(database) as connection:
            return [runs.get(connection, run_id) for run_id in waited]
    finally:
        database.dispose()
