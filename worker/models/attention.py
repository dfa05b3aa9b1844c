"""Attention that stays within each document of a pack, for every model on transformers' attention interface.

Knows tensors of a pack and where its documents begin. Must not know models, tokenizers or what is done with the states.

A pack is documents end to end in a batch of one: queries, keys and values are (1, heads, tokens, width). Nothing masks
one document from another but these functions, so they refuse to run without a layout: models leave out the padding mask
for an attention that has no mask function of its own, and a padded batch would be wrong without a word.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

#: Names under which the attention is registered; a job's record shows the one that its model used.
SDPA, VARLEN = "packed_sdpa", "packed_varlen"
#: Arguments that change what attention computes and that are not done here (T5's bias, Gemma's cap, attention sinks).
_FOREIGN = ("position_bias", "softcap", "s_aux")
#: Queries of a document whose local attention is computed together.
_BLOCK = 128
_HALF = frozenset({torch.float16, torch.bfloat16})


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the documents of a pack stand.

    `runs` are neighbours of equal length: (first token, documents, tokens of each). `bounds` (documents + 1,), int32 on
    the device, is where each document begins, and the end. `masks` holds windows already drawn, for the next layer.
    """

    runs: tuple[tuple[int, int, int], ...]
    bounds: torch.Tensor
    longest: int
    masks: dict[tuple[int, int, int, int, bool], torch.Tensor] = field(default_factory=dict)


def runs_of(lengths: npt.NDArray[np.int64]) -> tuple[tuple[int, int, int], ...]:
    """Runs of equal neighbours of lengths (documents,): (first token, documents, tokens of each)."""
    heads = np.flatnonzero(np.diff(lengths, prepend=-1))
    counts = np.diff(heads, append=len(lengths))
    starts = np.cumsum(lengths)[heads] - lengths[heads]
    return tuple(zip(starts.tolist(), counts.tolist(), lengths[heads].tolist(), strict=True))


def attention_for(device: torch.device, dtype: torch.dtype) -> str:
    """The name of the attention for packs on a device, registered: torch's variable-length kernel on CUDA in half
    precision (unmeasured so far), else scaled dot product attention over documents of equal length."""
    from transformers import AttentionInterface

    AttentionInterface.register(SDPA, sdpa_attention)
    AttentionInterface.register(VARLEN, varlen_attention)
    return VARLEN if device.type == "cuda" and dtype in _HALF else SDPA


def sdpa_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    packed_layout: Layout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention (1, tokens, heads, width), one call for each run of equal lengths. Raises ValueError without a layout."""
    layout = _checked(packed_layout, attention_mask, others)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    heads, tokens = query.shape[1:3]
    if key.shape[1] != heads:
        key, value = (tensor.repeat_interleave(heads // key.shape[1], dim=1) for tensor in (key, value))
    mixed = query.new_empty(tokens, heads, value.shape[-1])
    for start, count, length in layout.runs:
        stop = start + count * length
        q, k, v = (
            tensor[0, :, start:stop].view(heads, count, length, -1).transpose(0, 1) for tensor in (query, key, value)
        )
        if sliding_window and length > sliding_window:
            out = _local(q, k, v, layout, window=sliding_window, causal=causal, scaling=scaling)
        else:
            # is_causal is for squares of more than one token: a single token sees itself either way
            out = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, scale=scaling, is_causal=causal and length > 1
            )
        mixed[start:stop].view(count, length, heads, -1).copy_(out.transpose(1, 2))
    return mixed.unsqueeze(0), None


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    packed_layout: Layout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The same in one call of torch's variable-length kernel: CUDA, half precision. Unmeasured so far."""
    from torch.nn.attention.varlen import varlen_attn

    layout = _checked(packed_layout, attention_mask, others)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    reach = sliding_window - 1 if sliding_window else -1
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    out = varlen_attn(
        q, k, v, layout.bounds, layout.bounds, layout.longest, layout.longest,
        scale=scaling, window_size=(reach, 0 if causal else reach), enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    assert isinstance(out, torch.Tensor)  # it is a pair only where more is asked for
    return out.unsqueeze(0), None


def _checked(layout: Layout | None, mask: torch.Tensor | None, others: dict[str, Any]) -> Layout:
    if layout is None:
        raise ValueError("attention within packs was called without a layout: documents would not be told apart")
    if mask is not None:
        raise ValueError("attention within packs takes no mask")
    for name in _FOREIGN:
        if others.get(name) is not None:
            raise ValueError(f"attention within packs does not know {name}")
    return layout


def _local(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, *, window: int, causal: bool,
    scaling: float | None,
) -> torch.Tensor:  # fmt: skip
    """Attention (documents, heads, length, width) to keys less than `window` away, and none ahead where `causal`.

    A block of queries at a time, over the keys that any of them sees, so that time and memory grow with the length and
    not with its square.
    """
    length, parts = query.shape[2], []
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        first, last = max(0, start - window + 1), stop if causal else min(length, stop + window - 1)
        shape = (stop - start, last - first, start - first, window, causal)
        if shape not in layout.masks:
            queries = torch.arange(start - first, stop - first, device=query.device)
            ahead = torch.arange(last - first, device=query.device) - queries[:, None]
            layout.masks[shape] = (ahead.abs() < window) & (ahead <= 0) if causal else ahead.abs() < window
        part = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, start:stop], key[:, :, first:last], value[:, :, first:last],
            attn_mask=layout.masks[shape], scale=scaling,
        )  # fmt: skip
        parts.append(part)
    return torch.cat(parts, dim=2)
