"""A batch of prompts through `generate()`, padded on the left, each with what it would be given alone.

Knows transformers' `generate()`. Must not know documents or how batches are planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from worker.engines.causal.settings import Settings
from worker.engines.generation import Generated
from worker.engines.sources import Ids

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


def left_padded(prompts: Sequence[Ids], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of prompts, each (prompts, longest)."""
    width = max(map(len, prompts))
    ids = np.full((len(prompts), width), pad, dtype=np.int64)
    mask = np.zeros((len(prompts), width), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def generate_batch(
    model: Any, prompts: Sequence[Ids], settings: Settings, seeds: Sequence[int] | None = None
) -> list[Generated]:
    """The new tokens of each prompt, in order; `model` has no generation settings of its own.

    The prompts are `alike` as the settings have it. With seeds each is sampled as after `torch.manual_seed(seed)` alone.
    Raises what torch raises.
    """
    limits = [settings.lengths.new_tokens(len(prompt)) for prompt in prompts]
    config = settings.with_lengths(max(limits), settings.lengths.least_tokens(len(prompts[0])))
    processors = LogitsProcessorList()
    if seeds is not None and shares_batches(settings):
        processors.append(_DrawnApart(_warpers(model, config), seeds, model.device))
        _without_sampling(config)
    elif seeds is not None:
        torch.manual_seed(_as_seed(seeds[0]))
    ids, mask = left_padded(prompts, config.pad_token_id)
    with torch.inference_mode():
        rows = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            logits_processor=processors,
        )
    new = rows[:, ids.shape[1] :].tolist()
    return [ended(row[:limit], settings) for row, limit in zip(new, limits, strict=True)]


def shares_batches(settings: Settings) -> bool:
    """Whether prompts may share a batch: without sampling always; with it where each row can be drawn for by itself."""
    return settings.seed is None or (settings.beams == 1 and settings.config.watermarking_config is None)


def ended(row: list[int], settings: Settings) -> Generated:
    """The row up to its first end token, and whether the length limit ended it: one forced at the last place was not
    chosen."""
    for place, token in enumerate(row):
        if token in settings.ends:
            forced = settings.config.forced_eos_token_id is not None and place + 1 == len(row)
            return Generated(row[: place + 1], cut=forced)
    return Generated(row, cut=True)


def _as_seed(seed: int) -> int:
    return seed if -(1 << 63) <= seed < 1 << 64 else seed % (1 << 64)


def _without_sampling(config: GenerationConfig) -> None:
    config.do_sample = False
    for name in _SAMPLING:
        if hasattr(config, name):
            setattr(config, name, None)


def _warpers(model: Any, config: GenerationConfig) -> LogitsProcessorList:
    """What `generate()` puts between scores and probabilities when it samples, its defaults included."""
    chosen = {name: getattr(config, name, None) for name in (*_SAMPLING, "renormalize_logits")}
    stated, _ = model._prepare_generation_config(
        GenerationConfig(do_sample=True, **{name: value for name, value in chosen.items() if value is not None})
    )
    warpers: LogitsProcessorList = model._get_logits_processor(stated)
    return warpers


class _DrawnApart(LogitsProcessor):  # type: ignore[misc]
    """Draws each row's next token with a generator of its own, and leaves that token alone to be chosen.

    `torch.multinomial` of one row with a generator that was seeded is what `generate()` calls after `manual_seed` for one
    prompt, so that what shares the batch does not matter.
    """

    def __init__(self, warpers: LogitsProcessorList, seeds: Sequence[int], device: torch.device) -> None:
        self._warpers = warpers
        self._generators = [torch.Generator(device).manual_seed(_as_seed(seed)) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        probabilities = torch.softmax(self._warpers(input_ids, scores), dim=-1)
        drawn = [
            torch.multinomial(probabilities[row : row + 1], 1, generator=generator)
            for row, generator in enumerate(self._generators)
        ]
        return torch.full_like(scores, -torch.inf).scatter_(1, torch.cat(drawn), 0.0)
