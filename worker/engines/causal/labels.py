"""Classification by a causal model and a prompt: the given labels weighed against each other.

Knows the order of work: prompts, labels as tokens, likelihoods, results. Must not know jobs or shards, nor how documents
are cut (`drafts`), put into prompts (`prompting`) or scored (`scoring`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from catalog.prompting import in_force
from corpusmill.documents import Document, Result, failed
from corpusmill.errors import DocumentError, ModelFault
from corpusmill.models import ModelInfo
from corpusmill.prompts import LABELS, listed, parse
from corpusmill.tasks import ClassificationParams, Params, SummarizationParams
from worker.device import Device
from worker.engines.base import Usage
from worker.engines.budget import Budget
from worker.engines.causal import trial
from worker.engines.causal.lengths import LEAST_ROOM, UNSTATED_POSITIONS
from worker.engines.causal.prompting import ChatTokenizer, PromptEncoder
from worker.engines.causal.scoring import Labels, LabelScorer, Likelihoods
from worker.engines.drafts import Draft, Drafter
from worker.engines.languages import Direction
from worker.engines.scores import best_labels
from worker.engines.sources import Frame, SourceEncoder
from worker.models.limits import longest_input
from worker.models.loading import first_line, weight_bytes
from worker.models.runtime import runtime_of

_OUT_OF_MEMORY = DocumentError(
    code="out_of_memory", message="The text alone, with the labels, does not fit the device's memory.", retryable=True
)
_NO_NUMBER = DocumentError(
    code="internal", message="The model gave a score that is no number; with half precision, dtype float32 may mend it."
)
Row = tuple[Draft, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A shard's documents in their prompts, tokenized and cut, those that cannot be run, and the labels as tokens; `own`
    is how many tokens a prompt has without a text."""

    params: ClassificationParams
    drafts: list[Draft]
    failed: list[Result]
    labels: Labels
    own: int


class CausalLabelsEngine:
    """A causal model on a device, to choose between labels. `prepare` may run in another thread while `run` holds the
    device. Raises ModelFault, when it is made, where the model cannot be run."""

    def __init__(self, model: Any, tokenizer: Any, info: ModelInfo, device: Device, dtype: torch.dtype) -> None:
        self._chat = ChatTokenizer(tokenizer, info.id)
        self._info = info
        self._budget = Budget(device)
        self._positions = longest_input(model, tokenizer) or UNSTATED_POSITIONS
        self._embeddings = trial.embeddings_of(model, tokenizer)
        self.weight_bytes = weight_bytes(model)
        probes = trial.probes_of(model, tokenizer, self._positions)
        try:
            self._scorer = LabelScorer(model, device, probes, trial.pad_of(model, tokenizer))
        except trial.MODEL_ERRORS as error:
            trial.raise_if_lost(error)
            raise ModelFault(f"{info.id} cannot be run: {type(error).__name__}: {first_line(error)}") from error
        self.runtime: dict[str, Any] = {
            **runtime_of("label-likelihoods", model, tokenizer, info, device, dtype),
            "positions": self._positions,
            "cache": "shared" if self._scorer.shared else "none",
            "chat_template": self._chat.is_chat,
        }

    def prepare(self, documents: Sequence[Document], params: Params, usage: Usage) -> Prepared:
        """Put into prompts, tokenize and cut. Raises ModelFault where prompt and labels leave no room for a text, or two
        labels are one and the same to the model."""
        if not isinstance(params, ClassificationParams) or params.labels is None:
            raise ModelFault(f"{self._info.id} was loaded to choose between labels, and was given none.")
        if any(document.text_pair for document in documents):
            raise ModelFault(
                f"{self._info.id} is asked by a prompt, which has no place for a document's second text: use a corpus "
                "of single texts, or a sequence classifier."
            )
        with usage.phase("tokenize"):
            template = parse(in_force(params).prompt or "")
            encoder = PromptEncoder(self._chat, template, {LABELS: listed(params.labels)})
            labels = label_tokens(self._chat, encoder, params.labels, self._info.id)
            room = self._positions - labels.longest
            if room - len(encoder.own) < LEAST_ROOM:
                raise ModelFault(
                    f"The prompt has {len(encoder.own)} tokens without a text and the longest label {labels.longest}, and "
                    f"{self._info.id} takes {self._positions}: shorten the prompt, or give fewer labels."
                )
            drafter = Drafter(
                encoder=encoder,
                model_id=self._info.id,
                positions=room,
                embeddings=self._embeddings,
                direction=Direction(prefix="", frame=Frame()),
                # Cut as for a summary: into segments as long as fit, across paragraphs.
                params=SummarizationParams(long_documents=params.long_documents),
            )
            drafts, refused = drafter.drafts(documents)
        return Prepared(params=params, drafts=drafts, failed=refused, labels=labels, own=len(encoder.own))

    def run(self, prepared: Prepared, usage: Usage, stopped: Callable[[], bool]) -> Iterator[list[Result]]:
        """Results, longest prompts first; a document is answered with its last segment."""
        if prepared.failed:
            yield prepared.failed
        rows = [(draft, at) for draft in prepared.drafts for at, source in enumerate(draft.sources) if len(source)]
        prompts = [draft.sources[at] for draft, at in rows]
        together = _Together(prepared.own)

        def score(batch: list[int]) -> Likelihoods:
            with usage.phase("model"):
                chosen = [prompts[index] for index in batch]
                return self._scorer.score(chosen, prepared.labels, self._budget.tokens)

        for batch, likelihoods in self._budget.batches([len(prompt) for prompt in prompts], score, stopped):
            usage.batches += 1
            usage.tokens += sum(len(prompts[index]) for index in batch)
            usage.padded_tokens += len(batch) * max(len(prompts[index]) for index in batch)
            with usage.phase("postprocess"):
                found: list[Result] = []
                for at, index in enumerate(batch):
                    scores = None if likelihoods is None else _softmax(likelihoods[at])
                    if (draft := together.add(rows[index], scores)) is not None:
                        found.append(_result(draft, together.scores(draft), prepared.params))
            if found:
                yield found


class _Together:
    """Puts the segments of documents together: the mean of their scores, weighted by the tokens of their texts."""

    def __init__(self, own: int) -> None:
        self._own = own
        self._sums: dict[int, npt.NDArray[np.float64]] = {}
        self._weights: dict[int, float] = {}

    def add(self, row: Row, scores: npt.NDArray[np.float64] | None) -> Draft | None:
        """The draft, if that was its last segment; scores are None where the segment did not fit the memory."""
        draft, segment = row
        weight = float(max(1, len(draft.sources[segment]) - self._own))
        if scores is None:
            draft.give_up(_OUT_OF_MEMORY)
        else:
            draft.take(segment, "", cut=False)
            self._sums[id(draft)] = self._sums.get(id(draft), 0.0) + weight * scores
            self._weights[id(draft)] = self._weights.get(id(draft), 0.0) + weight
        return None if draft.waiting else draft

    def scores(self, draft: Draft) -> npt.NDArray[np.float64] | None:
        """The draft's scores, which are then forgotten."""
        total = self._sums.pop(id(draft), None)
        return None if total is None else total / self._weights.pop(id(draft))


def label_tokens(chat: SourceEncoder, prompt: PromptEncoder, labels: Sequence[str], model_id: str) -> Labels:
    """The tokens of each label where it stands after the prompt, not at the beginning of a text.

    A label is tokenized behind the prompt's last character, so that a word after a space, a line break or nothing has the
    tokens that it has there. Raises ModelFault where a label has no token, or two have the same.
    """
    gap, ending = prompt.gap(labels[0]), prompt.ending()
    (before,) = chat.encode([ending])
    tokens: dict[tuple[int, ...], str] = {}
    for label, whole in zip(labels, chat.encode([ending + gap + label for label in labels]), strict=True):
        apart = whole[: len(before)] == before
        ids = tuple(whole[len(before) :] if apart else next(chat.encode([gap + label])))
        if not ids:
            raise ModelFault(f"The tokenizer of {model_id} has no token for the label {label!r}: choose another word.")
        if ids in tokens:
            raise ModelFault(f"{tokens[ids]!r} and {label!r} are the same tokens to {model_id}: choose other words.")
        tokens[ids] = label
    return Labels.of(list(tokens))


def _softmax(likelihoods: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(likelihoods - likelihoods.max())
    scores: npt.NDArray[np.float64] = powers / powers.sum()
    return scores


def _result(draft: Draft, scores: npt.NDArray[np.float64] | None, params: ClassificationParams) -> Result:
    document, labels = draft.document, params.labels or ()
    if draft.error is not None or scores is None:
        return failed(document, draft.error or _OUT_OF_MEMORY, n_tokens=draft.n_tokens)
    if not np.isfinite(scores).all():
        return failed(document, _NO_NUMBER, n_tokens=draft.n_tokens)
    (order,) = best_labels(scores[None].astype(np.float32), params.top_k).tolist()
    best = {labels[label]: float(scores[label]) for label in order}
    return Result(
        position=document.position,
        document_id=document.id,
        output={"label": labels[order[0]], "score": float(scores[order[0]]), "scores": best},
        n_tokens=draft.n_tokens,
        n_segments=draft.n_segments,
        truncated=draft.truncated,
    )
