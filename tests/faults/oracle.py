"""What is right, whatever happened: computed from the documents alone, and one undisturbed run's metrics.

Knows the echo model's rule. Sees the database with plain SQL.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

Documents = Sequence[Mapping[str, Any]]

#: Figures of speed and effort, which must differ.
_EFFORT = ("documents_per_second", "tokens_per_second", "padding_share", "slot_occupancy", "device_busy_share")


def documents(count: int, words: str = "") -> list[dict[str, Any]]:
    """Texts with their references; `words` makes a corpus of its own."""
    return [{"id": f"d{k}", "text": f"{words}The text of document {k}.", "reference": str(k % 4)} for k in range(count)]


def expected(one: Mapping[str, Any]) -> dict[str, Any]:
    """The echo model's output for a document."""
    label = str(crc32(one["text"].encode()) % 4)
    return {"label": label, "score": 1.0, "scores": {label: 1.0}}


def digest(outputs: Iterable[tuple[int, Any]]) -> str:
    """SHA-256 over (position, output), sorted."""
    found = hashlib.sha256()
    for position, output in sorted(outputs):
        found.update(f"{position} {json.dumps(output, sort_keys=True)}\n".encode())
    return found.hexdigest()


def timeless(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The metrics that must not depend on what happened."""
    return {
        name: dict(metric) for name, metric in metrics.items() if name not in _EFFORT and not name.startswith("seconds/")
    }  # fmt: skip


def covering(metrics: Mapping[str, Mapping[str, Any]], share: float = 1.0) -> dict[str, Any]:
    """The metrics with their coverage times a share, to six digits."""
    return {name: {**one, "coverage": round(one["coverage"] * share, 6)} for name, one in metrics.items()}


def loaded(value: Any) -> Any:
    """A JSON column as either database gives it to plain SQL."""
    return json.loads(value) if isinstance(value, str) else value
