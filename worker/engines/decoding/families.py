"""Where each family of transformers' sequence-to-sequence models keeps its decoder's weights, and what it does with them.

Knows module names and what differs between architectures. Must not know slots, settings or documents. A family is a
description; an architecture that is not in `FAMILIES` is not decoded here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from worker.engines.decoding.linear import Factory, Linear
from worker.engines.decoding.weights import BLOCK, Decoder, Layer, Norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Names inside a decoder layer, and the traits of the whole.

    `offset` says from which row of `embed_positions` an output's first position is taken: that many rows, or, for None,
    from the row behind the padding token's, which itself is zero (fairseq's sinusoids).
    """

    pre_norm: bool = False
    offset: int | None = 0
    relative: bool = False
    layers: str = "layers"
    attention: tuple[str, str] = ("self_attn", "encoder_attn")
    projections: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "out_proj")
    norms: tuple[str, str, str] = ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")
    up: tuple[str, ...] = ("fc1",)
    down: str = "fc2"
    activation: str = "activation_fn"
    embedding_norm: str = "layernorm_embedding"
    final_norm: str = "layer_norm"


_T5 = Family(
    pre_norm=True,
    relative=True,
    layers="block",
    attention=("layer.0.SelfAttention", "layer.1.EncDecAttention"),
    projections=("q", "k", "v", "o"),
    norms=("layer.0.layer_norm", "layer.1.layer_norm", "layer.2.layer_norm"),
    up=("layer.2.DenseReluDense.wi",),
    down="layer.2.DenseReluDense.wo",
    activation="layer.2.DenseReluDense.act",
    final_norm="final_layer_norm",
)

#: By the exact name of a model's class. NLLB is M2M100 with other tokens, Flan is T5.
FAMILIES: dict[str, Family] = {
    "MarianMTModel": Family(),
    "BartForConditionalGeneration": Family(offset=2),
    "MBartForConditionalGeneration": Family(offset=2, pre_norm=True),
    "PegasusForConditionalGeneration": Family(pre_norm=True),
    "M2M100ForConditionalGeneration": Family(offset=None, pre_norm=True),
    "T5ForConditionalGeneration": _T5,
    "MT5ForConditionalGeneration": _T5,
}


def read_decoder(model: Any, make: Factory) -> Decoder:
    """The decoder of a model whose class is in `FAMILIES`, with every projection made by `make`.

    The model goes on working as before, on the same memory where that is possible.
    """
    family = FAMILIES[type(model).__name__]
    stack = model.get_decoder()
    modules = list(getattr(stack, family.layers))
    first = _at(modules[0], family.attention[0])
    gated = family.relative and hasattr(_at(modules[0], "layer.2.DenseReluDense"), "wi_0")
    heads = int(first.n_heads if family.relative else first.num_heads)
    head_size = int(first.key_value_proj_dim if family.relative else first.head_dim)
    table, unplaced = _positions(stack, family)
    vocabulary, head = _head(model, make)
    embedding = stack.embed_tokens.weight.detach()
    return Decoder(
        layers=tuple(_layer(module, family, gated, make) for module in modules),
        embedding=embedding,
        embedding_scale=_scale(stack),
        positions=table,
        relative=_relative(first) if family.relative else None,
        unplaced=unplaced,
        embedding_norm=_norm_if_any(stack, family.embedding_norm),
        final_norm=_norm_if_any(stack, family.final_norm),
        cross_kv=_cross_kv(modules, family, make),
        head=head,
        head_scale=embedding.shape[1] ** -0.5 if getattr(model.config, "scale_decoder_outputs", False) else 1.0,
        vocabulary=vocabulary,
        heads=heads,
        head_size=head_size,
        attention_scale=float(first.scaling),
        pre_norm=family.pre_norm,
        gated=gated,
        activation=_activation(_at(modules[0], family.activation)),
    )


def _layer(module: Any, family: Family, gated: bool, make: Factory) -> Layer:
    own, cross = (_at(module, name) for name in family.attention)
    q, k, v, out = family.projections
    ups = tuple(name + suffix for name in family.up for suffix in (("_0", "_1") if gated else ("",)))
    self_norm, cross_norm, feed_norm = (_norm(_at(module, name)) for name in family.norms)
    return Layer(
        qkv=_fused([getattr(own, name) for name in (q, k, v)], make),
        out=_fused([getattr(own, out)], make),
        cross_q=_fused([getattr(cross, q)], make),
        cross_out=_fused([getattr(cross, out)], make),
        up=_fused([_at(module, name) for name in ups], make),
        down=_fused([_at(module, family.down)], make),
        self_norm=self_norm,
        cross_norm=cross_norm,
        feed_norm=feed_norm,
    )


def _cross_kv(modules: list[Any], family: Family, make: Factory) -> Linear:
    _, k, v, _ = family.projections
    crosses = [_at(module, family.attention[1]) for module in modules]
    return _fused([getattr(cross, name) for cross in crosses for name in (k, v)], make)


def _fused(linears: list[Any], make: Factory) -> Linear:
    """Several projections of one input as one, their outputs side by side.

    The model's own weights become views of the fused one, so that nothing is held twice.
    """
    biases = [linear.bias for linear in linears]
    bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])
    if len(linears) == 1:
        return make(linears[0].weight.detach(), bias)
    weight = torch.cat([linear.weight.detach() for linear in linears])
    end = 0
    for linear in linears:
        start, end = end, end + len(linear.weight)
        linear.weight.data = weight[start:end]
    return make(weight, bias)


def _head(model: Any, make: Factory) -> tuple[int, Linear]:
    """The head with outputs up to a multiple of `BLOCK` and at least one more than the vocabulary, those at -inf."""
    weight = model.get_output_embeddings().weight.detach()
    vocabulary = weight.shape[0]
    more = BLOCK - vocabulary % BLOCK
    own = getattr(model, "final_logits_bias", None)
    bias = weight.new_zeros(vocabulary + more) if own is None else torch.cat([own[0], own.new_zeros(more)])
    bias[vocabulary:] = float("-inf")
    # Rows of the vocabulary stand in for those that are added: rows of zeros have no scale to be quantized by.
    rows = torch.cat([weight, weight[torch.arange(more, device=weight.device) % vocabulary]])
    model.get_output_embeddings().weight.data = rows[:vocabulary]
    return vocabulary, make(rows, bias.to(weight.dtype))


def _positions(stack: Any, family: Family) -> tuple[torch.Tensor | None, int | None]:
    if family.relative:
        return None, None
    module = stack.embed_positions
    if family.offset is None:
        return module.weights.detach()[module.padding_idx + 1 :], int(module.padding_idx)
    return module.weight.detach()[family.offset :], None


def _relative(attention: Any) -> torch.Tensor:
    """T5's bias by distance (distance, heads): the model's own function, asked for the last of so many tokens."""
    last = int(attention.relative_attention_max_distance)
    bias: torch.Tensor = attention.compute_bias(1, last + 1, past_seen_tokens=last)
    return bias[0, :, 0].flip(-1).transpose(0, 1).detach().contiguous()


def _scale(stack: Any) -> float:
    scale = getattr(stack.embed_tokens, "embed_scale", None)
    return float(scale if scale is not None else getattr(stack, "embed_scale", 1.0))


def _norm(module: Any) -> Norm:
    bias = getattr(module, "bias", None)
    eps = module.eps if hasattr(module, "eps") else module.variance_epsilon
    return Norm(module.weight.detach(), None if bias is None else bias.detach(), float(eps))


def _norm_if_any(stack: Any, name: str) -> Norm | None:
    module = _at(stack, name)
    return None if module is None else _norm(module)


def _activation(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    activation: Callable[[torch.Tensor], torch.Tensor] = module
    return activation


def _at(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = module[int(name)] if name.isdigit() else getattr(module, name, None)
    return module
