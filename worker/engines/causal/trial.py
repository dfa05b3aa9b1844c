"""What a causal model must show on a few prompts, when it is loaded, before prompts may go through it together.

Knows forwards and tolerances. Must not know documents. What is tried: prompts padded together against each alone (padding
leaks where a state is carried along instead of attention), and what continuous batching chooses: each token must be as
likely as the plain forward has it. Its tokens alone would show too little, since the best one is often far ahead.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from worker.device import is_device_lost
from worker.engines.causal.batches import left_padded
from worker.engines.sources import Ids

#: Largest difference that batching may make to a logit, relative to the largest one.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
#: What a model raises for inputs that it cannot take, and for a defect of its own.
MODEL_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError, NotImplementedError)
_LENGTHS = (3, 40, 8, 8)
#: Widest window of local attention that a prompt is made longer than: one of thousands would take longer than the load.
_WIDEST = 512
#: Tokens that each prompt is continued by.
TRIED_TOKENS = 8


def probes_of(model: Any, tokenizer: Any, positions: int) -> list[Ids]:
    """Prompts of ordinary tokens in mixed lengths; of a model with local attention, one is longer than its window."""
    window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
    lengths = [*_LENGTHS, *([window + 8] if 0 < window <= _WIDEST else [])]
    known = min(len(tokenizer), embeddings_of(model, tokenizer))
    ordinary = np.setdiff1d(np.arange(known), np.array(tokenizer.all_special_ids, dtype=np.int64))
    draw = np.random.default_rng(0)
    longest = max(1, positions - TRIED_TOKENS)
    return [draw.choice(ordinary, size=min(length, longest)).astype(np.int32) for length in lengths]


def embeddings_of(model: Any, tokenizer: Any) -> int:
    """How many tokens the model knows."""
    return int(getattr(model.get_input_embeddings(), "num_embeddings", 0) or len(tokenizer))


def pad_of(model: Any, tokenizer: Any) -> int:
    """A token to pad with that the model has an embedding for. It is masked, so that any will do."""
    config = model.generation_config
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    known = embeddings_of(model, tokenizer)
    choices: list[int | None] = [tokenizer.pad_token_id, config.pad_token_id, *ends, 0]
    return next(pad for pad in choices if pad is not None and pad < known)


def position_ids(mask: torch.Tensor) -> torch.Tensor:
    """Positions (rows, width) of left-padded prompts, each counted from its first token, as `generate()` has them."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def inputs_of(model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the model's forward takes, on its device."""
    accepted = inspect.signature(model.forward).parameters
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {name: tensor.to(model.device) for name, tensor in given.items() if name in accepted}


def logits_alone(model: Any, ids: Ids) -> torch.Tensor:
    """Logits (tokens, vocabulary) of one text by the plain forward, in float32 on the host."""
    with torch.inference_mode():
        given = torch.from_numpy(ids.astype(np.int64))[None].to(model.device)
        logits: torch.Tensor = model(input_ids=given, use_cache=False).logits[0].float().cpu()
    return logits


def padding_is_harmless(model: Any, probes: Sequence[Ids], pad: int) -> bool:
    """Whether prompts of mixed lengths, padded together, have the logits that they have alone."""
    alone = torch.stack([logits_alone(model, probe)[-1] for probe in probes])
    ids, mask = left_padded(probes, pad)
    with torch.inference_mode():
        given = inputs_of(model, ids, mask, position_ids(mask))
        together = model(**given, use_cache=False).logits[:, -1].float().cpu()
    return near(together, alone, model.dtype)


def near(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors differ by no more than batching may make them."""
    scale = max(1.0, float(expected.abs().max()))
    return bool(float((found - expected).abs().max()) <= TOLERANCE[dtype] * scale)


def as_likely(model: Any, prompt: Ids, chosen: Sequence[int], likelihoods: Sequence[float]) -> bool:
    """Whether tokens chosen after a prompt are as likely (natural logarithm) as the plain forward of the whole has them,
    and each is its best, or as good as its best."""
    whole = np.concatenate([prompt, np.array(chosen, dtype=np.int32)])
    expected = torch.log_softmax(logits_alone(model, whole)[len(prompt) - 1 : -1], dim=-1)
    own = expected.gather(1, torch.tensor(chosen)[:, None])[:, 0]
    best = expected.max(dim=-1).values
    return near(own, best, model.dtype) and near(torch.tensor(likelihoods), own, model.dtype)


def raise_if_lost(error: Exception) -> None:
    """Raise an error that leaves the device unusable for this process."""
    if is_device_lost(error):
        raise error
