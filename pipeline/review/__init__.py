"""What people look at: which documents are doubtful, who is asked, and what they say.

Knows the shapes that pass between a run and the tools people label with. Must not know SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from corpusmill.places import Places
from corpusmill.schedules import Review
from pipeline.sinks import Delivered

Why = Literal["threshold", "margin", "entropy", "audit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A document that a person is to look at, and the first rule that sent it."""

    row: Delivered
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """A document that is where people look; `remote_id` is what it is called there, where it has a name."""

    document_id: str
    model_revision: str
    why: Why
    remote_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a person says of a document. `at` is in seconds since 1970; `remote` says where, with `id` as when it was pushed:
    a document whose text has changed since is another one there."""

    document_id: str
    model_revision: str
    label: Any
    at: float
    remote: Mapping[str, Any] | None = None


class Reviewers(Protocol):
    """Where people look, opened for one run. Raises PlaceUnavailable (again later) or PlaceFault (a person must mend it)."""

    def push(self, chosen: Iterable[Chosen]) -> Iterator[Pushed]:
        """Put documents there, in batches; idempotent by document and model revision: what is there already is given
        back as if it had been put there now."""

    def pull(self) -> Iterator[Answer]:
        """What has been answered there, by whomever; answers that were given before come again."""


class OpenReviewers(Protocol):
    """How a definition becomes the place where people look: `open_reviewers` is one; `run` and `date` as for a sink."""

    def __call__(self, definition: Review, places: Places, *, run: str, date: str) -> Reviewers: ...


def open_reviewers(definition: Review, places: Places, *, run: str, date: str) -> Reviewers:
    """Where a review's documents go. Raises InvalidRequest for a place that is not configured, and a path out of one."""
    from pipeline.places import inside
    from pipeline.review.argilla import Argilla
    from pipeline.review.files import ReviewedFile
    from pipeline.review.label_studio import LabelStudio

    target = definition.to
    if target.type == "label_studio":
        return LabelStudio(places.label_studio_of(target.place), target)
    if target.type == "argilla":
        return Argilla(places.argilla_of(target.place), target)
    named = target.path.replace("{date}", date).replace("{run}", run)
    return ReviewedFile(inside(places.folder(target.place), named), target)
