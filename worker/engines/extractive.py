"""Extractive summarization: the sentences of a document that stand nearest to its middle, without saying a thing twice.

Knows sentences, their embeddings and how to choose among them. Must not know shards, tokenizers' quirks or generation.

A sentence's centrality is its mean cosine similarity to all sentences of the document (the degree of LexRank without a
threshold: Erkan & Radev 2004, doi:10.1613/jair.1523), which for unit vectors is a product with their mean, so that the cost
grows with the sentences and not with their square. Sentences are taken one by one by maximal marginal relevance (Carbonell &
Goldstein 1998, doi:10.1145/290941.291025): centrality less the similarity to what was taken already.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from corpusmill.documents import Document, Result, failed, unusable
from corpusmill.errors import DocumentError, ModelFault
from corpusmill.models import ModelInfo
from corpusmill.tasks import Params, SummarizationParams
from worker.device import Device
from worker.engines.base import Usage
from worker.engines.budget import Budget
from worker.engines.sources import SourceEncoder
from worker.models.limits import longest_input
from worker.models.loading import weight_bytes
from worker.models.runtime import runtime_of
from worker.segments import Cut, sentences

Vectors = npt.NDArray[np.float32]

#: Weight of centrality against redundancy. 0.7 is customary for summaries of one document.
RELEVANCE = 0.7
#: A sentence's centrality counts this much more at the beginning of a document than at its end: authors begin with what
#: matters.
LEAD_BONUS = 0.15
#: Tokens of a piece where the encoder knows no limit.
_USUAL_LIMIT = 512


@dataclass(frozen=True, slots=True)
class _Piece:
    """Up to a model's limit of one sentence's tokens. `sentence` counts over all documents."""

    sentence: int
    ids: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The sentences of the usable documents, tokenized; `first` is each document's first sentence among them."""

    documents: list[Document]
    cuts: list[Cut]
    first: list[int]
    pieces: list[_Piece]
    tokens: list[int]
    failed: list[Result]
    max_sentences: int


class ExtractiveEngine:
    """A sentence encoder (`AutoModel`) on a device, for summarization by choosing sentences."""

    def __init__(
        self, model: torch.nn.Module, tokenizer: Any, info: ModelInfo, device: Device, dtype: torch.dtype
    ) -> None:
        self._model = model
        self._encoder = SourceEncoder(tokenizer)
        self._device = device
        self._budget = Budget(device)
        self._pad = tokenizer.pad_token_id or 0
        self._limit = (longest_input(model, tokenizer) or _USUAL_LIMIT) - len(self._encoder.frame)
        self._pooling = _pooling(info)
        self._width = int(cast(Any, model).config.hidden_size)
        self.weight_bytes = weight_bytes(model)
        self.runtime: dict[str, Any] = {
            **runtime_of("extractive", model, tokenizer, info, device, dtype),
            "pooling": self._pooling,
            "relevance": RELEVANCE,
            "lead_bonus": LEAD_BONUS,
        }

    def prepare(self, documents: Sequence[Document], params: Params, usage: Usage) -> Prepared:
        """Cut into sentences and tokenize them. Raises ModelFault for another task than extractive summarization."""
        if not isinstance(params, SummarizationParams):
            raise ModelFault("A sentence encoder chooses sentences for summaries; it cannot do another task.")
        with usage.phase("tokenize"):
            refused = {document.position: error for document in documents if (error := unusable(document))}
            usable = [document for document in documents if document.position not in refused]
            cuts = [sentences(document.text) for document in usable]
            first = np.cumsum([0, *(len(cut.segments) for cut in cuts)]).tolist()
            texts = [segment.text for cut in cuts for segment in cut.segments]
            pieces: list[_Piece] = []
            tokens: list[int] = []
            for index, ids in enumerate(self._encoder.encode(texts)):
                tokens.append(len(ids))
                starts = range(0, max(1, len(ids)), self._limit)
                pieces += [_Piece(index, self._encoder.frame.around(ids[k : k + self._limit])) for k in starts]
        return Prepared(
            documents=usable, cuts=cuts, first=first, pieces=pieces, tokens=tokens, max_sentences=params.max_sentences,
            failed=[failed(document, refused[document.position]) for document in documents if document.position in refused],
        )  # fmt: skip

    def run(self, prepared: Prepared, usage: Usage, stopped: Callable[[], bool]) -> Iterator[list[Result]]:
        """Results once all sentences are embedded: batches are cut across documents, by length."""
        if prepared.failed:
            yield prepared.failed
        vectors = np.zeros((len(prepared.tokens), self._width), dtype=np.float32)
        lost: set[int] = set()
        done = 0
        lengths = [len(piece.ids) for piece in prepared.pieces]

        def embed(batch: list[int]) -> Vectors:
            with usage.phase("model"):
                return self._embed([prepared.pieces[index].ids for index in batch])

        for batch, output in self._budget.batches(lengths, embed, stopped):
            done += len(batch)
            for row, index in enumerate(batch):
                piece = prepared.pieces[index]
                if output is None:
                    lost.add(piece.sentence)
                else:
                    vectors[piece.sentence] += output[row] * len(piece.ids)
            usage.batches += 1
            usage.tokens += sum(lengths[index] for index in batch)
            usage.padded_tokens += max(lengths[index] for index in batch) * len(batch)
        if done < len(prepared.pieces):
            return
        with usage.phase("postprocess"):
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors /= np.where(norms > 0, norms, 1.0)
            results = [self._result(prepared, index, vectors, lost) for index in range(len(prepared.documents))]
        yield results

    def _result(self, prepared: Prepared, index: int, vectors: Vectors, lost: set[int]) -> Result:
        document, (start, stop) = prepared.documents[index], prepared.first[index : index + 2]
        if any(sentence in lost for sentence in range(start, stop)):
            error = DocumentError(code="out_of_memory", message="A sentence of it alone does not fit the device.")
            return failed(document, error, n_tokens=sum(prepared.tokens[start:stop]))
        chosen = choose_sentences(vectors[start:stop], prepared.max_sentences)
        segments = prepared.cuts[index].segments
        return Result(
            position=document.position,
            document_id=document.id,
            output={"summary": "\n".join(segments[sentence].text for sentence in chosen), "sentences": chosen},
            n_tokens=sum(prepared.tokens[start:stop]),
            n_segments=stop - start,
        )

    def _embed(self, rows: list[list[int]]) -> Vectors:
        """Unit vectors of shape (rows, hidden size)."""
        width = max(map(len, rows))
        ids = np.full((len(rows), width), self._pad, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        device = self._device.torch_device
        with torch.inference_mode():
            attention = torch.from_numpy(mask).to(device)
            hidden = self._model(input_ids=torch.from_numpy(ids).to(device), attention_mask=attention).last_hidden_state
            if self._pooling == "cls":
                pooled = hidden[:, 0]
            else:
                weights = attention.unsqueeze(-1).to(hidden.dtype)
                pooled = (hidden * weights).sum(1) / weights.sum(1)
            found: Vectors = torch.nn.functional.normalize(pooled.float(), dim=-1).cpu().numpy()
        return found


def choose_sentences(vectors: Vectors, most: int) -> list[int]:
    """Indices of up to `most` sentences, in the document's order, given their unit vectors of shape (sentences, width)."""
    count = len(vectors)
    if count <= most:
        return list(range(count))
    position = 1.0 + LEAD_BONUS * (1.0 - np.arange(count) / (count - 1))
    centrality = (vectors @ vectors.mean(axis=0)) * position
    redundancy = np.zeros(count, dtype=np.float32)
    chosen: list[int] = []
    for _ in range(most):
        score = RELEVANCE * centrality - (1 - RELEVANCE) * redundancy
        score[chosen] = -np.inf
        best = int(np.argmax(score))
        chosen.append(best)
        redundancy = np.maximum(redundancy, vectors @ vectors[best])
    return sorted(chosen)


def _pooling(info: ModelInfo) -> str:
    """How the encoder was trained to be pooled, as sentence-transformers states it: `cls`, or the mean otherwise."""
    stated = Path(info.path or "") / "1_Pooling" / "config.json"
    if not info.path or not stated.is_file():
        return "mean"
    return "cls" if json.loads(stated.read_text(encoding="utf-8")).get("pooling_mode_cls_token") else "mean"
