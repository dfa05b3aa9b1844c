"""Generates for prompts on a causal model: by continuous batching, or in batches sorted by length.

Knows which of the two a model and its settings allow, and what becomes of a request that fails. Must not know how
documents became prompts (`text`), or how either of the two is done (`continuous`, `batches`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from corpusmill.errors import ModelFault
from corpusmill.models import ModelInfo
from corpusmill.tasks import Task
from worker.device import Device
from worker.engines import generation
from worker.engines.base import Usage
from worker.engines.budget import Budget
from worker.engines.causal import batches, trial
from worker.engines.causal.continuous import Continuous, unsuited
from worker.engines.causal.lengths import UNSTATED_POSITIONS, Lengths
from worker.engines.causal.settings import Settings
from worker.engines.causal.text import Output, Row, TextEngine, count
from worker.engines.generation import Generated
from worker.engines.sources import Ids
from worker.models.limits import longest_input
from worker.models.loading import first_line, weight_bytes
from worker.models.runtime import runtime_of


class CausalEngine(TextEngine):
    """A causal model on a device.

    `continuous` chooses continuous batching (None: wherever the model passes its trial); a model that fails it, or
    settings that it does not know, take batches sorted by length. Raises ModelFault, when it is made, where the model
    cannot be run.
    """

    def __init__(
        self, model: Any, tokenizer: Any, info: ModelInfo, device: Device, dtype: torch.dtype,
        *, continuous: bool | None = None,
    ) -> None:  # fmt: skip
        positions = longest_input(model, tokenizer) or UNSTATED_POSITIONS
        embeddings, pad = trial.embeddings_of(model, tokenizer), trial.pad_of(model, tokenizer)
        super().__init__(tokenizer, info, model, positions=positions, embeddings=embeddings, pad=pad)
        self._model = generation.own_copy(model)
        self._budget = Budget(device)
        self.weight_bytes = weight_bytes(model)
        probes = trial.probes_of(model, tokenizer, positions)
        try:
            self._mixes = trial.padding_is_harmless(model, probes, pad)
        except trial.MODEL_ERRORS as error:
            trial.raise_if_lost(error)
            raise ModelFault(f"{info.id} cannot be run: {type(error).__name__}: {first_line(error)}") from error
        self._continuous, self._unfit = self._tried(probes, device, wanted=continuous is not False)
        self._recorded: dict[str, Any] = {
            **runtime_of("generate", model, tokenizer, info, device, dtype),
            "positions": positions,
            "batches": "padded" if self._mixes else "equal-length",
            "chat_template": self._chat.is_chat,
            "generation_config": model.generation_config.to_diff_dict(),
        }
        self._say(self._unfit if self._continuous is None else None)

    def _outputs(
        self, rows: list[Row], settings: Settings, usage: Usage, stopped: Callable[[], bool]
    ) -> Iterator[Output]:
        """Outputs of rows in any order: by continuous batching where it will do, of what is left in sorted batches."""
        why = self._unfit if self._continuous is None else unsuited(settings, self._model)
        self._say(why)
        if why is None and rows:
            left: list[Row] = []
            yield from self._continuously(rows, settings, usage, stopped, left)
            rows = left
        yield from self._sorted(rows, settings, usage, stopped)

    def _continuously(
        self, rows: list[Row], settings: Settings, usage: Usage, stopped: Callable[[], bool], left: list[Row]
    ) -> Iterator[Output]:
        """Outputs as they end. Rows whose request failed are added to `left`; it is not tried again with this model."""
        assert self._continuous is not None
        prompts = [draft.sources[segment] for draft, segment in rows]
        answers = self._continuous.generate(prompts, settings, stopped)
        seen: set[int] = set()
        try:
            while True:
                with usage.phase("model"):
                    index, output = next(answers, (-1, ""))
                if index < 0:
                    break
                if isinstance(output, str):
                    self._give_up(output)
                    continue
                seen.add(index)
                count(usage, [prompts[index]], [output])
                yield [rows[index]], [output]
        except trial.MODEL_ERRORS as error:
            trial.raise_if_lost(error)
            self._give_up(first_line(error))
        finally:
            answers.close()
        if not stopped():
            left += [row for index, row in enumerate(rows) if index not in seen]

    def _sorted(
        self, rows: list[Row], settings: Settings, usage: Usage, stopped: Callable[[], bool]
    ) -> Iterator[Output]:
        """Outputs batch by batch, longest first; prompts share a batch only where that changes no output."""
        groups: dict[tuple[int, ...], list[Row]] = {}
        for draft, segment in rows:
            length = len(draft.sources[segment])
            key = (*settings.alike(length), 0 if self._mixes else length)
            groups.setdefault(key, []).append((draft, segment))
        for group in groups.values():
            prompts = [draft.sources[segment] for draft, segment in group]

            def generate(batch: list[int], group: list[Row] = group, prompts: list[Ids] = prompts) -> list[Generated]:
                seed = settings.seed
                seeds = None if seed is None else [seed + group[index][1] for index in batch]
                with usage.phase("model"):
                    return batches.generate_batch(self._model, [prompts[index] for index in batch], settings, seeds)

            # The cache grows to prompt and answer; every beam has its own.
            lengths = [settings.beams * (len(one) + settings.lengths.new_tokens(len(one))) for one in prompts]
            most = len(group) if batches.shares_batches(settings) else 1
            for batch, generated in self._budget.batches(lengths, generate, stopped, most=most):
                if generated is not None:
                    count(usage, [prompts[index] for index in batch], generated)
                yield [group[index] for index in batch], generated

    def _tried(self, probes: Sequence[Ids], device: Device, *, wanted: bool) -> tuple[Continuous | None, str]:
        """Continuous batching, where this model passes a trial of it; else none, and why."""
        if not wanted:
            return None, "sorted batches were chosen"
        if not hasattr(self._model, "init_continuous_batching"):
            return None, "the installed transformers has no continuous batching for it"
        continuous = Continuous(self._model, device)
        config = GenerationConfig(max_new_tokens=trial.TRIED_TOKENS, pad_token_id=self._pad)
        lengths = Lengths(task=Task.SUMMARIZATION, positions=self._positions, own=0, new=trial.TRIED_TOKENS)
        settings = Settings(config=config, lengths=lengths)
        try:
            why = continuous.differs(self._stated, probes, settings)
        except (*trial.MODEL_ERRORS, ImportError) as error:  # the library may have moved what is asked of it
            trial.raise_if_lost(error)
            return None, first_line(error)
        return (None, why) if why else (continuous, "")

    def _give_up(self, why: str) -> None:
        self._continuous, self._unfit = None, why
        self._say(why)

    def _say(self, fallback: str | None) -> None:
        """Put onto the record how outputs are generated, and why not by continuous batching."""
        self.runtime = {
            **self._recorded,
            "engine": "generate" if fallback is not None else "continuous-batching",
            "fallback": fallback,
        }
