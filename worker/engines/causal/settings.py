"""Generation settings in force for a causal model.

Knows transformers' `GenerationConfig`, and that for these models its lengths count the prompt. Must not know documents or
batches.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from transformers import GenerationConfig

from corpusmill.errors import ModelFault
from corpusmill.tasks import SummarizationParams, Task, TranslationParams
from worker.engines import generation
from worker.engines.causal.lengths import LEAST_ROOM, Lengths

_LENGTHS = ("max_length", "max_new_tokens", "min_length", "min_new_tokens")
#: How a model may be sped up by another, or by its prompt; outputs do not depend on it, but batches are ruled out.
_ASSISTED = ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`config` holds no lengths: `lengths` has them for each prompt. `seed` is set where outputs are sampled."""

    config: GenerationConfig
    lengths: Lengths
    seed: int | None = None

    @property
    def beams(self) -> int:
        """Sequences that are generated for each prompt."""
        return int(self.config.num_beams or 1)

    @property
    def reads_prompt(self) -> bool:
        """Whether choices depend on the tokens of the prompt, which padding would then be among."""
        config = self.config
        penalties = (config.repetition_penalty, config.encoder_repetition_penalty, config.guidance_scale)
        return any(value not in {None, 1.0} for value in penalties) or any(
            (
                config.no_repeat_ngram_size,
                config.encoder_no_repeat_ngram_size,
                config.bad_words_ids,
                config.sequence_bias,
            )
        )

    @property
    def reads_limit(self) -> bool:
        """Whether choices depend on how many tokens may follow, so that a longer output cut off is not a shorter one."""
        return self.beams > 1 or self.config.forced_eos_token_id is not None

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end an output."""
        stated = self.config.eos_token_id
        return frozenset(stated if isinstance(stated, list) else [] if stated is None else [stated])

    def with_lengths(self, new: int, least: int) -> GenerationConfig:
        """The settings for outputs of at most `new` and at least `least` tokens."""
        config = copy.deepcopy(self.config)
        config.max_new_tokens = new
        config.min_new_tokens = least or None
        return config

    def alike(self, prompt: int) -> tuple[int, ...]:
        """What prompts of so many tokens must have in common with others to share a batch."""
        limit = self.lengths.new_tokens(prompt) if self.reads_limit else 0
        return (self.lengths.least_tokens(prompt), limit, prompt if self.reads_prompt else 0)


def settings_of(
    model: Any, params: SummarizationParams | TranslationParams, *, positions: int, own: int, pad: int
) -> Settings:
    """The model's own settings with what the job chose over them; `own` is the prompt's length without a text.

    As in `generate()`, `max_new_tokens` goes before `max_length` and `min_new_tokens` before `min_length`, and the last of
    each pair counts the prompt too. A model's own `max_length` is its window and says nothing of an answer. Raises
    ModelFault where the lengths leave no room for a text, or a mode is asked for that is not run here.
    """
    chosen = params.generation
    stated = model.generation_config
    bare = copy.deepcopy(stated)
    for name in (*_LENGTHS, *_ASSISTED):
        if hasattr(bare, name):
            setattr(bare, name, None)
    without = params.model_copy(update={"generation": chosen.model_copy(update=dict.fromkeys(_LENGTHS))})
    in_force = generation.settings_of(SimpleNamespace(generation_config=bare, config=model.config), without, {}, None)
    in_force.config.pad_token_id = pad
    new = chosen.max_new_tokens
    if new is None and chosen.max_length is None and stated.max_new_tokens is not None:
        new = min(stated.max_new_tokens, positions // 2)
    lengths = Lengths(
        task=Task.SUMMARIZATION if isinstance(params, SummarizationParams) else Task.TRANSLATION,
        positions=positions,
        own=own,
        new=new,
        total=None if new is not None else chosen.max_length,
        least=chosen.min_new_tokens or (0 if chosen.min_length else stated.min_new_tokens or 0),
        least_total=chosen.min_length or stated.min_length or 0,
    )
    if lengths.longest_prompt - own < LEAST_ROOM:
        raise ModelFault(
            f"The prompt has {own} tokens without a text, and of the {min(positions, lengths.total or positions)} tokens "
            f"that prompt and answer may have together {lengths.longest_prompt} are left for it: shorten the prompt, or "
            "let generation.max_new_tokens be less."
        )
    return Settings(config=in_force.config, lengths=lengths, seed=in_force.seed)
