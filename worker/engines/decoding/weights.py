"""A decoder's weights in the form that the step reads them: fused projections, one description for all families.

Knows tensors. Must not know transformers (`families` reads its models), slots or settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from worker.engines.decoding.linear import Linear

#: The vocabulary is padded to a multiple of this, so that the best of each block can be found first.
BLOCK = 256


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation (x, d); without a bias it is T5's, which divides by the root mean square alone."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.bias is not None:
            return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        wide = x.float()
        normed = x * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(self.weight.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One decoder layer. `qkv` gives queries, keys and values side by side; of a gated `up`, the gate comes first."""

    qkv: Linear
    out: Linear
    cross_q: Linear
    cross_out: Linear
    up: Linear
    down: Linear
    self_norm: Norm
    cross_norm: Norm
    feed_norm: Norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A decoder with its embeddings and its head.

    `embedding` is (vocabulary, d); `positions` (length, d) from position 0 on, or None; `relative` (distance, heads) is
    T5's bias, which stays the same beyond its last distance. `unplaced` is a token that gets no position (M2M100's
    padding). `cross_kv` gives keys and values of all layers side by side. `head` has `vocabulary` outputs, and then
    some of -inf up to a multiple of `BLOCK`.
    """

    layers: tuple[Layer, ...]
    embedding: torch.Tensor
    embedding_scale: float
    positions: torch.Tensor | None
    relative: torch.Tensor | None
    unplaced: int | None
    embedding_norm: Norm | None
    final_norm: Norm | None
    cross_kv: Linear
    head: Linear
    head_scale: float
    vocabulary: int
    heads: int
    head_size: int
    attention_scale: float
    pre_norm: bool
    gated: bool
    activation: Callable[[torch.Tensor], torch.Tensor]

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values that one token of a source or of a beam's output takes in all layers."""
        return 2 * len(self.layers) * self.heads * self.head_size * self.embedding.element_size()
