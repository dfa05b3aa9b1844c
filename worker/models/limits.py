"""How long a sequence a model can take.

Knows configurations and position embeddings of transformers' models.
"""

from __future__ import annotations

from typing import Any

#: A tokenizer without a limit of its own reports about 1e30.
_NO_LIMIT = 1 << 24
#: Positions are relative or computed: what their configurations say of positions (T5: 512) bounds nothing.
_UNBOUNDED = frozenset({"xlnet", "t5", "mt5", "umt5", "longt5", "switch_transformers", "transfo-xl", "funnel", "bloom"})
_FIELDS = ("max_position_embeddings", "max_encoder_position_embeddings", "n_positions")


def longest_input(model: Any, tokenizer: Any) -> int | None:
    """Most tokens, special ones included, of one sequence; None where neither model nor tokenizer knows a limit.

    The lesser of the tokenizer's limit and the model's number of positions. RoBERTa and its kin count positions from
    the padding index on, so that two of their 514 are never used.
    """
    limits: list[int | None] = [getattr(tokenizer, "model_max_length", None), _positions(model)]
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < _NO_LIMIT]
    return min(known, default=None)


def _positions(model: Any) -> int | None:
    config = model.config
    if config.model_type in _UNBOUNDED:
        return None
    values = (getattr(config, name, None) for name in _FIELDS)
    stated: int | None = next((value for value in values if isinstance(value, int) and value > 0), None)
    if stated is None:
        return None
    for name, module in model.named_modules():
        offset: int | None = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and offset is not None and hasattr(module, "num_embeddings"):
            return min(stated, int(module.num_embeddings) - offset - 1)
    return stated
