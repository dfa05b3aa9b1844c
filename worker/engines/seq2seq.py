"""Summaries and translations by a sequence-to-sequence model.

Knows which way a model's outputs are decoded, and what a shard's settings come to. Must not know jobs or shards, nor how
documents are cut (`drafts`), how a language is chosen (`languages`) or how outputs are decoded: in slots (`streaming`,
`decoding`), or by `generate()` (`batching`) for the models and settings that the slots do not decode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch

from corpusmill.documents import Document, Result
from corpusmill.errors import ModelFault
from corpusmill.models import ModelInfo
from corpusmill.tasks import Params, SummarizationParams, TranslationParams
from worker.device import Device, is_out_of_memory, release
from worker.engines import generation
from worker.engines.base import More, Step, Usage, Work
from worker.engines.batching import Batching
from worker.engines.budget import Budget
from worker.engines.decoding import Rules, SlotDecoder, Unsupported, rules_of
from worker.engines.decoding.linear import Factory
from worker.engines.drafts import Drafter
from worker.engines.languages import Direction, direction_of
from worker.engines.prepared import Prepared
from worker.engines.sources import SourceEncoder
from worker.engines.streaming import Streaming
from worker.models.loading import weight_bytes
from worker.models.runtime import runtime_of


class Seq2SeqEngine:
    """A model of `AutoModelForSeq2SeqLM` on a device, for abstractive summarization and translation.

    `prepare` may run in one thread while `run` or `stream` holds the device in another. Outputs are those of `generate()`
    for each segment alone with the same settings, whatever is decoded beside it. `linear` makes the decoder's matrix
    products in another form than the exact one; `tolerance` is what its scores may then differ by (`SlotDecoder`).
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        info: ModelInfo,
        device: Device,
        dtype: torch.dtype,
        *,
        linear: Factory | None = None,
        tolerance: float | None = None,
    ) -> None:
        self._model = cast(Any, model)
        self._tokenizer = tokenizer
        self._encoder = SourceEncoder(tokenizer)
        self._info = info
        pads = (tokenizer.pad_token_id, self._model.generation_config.pad_token_id, 0)
        pad: int = next(pad for pad in pads if pad is not None)
        budget = Budget(device)
        self._embeddings = int(self._model.get_input_embeddings().num_embeddings)
        self._source_positions = generation.source_positions(self._model, tokenizer)
        self._target_positions = generation.target_positions(self._model.config)
        self._batching = Batching(generation.own_copy(model), tokenizer, budget, pad)
        self._slots, self._fallback = _slots_of(model, budget, pad, linear, tolerance)
        self.weight_bytes = weight_bytes(model) + (self._slots.own_bytes if self._slots else 0)
        self._runtime: dict[str, Any] = {
            **runtime_of("slots", model, tokenizer, info, device, dtype),
            "source_positions": self._source_positions,
            "target_positions": self._target_positions,
            "generation_config": self._model.generation_config.to_diff_dict(),
        }
        self.runtime = self._runtime_with(self._fallback)

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
            direction, settings = self._settings(params)
            drafter = Drafter(
                encoder=self._encoder,
                model_id=self._info.id,
                positions=self._source_positions,
                embeddings=self._embeddings,
                direction=direction,
                params=params,
            )
            drafts, failed = drafter.drafts(documents)
        return Prepared(drafter=drafter, drafts=drafts, failed=failed, settings=settings)

    def runtime_for(self, params: Params) -> dict[str, Any]:
        """As the protocol says."""
        if not isinstance(params, SummarizationParams | TranslationParams):
            return self._runtime
        _, settings = self._settings(params)
        _, fallback = self._rules(settings)
        return self._runtime_with(fallback)

    def _settings(self, params: SummarizationParams | TranslationParams) -> tuple[Direction, generation.Settings]:
        direction = direction_of(params, self._info.id, self._model, self._tokenizer, self._encoder.frame)
        settings = generation.settings_of(self._model, params, direction.generation, self._target_positions)
        return direction, settings

    def run(self, prepared: Prepared, usage: Usage, stopped: Callable[[], bool]) -> Iterator[list[Result]]:
        """Results as documents get ready, in no order; a document of several segments comes after its last one."""
        for step in self.stream(Work(prepared, usage, stopped), lambda: None):
            if step.results:
                yield step.results

    def stream(self, first: Work[Prepared], more: More[Prepared]) -> Iterator[Step[Prepared]]:
        """The same for a work and those of the same job that follow it, whose documents take the slots that get free."""
        rules, fallback = self._rules(first.prepared.settings)
        self.runtime = self._runtime_with(fallback)
        if self._slots is not None and rules is not None:
            session = self._slots.session(rules)
            yield from Streaming(session, self._tokenizer, first.prepared.settings).steps(first, more)
            return
        for results in self._batching.run(first.prepared, first.usage, first.stopped):
            yield Step(first, results, ended=False)
        yield Step(first, [], ended=True)

    def _rules(self, settings: generation.Settings) -> tuple[Rules | None, str | None]:
        """The settings as the slots decode by them, or why they cannot."""
        if self._slots is None:
            return None, self._fallback
        try:
            return rules_of(settings.config, self._slots.vocabulary), None
        except Unsupported as reason:
            return None, str(reason)

    def _runtime_with(self, fallback: str | None) -> dict[str, Any]:
        if fallback is None:
            return self._runtime
        return {**self._runtime, "engine": "generate", "fallback": fallback}


def _slots_of(
    model: Any, budget: Budget, pad: int, linear: Factory | None, tolerance: float | None
) -> tuple[SlotDecoder | None, str | None]:
    """Slots for a model, or why there are none."""
    try:
        return SlotDecoder(model, budget, pad=pad, linear=linear, tolerance=tolerance), None
    except Unsupported as reason:
        return None, str(reason)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release(budget.device)
    return None, "The memory has no room for the decoder's weights in a second form."
