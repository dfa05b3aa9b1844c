"""One step of the decoder for all live slots: from each beam's last token to scores for its next.

Knows weights and slots. Must not know settings or how tokens are chosen. Nothing is read back from the device, and where
slots are fixed shapes depend on `Extent` alone, so that on CUDA a step can be captured as a graph (`graphs`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from worker.engines.decoding.slots import Group, Slots
from worker.engines.decoding.weights import Decoder, Layer


@dataclass(frozen=True, slots=True)
class Extent:
    """What a step covers: the first so many slots, tokens of their sources and tokens of their outputs. Where slots are
    not fixed, each group covers what it has room for instead."""

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
    parts = [_Part(decoder, slots, group, extent) for group in slots.groups if group.first < count]
    x = _embedded(decoder, tokens, places).view(count * beams, -1)
    for index, layer in enumerate(decoder.layers):

        def attend(given: torch.Tensor, index: int = index, layer: Layer = layer) -> torch.Tensor:
            queries, keys, values = (
                part.transpose(1, 2)
                for part in layer.qkv(given).view(count, beams, 3, decoder.heads, decoder.head_size).unbind(2)
            )
            return layer.out(_joined([part.attended(index, queries, keys, values) for part in parts]))

        def attend_source(given: torch.Tensor, index: int = index, layer: Layer = layer) -> torch.Tensor:
            queries = layer.cross_q(given).view(count, beams, decoder.heads, decoder.head_size).transpose(1, 2)
            return layer.cross_out(_joined([part.attended_source(index, queries) for part in parts]))

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


class _Part:
    """A group's share of a step: the slots of it that the step covers, and what these may attend to as things stand."""

    def __init__(self, decoder: Decoder, slots: Slots, group: Group, extent: Extent) -> None:
        stop = min(group.stop, extent.slots)
        self._decoder = decoder
        self._group = group
        self._covered = slice(group.first, stop)
        self._count = stop - group.first
        self._source, self._output = (extent.source, extent.output) if slots.fixed else (group.source, group.output)
        self._rows = torch.arange(self._count, device=decoder.device)
        self._places = slots.places[self._covered]
        lengths = slots.lengths[self._covered, None]
        reach = _allowed(torch.arange(self._source, device=decoder.device) < lengths, decoder.dtype)
        self._cross_mask = reach[:, None, None]
        self._own_mask = self._own(slots)

    def attended(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Attention (slots × beams, inner) to the outputs, of which these are the last ones' (slots, heads, beams, size).
        Given for all slots of the step, taken for those of the group."""
        caches = self._group.keys[layer], self._group.values[layer]
        for cache, new in zip(caches, (keys, values), strict=True):
            cache[self._rows, :, self._places] = new[self._covered]
        past, held = (cache[: self._count, :, : self._output].flatten(2, 3) for cache in caches)
        return _attention(self._decoder, queries[self._covered], past, held, self._own_mask)

    def attended_source(self, layer: int, queries: torch.Tensor) -> torch.Tensor:
        """The same to the sources."""
        caches = self._group.cross_keys[layer], self._group.cross_values[layer]
        keys, values = (cache[: self._count, :, : self._source] for cache in caches)
        return _attention(self._decoder, queries[self._covered], keys, values, self._cross_mask)

    def _own(self, slots: Slots) -> torch.Tensor:
        """What is added to the attention of beams to outputs (slots, 1 or heads, 1 or beams, output × beams)."""
        decoder, output, beams = self._decoder, self._output, slots.size.beams
        distances = self._places[:, None] - torch.arange(output, device=decoder.device)
        past = distances >= 0
        if beams == 1:
            mask = _allowed(past, decoder.dtype)[:, None, None]
        else:
            every = torch.arange(beams, device=decoder.device)
            own = (slots.ancestors[self._covered, :, :output, None] == every) & past[:, None, :, None]
            mask = _allowed(own.flatten(2), decoder.dtype)[:, None]
        if decoder.relative is None:
            return mask
        bias = decoder.relative[distances.clamp(0, len(decoder.relative) - 1)]  # (slots, output, heads)
        bias = bias.permute(0, 2, 1)[:, :, None, :, None].expand(-1, -1, -1, -1, beams)
        return mask + bias.flatten(3)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """The rows of all parts; of a single one without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _allowed(where: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where attention may go and -inf elsewhere."""
    return torch.zeros(where.shape, dtype=dtype, device=where.device).masked_fill_(~where, float("-inf"))


def _attention(
    decoder: Decoder, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Queries (slots, heads, beams, size) over keys and values (slots, heads, n, size), as (slots × beams, inner)."""
    if queries.device.type == "cpu" and queries.dtype is torch.float32:
        # A fused kernel saves writing the scores out: for one query or a few that is nothing, and two products read the
        # keys and values faster.
        scores = torch.bmm((queries * decoder.attention_scale).flatten(0, 1), keys.flatten(0, 1).transpose(1, 2))
        shares = scores.view(*queries.shape[:3], -1).add_(mask).softmax(-1)
        attended = torch.bmm(shares.flatten(0, 1), values.flatten(0, 1)).view(queries.shape)
    else:
        attended = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, scale=decoder.attention_scale
        )
    return attended.transpose(1, 2).reshape(queries.shape[0] * queries.shape[2], -1)
