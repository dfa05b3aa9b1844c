"""Attention that stays within each document of a pack, for every model on transformers' attention interface.

Knows tensors of a pack and where its documents begin. Must not know models, tokenizers or what is done with the states.

A pack is documents end to end in a batch of one: queries, keys and values are (1, heads, tokens, width). Nothing masks
one document from another but these functions, so they refuse to run without a layout: models leave out the padding mask
for an attention that has no mask function of its own, and a padded batch would be wrong without a word.
"""

from __future__ import annotations

from typing import Any

import torch

from worker.models.layouts import Asked, Associated, Keys, KeysOnly, Layout, Reading

#: Names under which the attention is registered; a job's record shows the one that its model used.
SDPA, VARLEN = "packed_sdpa", "packed_varlen"
#: Arguments that change what attention computes and that are not done here (T5's bias, Gemma's cap, attention sinks).
_FOREIGN = ("position_bias", "softcap", "s_aux")
#: Queries of a document whose local attention is computed together.
_BLOCK = 128
_HALF = frozenset({torch.float16, torch.bfloat16})


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
    packed_layout: Asked = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention (1, queries, heads, width), one call for each run of equal lengths. Raises ValueError without a layout,
    and Keys where a layer is asked for those alone."""
    _check(packed_layout, attention_mask, others)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if isinstance(packed_layout, Associated):
        if causal or sliding_window:
            raise ValueError("a query that does not see the whole of its document needs its keys")
        return _associated(query, packed_layout, query.shape[-1] ** -0.5 if scaling is None else scaling), None
    key, value, layout, single = _asked(packed_layout, key, value, causal=causal, window=sliding_window or 0)
    heads, queries = query.shape[1:3]
    if key.shape[1] != heads:
        key, value = (tensor.repeat_interleave(heads // key.shape[1], dim=1) for tensor in (key, value))
    mixed = query.new_empty(queries, heads, value.shape[-1])
    document = 0
    for start, count, length in layout.runs:
        tokens = slice(start, start + count * length)
        rows, each = (slice(document, document + count), 1) if single else (tokens, length)
        document += count
        q, k, v = (
            tensor[0, :, part].view(heads, count, size, -1).transpose(0, 1)
            for tensor, part, size in ((query, rows, each), (key, tokens, length), (value, tokens, length))
        )
        if sliding_window and length > sliding_window and not single:
            out = _local(q, k, v, layout, window=sliding_window, causal=causal, scaling=scaling)
        else:
            # is_causal is for squares of more than one token: a single token sees itself either way
            out = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, scale=scaling, is_causal=causal and each > 1
            )
        mixed[rows].view(count, each, heads, -1).copy_(out.transpose(1, 2))
    return mixed.unsqueeze(0), None


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    packed_layout: Asked = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The same in one call of torch's variable-length kernel: CUDA, half precision. Unmeasured so far."""
    from torch.nn.attention.varlen import varlen_attn

    _check(packed_layout, attention_mask, others)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    key, value, layout, single = _asked(packed_layout, key, value, causal=causal, window=sliding_window or 0)
    reach = sliding_window - 1 if sliding_window else -1
    window = (-1, -1) if single else (reach, 0 if causal else reach)
    bounds, longest = (layout.ordinals, 1) if single else (layout.bounds, layout.longest)
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    if q.shape[1] != k.shape[1]:  # torch 2.11's kernel does not share keys among heads by itself
        k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    out = varlen_attn(
        q, k, v, bounds, layout.bounds, longest, layout.longest, scale=scaling, window_size=window
    )  # fmt: skip
    assert isinstance(out, torch.Tensor)  # it is a pair only where more is asked for
    return out.unsqueeze(0), None


def _check(asked: Asked, mask: torch.Tensor | None, others: dict[str, Any]) -> None:
    if asked is None:
        raise ValueError("attention within packs was called without a layout: documents would not be told apart")
    if mask is not None:
        raise ValueError("attention within packs takes no mask")
    for name in _FOREIGN:
        if others.get(name) is not None:
            raise ValueError(f"attention within packs does not know {name}")


def _asked(
    asked: Asked, key: torch.Tensor, value: torch.Tensor, *, causal: bool, window: int
) -> tuple[torch.Tensor, torch.Tensor, Layout, bool]:
    """Keys, values, how they lie, and whether each document has a single query, which sees them all."""
    if isinstance(asked, KeysOnly):
        raise Keys(key, value, causal=causal, window=window)
    if isinstance(asked, Reading):
        return asked.key, asked.value, asked.layout, True
    if not isinstance(asked, Layout):
        raise ValueError(f"attention within packs does not know {type(asked).__name__}")
    return key, value, asked, False


def _associated(query: torch.Tensor, asked: Associated, scaling: float) -> torch.Tensor:
    """Attention (1, documents, heads, width) of one query (1, heads, documents, width) of each document.

    (x K) q = x (K q), and p (x V) = (p x) V: with one query of a document it takes fewer products to bring the query to
    the states, and their mean to the values, than every state to a key and a value. What a bias adds to the keys is the
    same for all of them and changes nothing; what it adds to the values comes through the mean as it is.
    """
    heads, documents, width = query.shape[1:]
    seeking = torch.bmm(query[0] * scaling, asked.key.view(heads, width, -1)).transpose(0, 1)
    means = torch.empty_like(seeking)
    document = 0
    for start, count, length in asked.layout.runs:
        states = asked.states[0, start : start + count * length].view(count, length, -1)
        rows = slice(document, document + count)
        weights = torch.bmm(seeking[rows], states.transpose(1, 2)).softmax(-1)
        torch.bmm(weights, states, out=means[rows])
        document += count
    mixed = torch.bmm(means.transpose(0, 1), asked.value.view(heads, width, -1).transpose(1, 2)).transpose(0, 1)
    mixed = mixed if asked.bias is None else mixed + asked.bias.view(heads, width)
    return mixed.reshape(1, documents, heads, width)


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
