"""Generation settings in force, and the one function that runs a batch of sources through a model.

Knows transformers' `GenerationConfig` and `generate()`. Must not know documents, languages or how batches are planned.
The slots of `decoding` take the place of `generate_batch` for the models and settings that they can decode.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from corpusmill.errors import ModelFault
from corpusmill.tasks import SummarizationParams, Task, TranslationParams
from worker.engines.sources import Ids, padded
from worker.models.limits import longest_input

#: New tokens of a summary where neither the job nor the model states a length: what BART's summarizers state.
SUMMARY_NEW_TOKENS = 142
#: New tokens of a translation where neither states one: twice the source and 32, rounded up to a multiple of this.
TRANSLATION_STEP = 64
#: Source positions of a model that states no limit anywhere: mT5, whose positions are relative, was trained with these.
UNSTATED_POSITIONS = 1_024

_SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_BEAM_FIELDS = ("early_stopping", "length_penalty")


@dataclass(frozen=True, slots=True)
class Generated:
    """One output: its tokens from the start token to the end token, and whether the length limit ended it."""

    tokens: list[int]
    cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Generation settings that hold for every source of a shard, and what decides the longest output of each.

    `stated` is the longest output in tokens, start token included, where the job or the model states one; `positions`
    the model's own bound on it, or None.
    """

    config: GenerationConfig
    task: Task
    stated: int | None
    positions: int | None
    seed: int | None = None

    @property
    def beams(self) -> int:
        """Sequences that are decoded for each source."""
        return int(self.config.num_beams or 1)

    def longest(self, source_tokens: int) -> int:
        """The longest output, start token included, for a source of so many tokens."""
        length = self.stated or 1 + default_new_tokens(self.task, source_tokens)
        return min(length, self.positions or length)

    def seed_of(self, segment: int) -> int | None:
        """The seed of a document's segment, as torch takes it; None where nothing is drawn."""
        if self.seed is None:
            return None
        seed = self.seed + segment
        return seed if -(1 << 63) <= seed < 1 << 64 else seed % (1 << 64)

    def with_longest(self, longest: int) -> GenerationConfig:
        """The settings for outputs of at most so many tokens, start token included."""
        config = copy.deepcopy(self.config)
        config.max_length = longest
        if config.min_length is not None:
            config.min_length = min(config.min_length, longest)
        return config


def default_new_tokens(task: Task, source_tokens: int) -> int:
    """How many tokens may be generated where neither the job nor the model states it.

    `generate()` itself would stop after 20. A document's limit depends on nothing but its own length, in steps so that
    documents of about one length share a batch.
    """
    if task is Task.SUMMARIZATION:
        return SUMMARY_NEW_TOKENS
    return TRANSLATION_STEP * -(-(2 * source_tokens + 32) // TRANSLATION_STEP)


def settings_of(
    model: Any, params: SummarizationParams | TranslationParams, told: Mapping[str, int], positions: int | None
) -> Settings:
    """The model's own generation settings, with what the job chose over them and the languages over both.

    Clashes are resolved as `generate()` resolves them: `max_new_tokens` goes before `max_length` and `min_new_tokens`
    before `min_length`, whoever set them. What cannot apply (sampling fields without sampling, beam fields without
    beams) is dropped. Sampling without a seed has seed 0, so that a shard that runs twice gives one result. Raises
    ModelFault for a mode that would need code from elsewhere.
    """
    task = Task.SUMMARIZATION if isinstance(params, SummarizationParams) else Task.TRANSLATION
    config = copy.deepcopy(model.generation_config)
    for name, value in {**params.generation.chosen(), **told}.items():
        setattr(config, name, value)
    _refuse_foreign_modes(config)
    stated = config.max_length if config.max_new_tokens is None else 1 + config.max_new_tokens
    if stated is None:
        stated = _stated_for_task(model.config, task)
    if stated is not None and stated < 2:
        raise ModelFault(f"max_length is {stated}, but it counts the start token too: set it to 2 or more.")
    if config.min_new_tokens is not None:
        config.min_length = 1 + config.min_new_tokens
    config.max_length = config.max_new_tokens = config.min_new_tokens = None
    sampling = bool(config.do_sample)
    for name in (() if sampling else _SAMPLING_FIELDS) + (() if (config.num_beams or 1) > 1 else _BEAM_FIELDS):
        setattr(config, name, None)
    config.num_return_sequences = 1
    config.return_dict_in_generate = False
    config.output_scores = config.output_logits = config.output_attentions = config.output_hidden_states = None
    return Settings(
        config=config, task=task, stated=stated, positions=positions, seed=(params.seed or 0) if sampling else None
    )


def _refuse_foreign_modes(config: GenerationConfig) -> None:
    wanted = [name for name in ("penalty_alpha", "dola_layers", "constraints", "force_words_ids", "stop_strings")
              if getattr(config, name, None)]  # fmt: skip
    if (config.num_beam_groups or 1) > 1:
        wanted.append("num_beam_groups")
    if wanted:
        raise ModelFault(
            f"The model's generation_config.json sets {', '.join(wanted)}, which is not run here: remove that entry."
        )


def _stated_for_task(config: Any, task: Task) -> int | None:
    """The length that T5-like configurations state for their tasks."""
    tasks = getattr(config, "task_specific_params", None) or {}
    lengths = {
        values["max_length"]
        for name, values in tasks.items()
        if name.startswith(task.value) and isinstance(values.get("max_length"), int)
    }
    return max(lengths, default=None)


def source_positions(model: Any, tokenizer: Any) -> int:
    """The longest source in tokens, special ones included, that the model and its tokenizer are made for."""
    return longest_input(model, tokenizer) or getattr(model.config, "n_positions", None) or UNSTATED_POSITIONS


def target_positions(config: Any) -> int | None:
    """The longest output in tokens that the model has positions for; None where positions are relative."""
    return getattr(config, "max_decoder_position_embeddings", None) or getattr(config, "max_position_embeddings", None)


def own_copy(model: Any) -> Any:
    """The model with the same weights and no generation settings of its own.

    `generate()` fills what is None in the settings it is given from the model's; here they are complete beforehand.
    """
    copied = copy.copy(model)
    copied.generation_config = GenerationConfig()
    return copied.eval()


def generate_batch(
    model: Any, sources: Sequence[Ids], config: GenerationConfig, pad: int, seed: int | None
) -> list[Generated]:
    """Generate for a batch of sources (ids with special tokens) on the model's device; outputs in the same order.

    With a seed the outputs are those after `torch.manual_seed(seed)`; they then depend on what shares the batch, so
    that a batch should be one source. Raises what torch raises.
    """
    ids, mask = padded(sources, pad)
    if seed is not None:
        torch.manual_seed(seed)
    with torch.inference_mode():
        generated = model.generate(
            input_ids=torch.from_numpy(ids).to(model.device),
            attention_mask=torch.from_numpy(mask).to(model.device),
            generation_config=config,
        )
    return [ended(row, config, config.max_length or 0) for row in generated.tolist()]


def ended(row: list[int], config: GenerationConfig, longest: int) -> Generated:
    """The row up to its first end token after the start token, of an output of at most `longest` tokens.

    An end token at the last place may have been forced there, which then counts as cut.
    """
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    for place in range(1, len(row)):
        if row[place] in ends:
            forced = config.forced_eos_token_id is not None and place + 1 >= longest
            return Generated(row[: place + 1], cut=forced)
    return Generated(row, cut=True)
