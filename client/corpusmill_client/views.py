"""Plain shapes of what the server says: counts, results, metrics, models.

Knows the JSON of the HTTP contract. Must not know how it travels. Fields that a newer server adds are left aside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How a job's documents stand; the parts add up to `total`."""

    total: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    pending: int = 0

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed + self.cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the model says of one document, or why it could not.

    `output` by task: classification `label`, `score`, `scores`; summarization `summary`; translation `translation`.
    `error` has `code`, `message` and `retryable`. Exactly one of them is there unless the document was cancelled.
    """

    id: str
    position: int
    status: str
    output: Mapping[str, Any] | None = None
    n_tokens: int = 0
    n_segments: int = 0
    truncated: bool = False
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestError:
    """A line of an upload that is no document."""

    line: int
    column: str | int | None = None
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One evaluation figure over `n` documents with its 95 % interval; `coverage` is their share of all."""

    name: str
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = 0
    coverage: float | None = None
    signature: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """A job's metrics in the server's order; `metrics["accuracy"].value` finds one by name.

    `confusion_matrix` has `labels` and `counts` (rows: references, columns: outputs), or is None. `references_version`
    says which version of the corpus's references they are of, 0 being those that were uploaded. `data` is the answer
    whole.
    """

    metrics: tuple[Metric, ...]
    confusion_matrix: Mapping[str, Any] | None = None
    references_version: int = 0
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> Metric:
        found = self.get(name)
        if found is None:
            raise KeyError(f"{name}; there are {', '.join(metric.name for metric in self.metrics) or 'no metrics'}")
        return found

    def get(self, name: str) -> Metric | None:
        return next((metric for metric in self.metrics if metric.name == name), None)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __iter__(self) -> Iterator[Metric]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """A version of the references that were attached to a corpus; `documents` of it have one."""

    corpus: str
    version: int
    documents: int
    sha256: str | None = None
    created_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that the server can run."""

    id: str
    revision: str | None = None
    tasks: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    source_langs: tuple[str, ...] = ()
    target_langs: tuple[str, ...] = ()
    loaded_on: tuple[str, ...] = ()


def shaped(shape: type[T], data: Mapping[str, Any]) -> T:
    """`data` as the dataclass `shape`: unknown fields are left aside, lists become tuples."""
    known = {each.name for each in fields(shape)}  # type: ignore[arg-type]
    return shape(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in data.items() if name in known}
    )


def metrics_of(data: Mapping[str, Any]) -> Metrics:
    """The metrics in an answer of `GET …/metrics`."""
    return Metrics(
        metrics=tuple(shaped(Metric, item) for item in data.get("metrics") or ()),
        confusion_matrix=data.get("confusion_matrix"),
        references_version=int(data.get("references_version") or 0),
        data=data,
    )


def time_of(value: str | None) -> datetime | None:
    """An RFC 3339 time."""
    return datetime.fromisoformat(value) if value else None


def sentence_of(error: Any) -> str | None:
    """A job's or document's error as one sentence, whether the server gives a text or an object."""
    if isinstance(error, Mapping):
        return str(error.get("message") or error.get("detail") or error.get("code") or dict(error))
    return None if error is None else str(error)
