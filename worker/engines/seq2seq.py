"""Summaries and translations by a sequence-to-sequence model.

Knows the order of work: drafts, batches, outputs, results. Must not know jobs or shards, nor how documents are cut
(`drafts`), how a language is chosen (`languages`) or how a batch is decoded (`generation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from corpusmill.documents import Document, Result
from corpusmill.errors import DocumentError, ModelFault
from corpusmill.models import ModelInfo
from corpusmill.tasks import Params, SummarizationParams, TranslationParams
from worker.device import Device
from worker.engines import generation
from worker.engines.base import Usage
from worker.engines.budget import Budget
from worker.engines.drafts import Draft, Drafter
from worker.engines.languages import direction_of
from worker.engines.sources import SourceEncoder
from worker.models.loading import weight_bytes
from worker.models.runtime import runtime_of

_OUT_OF_MEMORY = DocumentError(
    code="out_of_memory", message="The text alone, with its output, does not fit the device's memory.", retryable=True
)
Row = tuple[Draft, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A shard's documents, tokenized and cut, those that cannot be run, and what holds for all."""

    drafter: Drafter
    drafts: list[Draft]
    failed: list[Result]
    settings: generation.Settings


class Seq2SeqEngine:
    """A model of `AutoModelForSeq2SeqLM` on a device, for abstractive summarization and translation.

    `prepare` may run in one thread while `run` holds the device in another. Outputs are those of `generate()` for each
    segment alone with the same settings, whatever shares its batch.
    """

    def __init__(
        self, model: torch.nn.Module, tokenizer: Any, info: ModelInfo, device: Device, dtype: torch.dtype
    ) -> None:
        self._model = cast(Any, model)
        self._decoder = generation.own_copy(model)
        self._tokenizer = tokenizer
        self._encoder = SourceEncoder(tokenizer)
        self._info = info
        self._budget = Budget(device)
        pads = (tokenizer.pad_token_id, self._model.generation_config.pad_token_id, 0)
        self._pad: int = next(pad for pad in pads if pad is not None)
        self._source_positions = generation.source_positions(self._model, tokenizer)
        self._target_positions = generation.target_positions(self._model.config)
        self.weight_bytes = weight_bytes(model)
        self.runtime: dict[str, Any] = {
            **runtime_of("generate", model, tokenizer, info, device, dtype),
            "source_positions": self._source_positions,
            "target_positions": self._target_positions,
            "generation_config": self._model.generation_config.to_diff_dict(),
        }

    def prepare(self, documents: Sequence[Document], params: Params, usage: Usage) -> Prepared:
        """Tokenize and cut. Raises ModelFault where the model cannot do what the parameters ask for."""
        if not isinstance(params, SummarizationParams | TranslationParams):
            raise ModelFault(f"{self._info.id} generates text, it does not classify: choose a classifier.")
        if isinstance(params, SummarizationParams) and params.method == "extractive":
            raise ModelFault(
                f"{self._info.id} writes summaries of its own: leave method out, or choose a sentence encoder for "
                "method extractive."
            )
        with usage.phase("tokenize"):
            direction = direction_of(params, self._info.id, self._model, self._tokenizer, self._encoder.frame)
            settings = generation.settings_of(self._model, params, direction.generation, self._target_positions)
            drafter = Drafter(
                encoder=self._encoder,
                model_id=self._info.id,
                positions=self._source_positions,
                direction=direction,
                params=params,
            )
            drafts, failed = drafter.drafts(documents)
        return Prepared(drafter=drafter, drafts=drafts, failed=failed, settings=settings)

    def run(self, prepared: Prepared, usage: Usage, stopped: Callable[[], bool]) -> Iterator[list[Result]]:
        """Results as documents get ready, in no order; a document of several segments comes after its last one."""
        if prepared.failed:
            yield prepared.failed
        drafter, drafts = prepared.drafter, prepared.drafts
        while drafts:
            again: list[Draft] = []
            for ready in self._ready(drafts, prepared.settings, usage, stopped):
                again += filter(drafter.reduces, ready)
                with usage.phase("postprocess"):
                    results = [drafter.result(draft) for draft in ready if not drafter.reduces(draft)]
                if results:
                    yield results
            if stopped():
                return
            with usage.phase("tokenize"):
                drafts = [drafter.reduced(draft) for draft in again]

    def _ready(
        self, drafts: Sequence[Draft], settings: generation.Settings, usage: Usage, stopped: Callable[[], bool]
    ) -> Iterator[list[Draft]]:
        """Run the drafts' segments, and yield after each batch the drafts whose last output came with it."""
        yield [draft for draft in drafts if not draft.waiting]
        for longest, rows in _by_longest_output(drafts, settings):
            config = settings.with_longest(longest)

            def generate(batch: list[int], rows: list[Row] = rows, config: Any = config) -> list[generation.Generated]:
                chosen = [rows[index] for index in batch]
                seed = None if settings.seed is None else settings.seed + chosen[0][1]
                with usage.phase("model"):
                    return generation.generate_batch(
                        self._decoder, [draft.sources[segment] for draft, segment in chosen], config, self._pad, seed
                    )

            # Every beam has its own cache. Sampled outputs depend on what shares the batch: nothing does.
            lengths = [settings.beams * len(draft.sources[segment]) for draft, segment in rows]
            most = len(rows) if settings.seed is None else 1
            for batch, generated in self._budget.batches(lengths, generate, stopped, most=most):
                chosen = [rows[index] for index in batch]
                if generated is None:
                    chosen[0][0].give_up(_OUT_OF_MEMORY)
                else:
                    with usage.phase("postprocess"):
                        self._take(chosen, generated, usage)
                yield [draft for draft in {id(draft): draft for draft, _ in chosen}.values() if not draft.waiting]

    def _take(self, rows: Sequence[Row], generated: Sequence[generation.Generated], usage: Usage) -> None:
        """Give a batch's outputs to their drafts, and count them."""
        texts = self._tokenizer.batch_decode([output.tokens for output in generated], skip_special_tokens=True)
        for (draft, segment), text, output in zip(rows, texts, generated, strict=True):
            draft.take(segment, text, cut=output.cut)
        sources = [len(draft.sources[segment]) for draft, segment in rows]
        outputs = [len(output.tokens) - 1 for output in generated]  # the start token is not generated
        usage.batches += 1
        usage.generated_tokens += sum(outputs)
        usage.tokens += sum(sources) + sum(outputs)
        usage.padded_tokens += len(rows) * (max(sources) + max(outputs))


def _by_longest_output(drafts: Sequence[Draft], settings: generation.Settings) -> list[tuple[int, list[Row]]]:
    """The segments to run, grouped by how long their outputs may get: one batch has one limit."""
    groups: dict[int, list[Row]] = {}
    for draft in drafts:
        for segment, source in enumerate(draft.sources):
            if len(source):
                groups.setdefault(settings.longest(len(source)), []).append((draft, segment))
    return sorted(groups.items(), key=lambda group: -group[0])
