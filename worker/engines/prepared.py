"""A shard as the sequence-to-sequence engine's two ways of decoding take it.

Knows drafts and generation settings. Must not know how either is made or run.
"""

from __future__ import annotations

from dataclasses import dataclass

from corpusmill.documents import Result
from corpusmill.errors import DocumentError
from worker.engines.drafts import Draft, Drafter
from worker.engines.generation import Settings

OUT_OF_MEMORY = DocumentError(
    code="out_of_memory", message="The text alone, with its output, does not fit the device's memory.", retryable=True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A shard's documents, tokenized and cut, those that cannot be run, and what holds for all."""

    drafter: Drafter
    drafts: list[Draft]
    failed: list[Result]
    settings: Settings
