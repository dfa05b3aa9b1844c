"""The last stage: the facts of a night become its report.

Knows where a run keeps what it counted. Must not know a formula: `pipeline.report` does.
"""

from __future__ import annotations

from db.runs import Run
from pipeline.report import Audit, Distribution, Facts


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
    )
