"""One step of the decoder for all live slots: from each beam's last token to scores for its next.

Knows weights and slots. Must not know settings or how tokens are chosen. Shapes depend on `Extent` alone and nothing is
read back from the device, so that on CUDA a step can be captured as a graph (`graphs`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from worker.engines.decoding.slots import Slots
from worker.engines.decoding.weights import Decoder, Layer


@dataclass(frozen=True, slots=True)
class Extent:
    """What a step covers: the first so many slots, tokens of their sources and tokens of their outputs."""

    slots: int
    source: int
    output: int


def forward(decoder: Decoder, slots: Slots, extent: Extent) -> torch.Tensor:
    """Scores (slots × beams, padded vocabulary) in float32 before any processing, and the caches one place longer."""
    count, beams = extent.slots, slots.size.beams
    device = decoder.device
    rows, every = torch.arange(count, device=device), torch.arange(beams, device=device)
    places = slots.places[:count]
    tokens = slots.tokens[rows, :, places]
    if beams > 1:
        slots.ancestors[rows[:, None], every, places[:, None]] = every.to(torch.uint8)
    x = _embedded(decoder, tokens, places).view(count * beams, -1)
    own_mask = _own_mask(decoder, slots, extent)
    cross_mask = _allowed(torch.arange(extent.source, device=device) < slots.lengths[:count, None], decoder.dtype)
    cross_mask = cross_mask[:, None, None]
    for index, layer in enumerate(decoder.layers):

        def attend(given: torch.Tensor, index: int = index, layer: Layer = layer) -> torch.Tensor:
            queries, keys, values = (
                part.transpose(1, 2)
                for part in layer.qkv(given).view(count, beams, 3, decoder.heads, decoder.head_size).unbind(2)
            )
            slots.keys[index][rows, :, places] = keys
            slots.values[index][rows, :, places] = values
            past = [cache[index][:count, :, : extent.output].flatten(2, 3) for cache in (slots.keys, slots.values)]
            return layer.out(_attention(decoder, queries, past[0], past[1], own_mask))

        def attend_source(given: torch.Tensor, index: int = index, layer: Layer = layer) -> torch.Tensor:
            queries = layer.cross_q(given).view(count, beams, decoder.heads, decoder.head_size).transpose(1, 2)
            keys = slots.cross_keys[index][:count, :, : extent.source]
            values = slots.cross_values[index][:count, :, : extent.source]
            return layer.cross_out(_attention(decoder, queries, keys, values, cross_mask))

        def feed(given: torch.Tensor, layer: Layer = layer) -> torch.Tensor:
            wide = layer.up(given)
            if not decoder.gated:
                return layer.down(decoder.activation(wide))
            gate, linear = wide.chunk(2, dim=-1)
            return layer.down(decoder.activation(gate) * linear)

        for norm, sublayer in (
            (layer.self_norm, attend), (layer.cross_norm, attend_source), (layer.feed_norm, feed),
        ):  # fmt: skip
            x = x + sublayer(norm(x)) if decoder.pre_norm else norm(x + sublayer(x))
    if decoder.final_norm is not None:
        x = decoder.final_norm(x)
    if decoder.head_scale != 1.0:
        x = x * decoder.head_scale
    return decoder.head(x).float()


def _embedded(decoder: Decoder, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Tokens (slots, beams) at their places (slots,) as the first layer gets them (slots, beams, d)."""
    x = functional.embedding(tokens, decoder.embedding)
    if decoder.embedding_scale != 1.0:
        x = x * decoder.embedding_scale
    if decoder.positions is not None:
        placed = decoder.positions[places][:, None]
        if decoder.unplaced is not None:
            placed = placed.expand_as(x).masked_fill((tokens == decoder.unplaced)[..., None], 0.0)
        x = x + placed
    return x if decoder.embedding_norm is None else decoder.embedding_norm(x)


def _own_mask(decoder: Decoder, slots: Slots, extent: Extent) -> torch.Tensor:
    """What is added to the attention of beams to outputs (slots, 1 or heads, 1 or beams, output × beams)."""
    count, output, beams = extent.slots, extent.output, slots.size.beams
    distances = slots.places[:count, None] - torch.arange(output, device=decoder.device)
    past = distances >= 0
    if beams == 1:
        mask = _allowed(past, decoder.dtype)[:, None, None]
    else:
        every = torch.arange(beams, device=decoder.device)
        own = (slots.ancestors[:count, :, :output, None] == every) & past[:, None, :, None]
        mask = _allowed(own.flatten(2), decoder.dtype)[:, None]
    if decoder.relative is None:
        return mask
    bias = decoder.relative[distances.clamp(0, len(decoder.relative) - 1)]  # (slots, output, heads)
    bias = bias.permute(0, 2, 1)[:, :, None, :, None].expand(-1, -1, -1, -1, beams)
    return mask + bias.flatten(3)


def _allowed(where: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where attention may go and -inf elsewhere."""
    return torch.zeros(where.shape, dtype=dtype, device=where.device).masked_fill_(~where, float("-inf"))


def _attention(
    decoder: Decoder, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Queries (slots, heads, beams, size) over keys and values (slots, heads, n, size), as (slots × beams, inner)."""
    attended = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, scale=decoder.attention_scale
    )
    return attended.transpose(1, 2).reshape(queries.shape[0] * queries.shape[2], -1)
