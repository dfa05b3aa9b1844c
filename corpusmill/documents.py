"""Documents, what a model says of them, and what makes a line unusable.

Knows the shape of one document and one result. Must not know formats, files or models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from corpusmill.errors import DocumentError

Reference = str | list[str]
#: In this field whoever writes an upload says of a document that it was too long to be taken along, and how long it was.
TOO_LONG_FIELD = "corpusmill too long"
ResultStatus = Literal["succeeded", "failed"]
IngestErrorCode = Literal["invalid_json", "missing_field", "wrong_type", "bad_encoding", "too_long"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text of a corpus.

    `position` counts from 0 within the corpus. `id` is the caller's own (or the position as text) and need not be
    unique. `reference` is the gold label, list of labels, reference text, or list of reference texts. `fields` holds the
    document's other fields, kept for exports.
    """

    position: int
    id: str
    text: str
    text_pair: str | None = None
    reference: Reference | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a model says of one document of one job, or why it could not.

    Exactly one of `output` and `error` is set, as `status` says. `n_tokens` counts the document's own tokens with the
    special ones, over all its segments and before any cut; `truncated` says that a cut was made.
    """

    position: int
    document_id: str
    output: Mapping[str, Any] | None = None
    error: DocumentError | None = None
    n_tokens: int = 0
    n_segments: int = 1
    truncated: bool = False

    @property
    def status(self) -> ResultStatus:
        return "failed" if self.error else "succeeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestError:
    """A line of an upload that is no document. `line` counts from 1 (in Parquet: the row; in a ZIP: within the member),
    `column` is the field's name, or the character where JSON went wrong."""

    line: int
    column: str | None = None
    code: IngestErrorCode
    message: str


def unusable(document: Document) -> DocumentError | None:
    """Why a document's text cannot be given to any model, if so."""
    if (said := document.fields.get(TOO_LONG_FIELD)) is not None:
        return DocumentError(code="too_long", message=str(said))
    if not document.text.strip():
        return DocumentError(code="empty_text", message="The text is empty or white space only.")
    return None


def failed(document: Document, error: DocumentError, *, n_tokens: int = 0) -> Result:
    """The failed result of a document."""
    return Result(position=document.position, document_id=document.id, error=error, n_tokens=n_tokens, n_segments=0)
