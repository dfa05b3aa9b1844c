"""JSON shapes of the contract, as pure functions of rows.

Knows names and formats of fields. Must not know requests or the database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from corpusmill.documents import Document
from corpusmill.models import ModelInfo
from corpusmill.status import ENDED, Status, progress_of
from corpusmill.times import rfc3339
from db.corpora import Corpus
from db.jobs import Job
from db.references import Version
from db.results import ResultRow
from db.runs import Run
from db.schedules import Schedule
from db.workers import Worker
from evaluation import Report

T = TypeVar("T")


def corpus_view(corpus: Corpus) -> dict[str, Any]:
    """A corpus as the contract has it."""
    return {
        "id": corpus.id, "name": corpus.name, "status": corpus.status, "format": corpus.format, "bytes": corpus.bytes,
        "sha256": corpus.sha256, "documents": corpus.documents, "invalid": corpus.invalid, "fields": corpus.fields,
        "error": corpus.error, "created_at": rfc3339(corpus.created_at), "expires_at": rfc3339(corpus.expires_at),
        "references_version": corpus.references_version,
    }  # fmt: skip


def version_view(corpus_id: str, version: Version) -> dict[str, Any]:
    """A version of a corpus's references; `documents` is how many have one."""
    return {
        "corpus": corpus_id, "version": version.version, "documents": version.documents, "sha256": version.sha256,
        "created_at": rfc3339(version.created_at),
    }  # fmt: skip


def document_view(document: Document) -> dict[str, Any]:
    """A document of a corpus, with its other fields under `fields`."""
    view: dict[str, Any] = {"id": document.id, "position": document.position, "text": document.text}
    if document.text_pair is not None:
        view["text_pair"] = document.text_pair
    return view | {"reference": document.reference, "fields": dict(document.fields)}


def job_view(job: Job, *, queue_position: int | None = None, references_version: int = 0) -> dict[str, Any]:
    """A job as the contract has it; `references_version` is of its metrics."""
    counts = job.counts
    total = counts.total if counts else 0
    done = total - counts.pending if counts else 0
    rate = done / job.seconds if job.seconds and done else None
    running = job.status is Status.RUNNING
    return {
        "id": job.id, "name": job.name, "task": job.task,
        "model": {"id": job.model.id, "revision": job.model.revision},
        "corpus": job.corpus_id, "corpus_invalid": job.corpus_invalid, "params": dict(job.params),
        "priority": job.priority, "status": job.status,
        "counts": {
            "total": total,
            "succeeded": counts.succeeded if counts else 0,
            "failed": counts.failed if counts else 0,
            "cancelled": counts.cancelled if counts else 0,
            "pending": counts.pending if counts else 0,
        },
        "reuse": job.reuse, "reused": job.reused,
        "progress": 1.0 if job.status in ENDED and total == 0 else progress_of(counts),
        "documents_per_second": round(rate, 3) if rate else None,
        "eta_seconds": round((total - done) / rate, 1) if running and rate else None,
        "queue_position": queue_position,
        "created_at": rfc3339(job.created_at), "started_at": rfc3339(job.started_at),
        "finished_at": rfc3339(job.finished_at), "expires_at": rfc3339(job.expires_at),
        "error": job.error, "runtime": job.runtime, "metadata": dict(job.metadata),
        "references_version": references_version,
    }  # fmt: skip


#: Fields that change with the clock alone: a job has not changed because they have.
_CLOCKED = ("documents_per_second", "eta_seconds", "queue_position")


def etag_of(view: Mapping[str, Any]) -> str:
    """A tag that changes when the job does."""
    kept = {name: value for name, value in view.items() if name not in _CLOCKED}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:32]


def result_view(row: ResultRow) -> dict[str, Any]:
    """A result as the contract has it."""
    return {
        "id": row.document_id, "position": row.position, "status": row.status, "output": row.output,
        "n_tokens": row.n_tokens, "n_segments": row.n_segments, "truncated": row.truncated, "error": row.error,
    }  # fmt: skip


def missing_view(position: int, document_id: str, state: str, error: Mapping[str, Any] | None) -> dict[str, Any]:
    """What stands for a document that has no row: cancelled before it was run, or failed with its whole job."""
    why = {"code": "internal", "message": (error or {}).get("message", ""), "retryable": True}
    return {
        "id": document_id, "position": position, "status": state, "output": None, "n_tokens": 0, "n_segments": 0,
        "truncated": False, "error": why if state == "failed" else None,
    }  # fmt: skip


def report_view(report: Report, *, references_version: int) -> dict[str, Any]:
    """Metrics as the contract has them, and the version of the references that they are of."""
    matrix = report.confusion_matrix
    return {
        "metrics": [asdict(metric) for metric in report.metrics],
        "confusion_matrix": {"labels": list(matrix.labels), "counts": [list(row) for row in matrix.counts]}
        if matrix
        else None,
        "references_version": references_version,
    }


def model_view(info: ModelInfo, loaded_on: list[str]) -> dict[str, Any]:
    """A model as the contract has it."""
    return {
        "id": info.id, "revision": info.revision, "tasks": list(info.tasks), "labels": list(info.labels),
        "source_langs": list(info.source_langs), "target_langs": list(info.target_langs), "loaded_on": loaded_on,
    }  # fmt: skip


def worker_view(worker: Worker) -> dict[str, Any]:
    """A worker as it was last seen."""
    job, start, stop = worker.shard or (None, None, None)
    return {
        "id": worker.id, "hostname": worker.hostname, "device": worker.device, "models": list(worker.models),
        "memory": dict(worker.memory), "shard": {"job": job, "start": start, "stop": stop} if worker.shard else None,
        "started_at": rfc3339(worker.started_at), "seen_at": rfc3339(worker.seen_at),
    }  # fmt: skip


def page_view(rows: list[dict[str, Any]], next_cursor: str | None) -> dict[str, Any]:
    """A page of a list."""
    return {"data": rows, "next_cursor": next_cursor}


def keyset_view(
    found: Sequence[T], limit: int, view: Callable[[T], dict[str, Any]], key: Callable[[T], int]
) -> dict[str, Any]:
    """A page of `limit` rows out of `found`, for which one more was read: only where there is such a row does the page have
    a cursor, the key of its last row."""
    shown = found[:limit]
    return page_view([view(one) for one in shown], str(key(shown[-1])) if len(found) > limit else None)


def schedule_view(schedule: Schedule, next_fires: list[float]) -> dict[str, Any]:
    """A schedule as the contract has it."""
    return {
        "id": schedule.id, **schedule.definition.model_dump(mode="json"), "revision": schedule.revision,
        "next_fires": [rfc3339(fire) for fire in next_fires],
        "created_at": rfc3339(schedule.created_at), "updated_at": rfc3339(schedule.updated_at),
    }  # fmt: skip


def run_view(run: Run) -> dict[str, Any]:
    """A run as the contract has it."""
    return {
        "id": run.id, "schedule": run.schedule_id, "fire_time": rfc3339(run.fire_time), "trigger": run.trigger,
        "status": run.status, "stage": run.stage, "job": run.job_id, "corpus": run.corpus_id,
        "new_documents": run.new_documents, "reused_documents": run.reused_documents,
        "failed_documents": run.failed_documents, "counts": dict(run.counts.get("documents", {})),
        "report": run.report, "error": run.error, "created_at": rfc3339(run.created_at),
        "started_at": rfc3339(run.started_at), "finished_at": rfc3339(run.finished_at),
    }  # fmt: skip
