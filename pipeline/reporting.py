"""The last stage: the facts of a night become its report, which is kept, and written where people look in the morning.

Knows where a run keeps what it counted, and files. Must not know a formula: `pipeline.report` does.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from corpusmill.schedules import ReportDefinition, ReportFiles
from db import runs
from db.engine import reading
from db.runs import Run
from pipeline.places import aside, inside, load_places
from pipeline.report import Audit, Distribution, Facts, broken, report_of
from pipeline.report_text import markdown
from pipeline.work import Step, Work


def report(work: Work, audit: Audit | None) -> Step:
    """Make the report, keep it, write its files, and end the run with it. Done twice, it writes the same files."""
    definition = work.run.definition.report or ReportDefinition()
    with reading(work.database) as connection:
        earlier = runs.before(connection, work.run, definition.looked_at)
    made = report_of(facts_of(work.run, audit), [facts_of(run, audit_of(run)) for run in earlier], definition)
    alarms = broken(made, definition.fail_if)
    kept: dict[str, Any] = {**made.body, "figures": dict(made.figures), "broken": alarms}
    counts = work.counted(audit=None if audit is None else {"answered": audit.answered, "agreed": audit.agreed})
    values = {"report": kept, "counts": counts, "error": counts.get("review_failed")}
    # first, so that a folder that cannot be written costs the files alone
    work.write(lambda connection: runs.advance(connection, work.held, **values))
    if definition.to is not None:
        path = _path(work, definition.to)
        _put(path.with_name(path.name + ".json"), json.dumps(kept, ensure_ascii=False, indent=2) + "\n")
        _put(path.with_name(path.name + ".md"), markdown(made, alarms))
    return Step(end="succeeded", values=values)


def facts_of(run: Run, audit: Audit | None = None) -> Facts:
    """What a run has counted, as its report begins with it."""
    counts = run.counts
    distribution = counts.get("distribution", {})
    model = counts.get("model", {})
    return Facts(
        schedule=run.definition.name,
        run=run.id,
        fire_time=run.fire_time,
        started_at=run.started_at or run.created_at,
        finished_at=run.finished_at or run.now,
        model_id=model.get("id"),
        model_revision=model.get("revision"),
        counts=counts.get("documents", {}),
        failures=counts.get("failures", {}),
        seconds=counts.get("seconds", {}),
        distribution=Distribution(labels=distribution.get("labels", {}), scores=distribution.get("scores", ())),
        audit=audit,
        review_failed="review_failed" in counts,
    )


def audit_of(run: Run) -> Audit | None:
    """What people had said of a run's model when its report was made."""
    kept = run.counts.get("audit")
    return None if kept is None else Audit(answered=kept["answered"], agreed=kept["agreed"])


def _path(work: Work, files: ReportFiles) -> Path:
    named = files.path.replace("{date}", work.date).replace("{run}", work.run.id)
    return inside(load_places(work.settings).folder(files.place), named)


def _put(path: Path, text: str) -> None:
    """A file whole or as it was before: written aside, on the disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = aside(path)
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
