"""Sequence classification: texts, or pairs of texts, in; labels with scores out.

Knows how a shard is tokenized, run and answered. Must not know shards' leases or the database. Whatever the batching,
the scores are those of the plain forward of one text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from corpusmill.documents import Document, Result, failed, unusable
from corpusmill.errors import DocumentError, ModelFault
from corpusmill.models import ModelInfo
from corpusmill.tasks import ClassificationParams, Params
from worker.device import Device, is_device_lost, is_out_of_memory
from worker.engines.base import Usage
from worker.engines.budget import Budget
from worker.engines.packed import forward_for
from worker.engines.scores import Activation, Scores, SegmentScores, activated, best_labels
from worker.engines.sizing import tokens_that_fit
from worker.engines.trial import MODEL_ERRORS
from worker.models.limits import longest_input
from worker.models.loading import weight_bytes
from worker.models.rows import Indices, Rows, plan_rows
from worker.models.runtime import runtime_of
from worker.models.tokens import TextEncoder

#: Longest segment of a model that knows no limit (XLNet): attention's memory grows with the square of it.
UNBOUNDED_SEGMENT = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Documents of one shape, single texts or pairs, and their rows; a row's owner is an index of `documents`."""

    documents: Sequence[Document]
    rows: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A shard, tokenized and cut. `refused` are the results of documents that the model will not see."""

    params: ClassificationParams
    refused: Sequence[Result]
    groups: Sequence[Group]


@dataclass(frozen=True, slots=True)
class _Scored:
    """Scores (batch, labels) of a batch, and the rows on which the model failed, whose scores are no numbers."""

    scores: Scores
    failed: list[int] = field(default_factory=list)


_Launched = Callable[[], _Scored]


class ClassificationEngine:
    """A sequence classifier on a device. `prepare` may run in another thread while `run` holds the device.

    Raises ModelFault, when it is made, where the model cannot be run as one.
    """

    def __init__(self, model: Any, tokenizer: Any, info: ModelInfo, device: Device, dtype: torch.dtype) -> None:
        self._device = device
        self._labels = info.labels
        self._several = info.multi_label
        self._problem = model.config.problem_type
        self._encoder = TextEncoder(tokenizer)
        self._limit = longest_input(model, tokenizer) or UNBOUNDED_SEGMENT
        chosen = forward_for(
            model, tokenizer, self._encoder, device=device.torch_device, limit=self._limit, labels=len(self._labels)
        )
        self._forward = chosen.forward
        fitting = tokens_that_fit(chosen.forward.logits, chosen.probes.rows, device)
        self._budget = Budget(device, packs=chosen.forward.packs, fitting=fitting)
        self._ahead = 1 if device.kind == "cuda" else 0
        self.weight_bytes = weight_bytes(model)
        self.runtime = runtime_of(self._forward.name, model, tokenizer, info, device, dtype)
        self.runtime["longest_input"] = self._limit
        if chosen.fallback is not None:
            self.runtime["fallback"] = chosen.fallback
        if chosen.last_layer is not None:
            self.runtime["last_layer"] = chosen.last_layer

    def prepare(self, documents: Sequence[Document], params: Params, usage: Usage) -> Prepared:
        """Tokenize and cut. Documents without text, or too long for the model, are answered here."""
        if not isinstance(params, ClassificationParams):
            raise ModelFault(
                f"A sequence classifier was given the parameters of another task ({type(params).__name__})."
            )
        refused: list[Result] = []
        alone: list[Document] = []
        paired: list[Document] = []
        for document in documents:
            if error := unusable(document):
                refused.append(failed(document, error))
            else:
                # an empty second text is none, as in the tokenizers' own calls
                (paired if document.text_pair else alone).append(document)
        with usage.phase("tokenize"):
            groups = [self._group(group, params) for group in (alone, paired) if group]
        for group in groups:
            refused += [self._too_long(group, int(index)) for index in np.flatnonzero(group.rows.n_segments == 0)]
        return Prepared(params=params, refused=refused, groups=groups)

    def _group(self, documents: Sequence[Document], params: ClassificationParams) -> Group:
        texts = [self._encoder.encode([document.text for document in documents])]
        frame = self._encoder.single
        if documents[0].text_pair:
            texts.append(self._encoder.encode([document.text_pair or "" for document in documents]))
            frame = self._encoder.pair
        return Group(documents=documents, rows=plan_rows(tuple(texts), frame, self._limit, params.long_documents))

    def _too_long(self, group: Group, index: int) -> Result:
        tokens = int(group.rows.n_tokens[index])
        message = f"The text has {tokens} tokens, and the model takes {self._limit}."
        if len(group.rows.texts) == 2:
            message = f"The two texts have {tokens} tokens together, and the model takes {self._limit}."
        return failed(group.documents[index], DocumentError(code="too_long", message=message), n_tokens=tokens)

    def run(self, prepared: Prepared, usage: Usage, stopped: Callable[[], bool]) -> Iterator[list[Result]]:
        """Results, longest documents first; a document is answered with its last segment."""
        if prepared.refused:
            yield list(prepared.refused)
        for group in prepared.groups:
            yield from self._run(group, prepared.params, usage, stopped)

    def _run(
        self, group: Group, params: ClassificationParams, usage: Usage, stopped: Callable[[], bool]
    ) -> Iterator[list[Result]]:
        rows, activation = group.rows, self._activation(params)
        together = SegmentScores(rows, len(self._labels), maximum=params.multi_label or self._several)
        faults: dict[int, DocumentError] = {}

        def launch(batch: list[int]) -> _Launched:
            return self._launched(rows, np.array(batch), activation, usage)

        def finish(batch: list[int], launched: _Launched | None) -> list[Result]:
            if launched is None:
                scored = self._nothing(batch)
                faults.update({int(rows.owner[row]): self._full(int(rows.lengths[row])) for row in batch})
            else:
                with usage.phase("model"):
                    scored = launched()
            with usage.phase("postprocess"):
                for row in scored.failed:
                    faults.setdefault(int(rows.owner[row]), _FAILED)
                found, scores = together.add(np.array(batch), scored.scores)
                return self._results(group, found, scores, params, faults)

        # One batch more than is finished is on the device, so that it computes while the host reads the last one.
        waiting: deque[tuple[list[int], _Launched | None]] = deque()
        for launched in self._budget.batches(rows.lengths.tolist(), launch, stopped):
            waiting.append(launched)
            if len(waiting) > self._ahead and (results := finish(*waiting.popleft())):
                yield results
        while waiting:
            if results := finish(*waiting.popleft()):
                yield results

    def _nothing(self, batch: Sequence[int]) -> _Scored:
        return _Scored(np.full((len(batch), len(self._labels)), np.nan, np.float32), list(batch))

    def _full(self, tokens: int) -> DocumentError:
        message = f"Its {tokens} tokens do not fit the memory of {self._device.name}, even alone."
        return DocumentError(code="out_of_memory", message=message, retryable=True)

    def _activation(self, params: ClassificationParams) -> Activation:
        """How logits become scores: as in the text-classification pipeline of transformers, except that
        `multi_label: true` asks any classifier for a score of each label by itself."""
        if self._problem == "regression":
            return "none"
        several = params.multi_label or self._several
        return "sigmoid" if several or len(self._labels) == 1 else "softmax"

    def _launched(self, rows: Rows, batch: Indices, activation: Activation, usage: Usage) -> _Launched:
        """Put a batch onto the device; what comes back gives its scores. Where the model fails on the batch at once, the
        texts that it fails on have been found by then."""
        usage.tokens += int(rows.lengths[batch].sum())
        usage.padded_tokens += self._forward.tokens(rows.lengths[batch])
        usage.batches += 1
        with usage.phase("model"):
            try:
                coming = self._forward.launch(rows, batch)
            except MODEL_ERRORS as error:
                if is_out_of_memory(error) or is_device_lost(error):
                    raise
            else:
                return lambda: _Scored(activated(coming.get(), activation))
            found = self._isolated(rows, batch, activation)
            return lambda: found

    def _isolated(self, rows: Rows, batch: Indices, activation: Activation) -> _Scored:
        """Scores of a batch. Where the model fails on it, its halves are tried, down to the texts that it fails on."""
        try:
            scores = activated(self._forward.logits(rows, batch), activation)
            return _Scored(scores)
        except MODEL_ERRORS as error:
            if is_out_of_memory(error) or is_device_lost(error):
                raise
        if len(batch) == 1:
            return self._nothing(batch.tolist())
        middle = len(batch) // 2
        left, right = (self._isolated(rows, half, activation) for half in (batch[:middle], batch[middle:]))
        return _Scored(np.concatenate([left.scores, right.scores]), left.failed + right.failed)

    def _results(
        self,
        group: Group,
        found: Indices,
        scores: Scores,
        params: ClassificationParams,
        faults: dict[int, DocumentError],
    ) -> list[Result]:
        """Results of the documents at the indices `found`, whose scores are (found, labels)."""
        rows = group.rows
        order = best_labels(scores, params.top_k)
        outputs = self._outputs(scores, order, params)
        finite = np.logical_and.reduce(np.isfinite(scores), axis=1).tolist()
        counts = zip(
            rows.n_tokens[found].tolist(), rows.n_segments[found].tolist(), rows.truncated[found].tolist(), strict=True
        )
        results = []
        for index, output, good, (tokens, segments, truncated) in zip(
            found.tolist(), outputs, finite, counts, strict=True
        ):
            document = group.documents[index]
            if not good:
                results.append(failed(document, faults.get(index, _NO_NUMBER), n_tokens=tokens))
                continue
            results.append(
                Result(
                    position=document.position,
                    document_id=document.id,
                    output=output,
                    n_tokens=tokens,
                    n_segments=segments,
                    truncated=truncated,
                )
            )
        return results

    def _outputs(self, scores: Scores, order: Indices, params: ClassificationParams) -> list[dict[str, Any]]:
        """Outputs of documents whose scores are (documents, labels), of which `order` (documents, best) are given."""
        best = np.take_along_axis(scores, order, axis=1).tolist()
        named = [[self._labels[label] for label in labels] for labels in order.tolist()]
        outputs: list[dict[str, Any]] = [
            {"label": names[0], "score": values[0], "scores": dict(zip(names, values, strict=True))}
            for names, values in zip(named, best, strict=True)
        ]
        if params.multi_label:
            above = scores >= (params.threshold or 0.0)
            for output, labels, holds in zip(outputs, np.argsort(-scores, axis=1, kind="stable"), above, strict=True):
                output["labels"] = [self._labels[label] for label in labels[holds[labels]].tolist()]
        return outputs


_FAILED = DocumentError(code="internal", message="The model failed on this text.")
_NO_NUMBER = DocumentError(
    code="internal", message="The model gave a score that is no number; with half precision, dtype float32 may mend it."
)
