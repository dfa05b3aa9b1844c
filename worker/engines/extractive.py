"""Summaries made of a document's own sentences, chosen with a sentence encoder.

Knows documents, sentences, batches and results. Must not know how sentences are embedded (`embedding`) or chosen
(`centrality`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from corpusmill.documents import Document, Result, failed, unusable
from corpusmill.errors import DocumentError, ModelFault
from corpusmill.models import ModelInfo
from corpusmill.tasks import Params, SummarizationParams
from worker.device import Device
from worker.engines.base import Usage
from worker.engines.budget import Budget
from worker.engines.centrality import Vectors, choose
from worker.engines.embedding import SentenceEncoder
from worker.engines.sizing import tokens_that_fit
from worker.models.loading import weight_bytes
from worker.models.rows import Indices, Rows, plan_rows
from worker.models.runtime import runtime_of
from worker.models.tokens import TextEncoder
from worker.segments import sentences

#: Sentences of one document that are read, hours of reading aloud. What comes after them is left out, and the result
#: says so.
MOST_SENTENCES = 4_000
#: Fewer tokens than this, without special ones, make a heading or a number and no sentence worth choosing.
_LEAST_TOKENS = 5
_OUT_OF_MEMORY = DocumentError(
    code="out_of_memory", message="A sentence of the text alone does not fit the device's memory.", retryable=True
)


@dataclass(slots=True, kw_only=True)
class Passage:
    """A document with those of its sentences that are read.

    `first` is the place of the first one among the shard's sentences; `n_segments` counts their rows, and `waiting`
    those still to be embedded.
    """

    document: Document
    sentences: list[str]
    first: int
    waiting: int
    n_tokens: int
    truncated: bool
    n_segments: int = 0
    error: DocumentError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A shard's sentences as rows, its documents, and the results of those that cannot be run.

    `chosen` are the rows to run, and `passage_of` (sentences,) gives the index of each sentence's passage, or -1.
    """

    passages: list[Passage]
    failed: list[Result]
    rows: Rows
    chosen: Indices
    passage_of: Indices
    count: int


class ExtractiveEngine:
    """A sentence encoder of `AutoModel` on a device, for extractive summarization.

    A summary is the chosen sentences in the order of the document, a line each. `prepare` may run in one thread while
    `run` holds the device in another. Raises ModelFault, when it is made, where the encoder's pooling is not known.
    """

    def __init__(
        self, model: torch.nn.Module, tokenizer: Any, info: ModelInfo, device: Device, dtype: torch.dtype
    ) -> None:
        self._info = info
        self._tokens = TextEncoder(tokenizer)
        self._encoder = SentenceEncoder(model, tokenizer, info, self._tokens)
        fitting = tokens_that_fit(self._encoder.vectors, self._encoder.probes.rows, device)
        self._budget = Budget(device, packs=self._encoder.packs, fitting=fitting)
        self.weight_bytes = weight_bytes(model)
        self.runtime: dict[str, Any] = {
            **runtime_of(self._encoder.name, model, tokenizer, info, device, dtype),
            "pooling": list(self._encoder.pooling),
            "longest_input": self._encoder.limit,
        }
        if self._encoder.fallback is not None:
            self.runtime["fallback"] = self._encoder.fallback

    def prepare(self, documents: Sequence[Document], params: Params, usage: Usage) -> Prepared:
        """Cut into sentences and tokenize. Raises ModelFault for parameters of another task or method."""
        if not isinstance(params, SummarizationParams) or params.method == "abstractive":
            raise ModelFault(
                f"{self._info.id} is a sentence encoder: it can do summarization by extraction and nothing else."
            )
        with usage.phase("tokenize"):
            errors = [unusable(document) for document in documents]
            refused = [failed(document, error) for document, error in zip(documents, errors, strict=True) if error]
            usable = [document for document, error in zip(documents, errors, strict=True) if not error]
            # A line break inside a sentence only wraps it, and in a summary it would end it.
            found = [[" ".join(one.text.split()) for one in sentences(document.text).segments] for document in usable]
            texts = self._tokens.encode([text for texts in found for text in texts])
            # A sentence above the encoder's limit becomes several rows, whose vectors are put together.
            rows = plan_rows((texts,), self._tokens.single, self._encoder.limit, params.long_documents)
            passages: list[Passage] = []
            passage_of = np.full(len(rows.n_tokens), -1)
            first = 0
            for document, own in zip(usable, found, strict=True):
                passage = self._passage(document, own, first, rows, params)
                if isinstance(passage, Passage):
                    passage_of[first : first + len(passage.sentences)] = len(passages)
                    passages.append(passage)
                else:
                    refused.append(passage)
                first += len(own)
            chosen = np.flatnonzero(passage_of[rows.owner] >= 0)
            for index, count in zip(*np.unique(passage_of[rows.owner[chosen]], return_counts=True), strict=True):
                passages[index].waiting = passages[index].n_segments = int(count)
        return Prepared(
            passages=passages, failed=refused, rows=rows, chosen=chosen, passage_of=passage_of,
            count=params.max_sentences,
        )  # fmt: skip

    def _passage(
        self, document: Document, found: list[str], first: int, rows: Rows, params: SummarizationParams
    ) -> Passage | Result:
        """A document whose sentences are those from `first` on, or its failed result."""
        own = slice(first, first + len(found))
        n_tokens = int(rows.n_tokens[own].sum())
        error = None
        if params.long_documents == "fail" and (len(found) > MOST_SENTENCES or not rows.n_segments[own].all()):
            longest = int(rows.n_tokens[own].max())
            message = (
                f"The text has {len(found)} sentences, the longest of {longest} tokens; {self._info.id} reads "
                f"{MOST_SENTENCES} sentences of {self._encoder.limit} tokens."
            )
            error = DocumentError(code="too_long", message=message)
        elif not rows.texts[0].lengths[own].any():
            message = f"The tokenizer of {self._info.id} finds nothing in the text."
            error = DocumentError(code="empty_text", message=message)
        if error is not None:
            return failed(document, error, n_tokens=n_tokens)
        return Passage(
            document=document, sentences=found[:MOST_SENTENCES], first=first, waiting=0, n_tokens=n_tokens,
            truncated=len(found) > MOST_SENTENCES or bool(rows.truncated[own].any()),
        )  # fmt: skip

    def run(self, prepared: Prepared, usage: Usage, stopped: Callable[[], bool]) -> Iterator[list[Result]]:
        """Results as documents get ready, in no order: sentences of all documents share batches."""
        if prepared.failed:
            yield prepared.failed
        rows, chosen = prepared.rows, prepared.chosen
        place = np.cumsum(prepared.passage_of >= 0) - 1
        sums: Vectors | None = None

        def embed(batch: list[int]) -> Vectors:
            with usage.phase("model"):
                return self._encoder.vectors(rows, chosen[batch])

        for batch, vectors in self._budget.batches(rows.lengths[chosen].tolist(), embed, stopped):
            owners = rows.owner[chosen[batch]]
            with usage.phase("postprocess"):
                if vectors is not None:
                    if sums is None:
                        sums = np.zeros((int((prepared.passage_of >= 0).sum()), vectors.shape[1]), np.float32)
                    np.add.at(sums, place[owners], vectors)
                    self._count(rows.lengths[chosen[batch]], usage)
                ready = []
                for index, count in zip(*np.unique(prepared.passage_of[owners], return_counts=True), strict=True):
                    passage = prepared.passages[index]
                    passage.waiting -= int(count)
                    passage.error = passage.error or (None if vectors is not None else _OUT_OF_MEMORY)
                    if not passage.waiting:
                        ready.append(passage)
                results = [self._result(passage, prepared, sums, int(place[passage.first])) for passage in ready]
            if results:
                yield results

    def _result(self, passage: Passage, prepared: Prepared, sums: Vectors | None, start: int) -> Result:
        document = passage.document
        if passage.error is not None or sums is None:
            return failed(document, passage.error or _OUT_OF_MEMORY, n_tokens=passage.n_tokens)
        count = len(passage.sentences)
        vectors = sums[start : start + count]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        tokens = prepared.rows.texts[0].lengths[passage.first : passage.first + count]
        worthy = tokens >= min(_LEAST_TOKENS, int(tokens.max()))
        picked = choose(vectors / np.maximum(lengths, 1e-9), worthy, prepared.count)
        return Result(
            position=document.position,
            document_id=document.id,
            output={"summary": "\n".join(passage.sentences[index] for index in picked)},
            n_tokens=passage.n_tokens,
            n_segments=passage.n_segments,
            truncated=passage.truncated,
        )

    def _count(self, lengths: Indices, usage: Usage) -> None:
        usage.batches += 1
        usage.tokens += int(lengths.sum())
        usage.padded_tokens += self._encoder.tokens(lengths)
