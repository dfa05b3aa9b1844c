"""The last layer of an encoder, run for the one token of each text whose states the model's head reads.

Knows packs, and that a layer takes states, gives states and has one attention. Must not know architectures, heads or
texts. Whether a head reads that token alone is for a self-test to say: every other state comes out as no number, so that
whatever is made of it is no number either.

A classifier's head reads the first token of each text (BERT and its kin) or the last one (decoders). Of the other tokens
the last layer then needs keys and values and nothing else: with a feed-forward four times as wide as the states, two of
its twelve parts. The layer's own code runs twice. Over all tokens it is left where attention would begin, with the keys
and values; over the tokens that are read it goes to its end, and its attention is given those. Where keys and values are
plain products of one tensor, in float32 on a CPU, it is left with that tensor, and they are never made either
(`Associated`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from worker.models.layouts import Associated, Keys, KeysOnly, Layout, Reading, layout_of
from worker.models.onednn import LaidOut
from worker.models.rows import Indices
from worker.models.transfer import placed

#: What attention modules call the layers that make their queries, keys and values, where each makes nothing else.
_PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"))


class _Inputs(Exception):
    """Raised where nothing is wrong: what a layer makes its keys of (1, tokens, inputs)."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states


class LastLayer:
    """Finds an encoder's last layer while it runs (`watched`), and prunes it from `start` on until `stop`."""

    def __init__(self, base: nn.Module) -> None:
        stacks = [module for module in base.modules() if isinstance(module, nn.ModuleList)]
        self._layers = {id(layer): layer for stack in stacks for layer in stack}
        self._layer: Any = None
        self._calls = 0
        self._seen: Layout | None = None
        self._called = 0
        self._query: Any = None
        self._key: Any = None
        self._weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None = None
        self._taking = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Sees which layer a call of the encoder enters last, and how often it enters it: ALBERT's layers are one."""
        entered: list[nn.Module] = []
        hooks = [
            layer.register_forward_pre_hook(lambda module, _: entered.append(module)) for layer in self._layers.values()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        if entered:
            self._layer = entered[-1]
            self._calls = sum(module is self._layer for module in entered)

    def start(self, *, associated: bool = False) -> None:
        """Prune from now on; with `associated`, without keys and values. Raises ValueError where that cannot be."""
        if self._layer is None:
            raise ValueError("the encoder has no stack of layers")
        self._query, self._key, value = self._projections()
        if associated:
            weights = [_weight_of(layer) for layer in (self._key, value)]
            if weights[0] is None or weights[1] is None or weights[0].shape != weights[1].shape:
                raise ValueError("its keys and values are no plain products in float32 on a CPU")
            self._weights = weights[0], weights[1], value.bias
            self._key.forward = self._keys_made
        if self._query is not None:
            self._query.forward = self._queries_made
        self._layer.forward = self._forward

    def stop(self) -> None:
        """Give the layer back what it was."""
        for module in (self._layer, self._query, self._key):
            if module is not None:
                module.__dict__.pop("forward", None)
        self._query = self._key = self._weights = None

    def _projections(self) -> tuple[Any, Any, Any]:
        """The layers that make queries, keys and values; None each where they are not told apart."""
        found = [
            tuple(getattr(module, name) for name in names)
            for module in self._layer.modules() for names in _PROJECTIONS
            if all(hasattr(module, name) for name in names)
        ]  # fmt: skip
        return found[0] if len(found) == 1 else (None, None, None)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        layout = kwargs.get("packed_layout")
        if layout is not self._seen:  # a new call of the encoder: the one before may have ended in an error
            self._seen, self._called = layout, 0
        self._called += 1
        if not isinstance(layout, Layout) or self._called < self._calls:
            return self._whole(*args, **kwargs)
        self._seen = None
        return self._pruned(layout, *args, **kwargs)

    def _whole(self, *args: Any, **kwargs: Any) -> Any:
        return type(self._layer).forward(self._layer, *args, **kwargs)

    def _pruned(self, layout: Layout, *args: Any, **kwargs: Any) -> torch.Tensor:
        """States (1, tokens, width), of which those that are read are numbers."""
        states = args[0] if args else kwargs["hidden_states"]
        left = self._left(*args, **kwargs)
        at = placed(_read_of(layout, causal=isinstance(left, Keys) and left.causal), states.device)
        reading: Reading | Associated
        if isinstance(left, Keys):
            reading = _reading(layout, left, states.device)
        else:
            assert self._weights is not None  # who asked for no keys has them
            key, value, bias = self._weights
            reading = Associated(states=left.states, key=key, value=value, bias=bias, layout=layout)
        picked = [_picked(value, at, states.shape[1]) for value in args]
        named = {name: _picked(value, at, states.shape[1]) for name, value in kwargs.items()}
        read: torch.Tensor = self._whole(*picked, **{**named, "packed_layout": reading})
        whole = read.new_full((1, states.shape[1], read.shape[-1]), float("nan"))
        whole[:, at] = read
        return whole

    def _left(self, *args: Any, **kwargs: Any) -> Keys | _Inputs:
        """What the layer is left with before its attention, of all tokens. Raises RuntimeError where it has none within
        packs."""
        self._taking = True
        try:
            self._whole(*args, **{**kwargs, "packed_layout": KeysOnly()})
        except (Keys, _Inputs) as left:
            return left.with_traceback(None)  # whose frames hold the layer's tensors
        finally:
            self._taking = False
        raise RuntimeError("the last layer came to its end without attention")

    def _queries_made(self, states: torch.Tensor) -> torch.Tensor:
        """Queries (…, width) that nobody looks at while the layer is to be left, else its own."""
        if self._taking:
            return states.new_zeros(1).expand(*states.shape[:-1], self._query.out_features)
        made: torch.Tensor = type(self._query).forward(self._query, states)
        return made

    def _keys_made(self, states: torch.Tensor) -> torch.Tensor:
        if self._taking:
            raise _Inputs(states)
        made: torch.Tensor = type(self._key).forward(self._key, states)
        return made


def _weight_of(layer: Any) -> torch.Tensor | None:
    """A linear layer's weight (outputs, inputs), where it is float32 on a CPU; None for what may be another thing."""
    if type(layer) not in {nn.Linear, LaidOut} or layer.weight.dtype is not torch.float32 or layer.weight.is_cuda:
        return None
    weight: torch.Tensor = layer.weight.to_dense() if type(layer) is LaidOut else layer.weight
    return weight


def _read_of(layout: Layout, *, causal: bool) -> Indices:
    """Where in the pack the tokens (texts,) stand that heads read: decoders' the last of each text, others' the first."""
    if causal and layout.lasts is not None:
        return layout.lasts
    lengths = layout.lengths
    return np.cumsum(lengths) - lengths


def _reading(layout: Layout, keys: Keys, device: torch.device) -> Reading:
    """The keys and values that the tokens which are read see: those of their text, ahead and within the window."""
    lengths = layout.lengths
    starts = np.cumsum(lengths) - lengths
    own = _read_of(layout, causal=keys.causal) - starts
    first = np.maximum(0, own - keys.window + 1) if keys.window else np.zeros_like(own)
    stop = np.minimum(lengths, own + keys.window) if keys.window else lengths
    sizes = (own + 1 if keys.causal else stop) - first
    if np.array_equal(sizes, lengths):
        return Reading(key=keys.key, value=keys.value, layout=layout)
    before = np.cumsum(sizes) - sizes
    seen = placed(np.repeat(starts + first - before, sizes) + np.arange(int(sizes.sum())), device)
    return Reading(key=keys.key[:, :, seen], value=keys.value[:, :, seen], layout=layout_of(sizes, device))


def _picked(value: Any, at: torch.Tensor, tokens: int) -> Any:
    """Of what a layer is given, what belongs to the tokens `at`; other things, and whatever is nothing of tokens, whole."""
    if isinstance(value, tuple):
        return tuple(_picked(one, at, tokens) for one in value)
    if isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[:2] == (1, tokens):
        return value[:, at]
    return value
