"""The columns that every sink has, and a delivered document in them.

Knows names and their order. Must not know databases or files.
"""

from __future__ import annotations

from typing import Any

from db.external import Column
from pipeline.sinks import Delivered

#: The first is the key. `labelled_at` is in seconds since 1970; `error` is the code of why there is no output.
COLUMNS = (
    Column("document_id", "text"),
    Column("status", "text"),
    Column("label", "text"),
    Column("score", "number"),
    Column("output", "json"),
    Column("error", "text"),
    Column("model", "text"),
    Column("model_revision", "text"),
    Column("run", "text"),
    Column("labelled_at", "time"),
)


def row_of(row: Delivered) -> dict[str, Any]:
    """The values by the columns' names."""
    return {
        "document_id": row.document_id, "status": row.status, "label": row.label, "score": row.score,
        "output": None if row.output is None else dict(row.output),
        "error": str(row.error.get("code", "internal")) if row.error else None, "model": row.model_id,
        "model_revision": row.model_revision, "run": row.run_id, "labelled_at": row.labelled_at,
    }  # fmt: skip


def gone_row(document_id: str, run: str) -> dict[str, Any]:
    """The row of a document that is gone, where rows cannot be taken out."""
    return dict.fromkeys((column.name for column in COLUMNS), None) | {
        "document_id": document_id, "status": "gone", "run": run,
    }  # fmt: skip
