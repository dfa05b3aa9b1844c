"""A model that is called on a padded batch and runs its encoder on the same texts packed end to end.

Knows transformers' models: that an encoder stands in them under a name, takes positions and hands its arguments down to
the attention. Must not know documents, labels or vectors. Whether the outputs are right is for a self-test to say.

The model's own code goes on around the encoder as it is, so that no head is written again here: hooks give the encoder
the pack in place of the padded ids, and give the head the states laid out as it expects them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worker.models.attention import attention_for
from worker.models.last_layer import LastLayer
from worker.models.layouts import Layout, layout_of
from worker.models.rows import Indices, Rows, refuse_unknown
from worker.models.transfer import placed

#: What the padded call gives to the encoder and the pack replaces.
_REPLACED = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds"})


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """Rows end to end on the device.

    `ids`, `types`, `positions` are (1, tokens); `places` (rows, longest) says where in the pack each token of the padded
    layout stands, and `mask`, of the same shape, which of them are tokens.
    """

    ids: torch.Tensor
    types: torch.Tensor
    positions: torch.Tensor
    layout: Layout
    places: torch.Tensor
    mask: torch.Tensor

    def padded_ids(self, pad: int) -> torch.Tensor:
        """Ids (rows, longest), the rest filled with `pad`."""
        return self.ids[0][self.places].masked_fill_(~self.mask, pad)

    def padded_states(self, states: torch.Tensor) -> torch.Tensor:
        """States (1, tokens, width) as (rows, longest, width); the rest is zero, whatever the neighbours hold."""
        return states[0][self.places].masked_fill_(~self.mask.unsqueeze(-1), 0)


class Packing:
    """Runs a model's encoder on packs, from `start` on until `stop`. One thread at a time."""

    def __init__(self, model: Any, *, has_types: bool, device: torch.device) -> None:
        self._model = model
        self._base = getattr(model, "base_model", model)
        self._device = device
        self._accepts = frozenset(inspect.signature(self._base.forward).parameters)
        self._has_types = has_types and "token_type_ids" in self._accepts
        self._vocabulary: int | None = getattr(model.get_input_embeddings(), "num_embeddings", None)
        self._padding = _counted_from(self._base)
        self._before: str | None = None
        self._hooks: list[Any] = []
        self._pack: Pack | None = None
        #: The encoder's last layer, which a model whose head reads one token of each text need not run for the others.
        self.last_layer = LastLayer(self._base)

    def obstacle(self) -> str | None:
        """Why the model cannot be packed whatever its weights, as a sentence; None where it may be."""
        able = getattr(type(self._model), "_can_set_attn_implementation", None)
        if able is None or not able():
            return f"The attention of {type(self._model).__name__} cannot be confined to each text of a pack."
        if "position_ids" not in self._accepts:
            return f"{type(self._model).__name__} takes no positions, which must begin anew with each text of a pack."
        return None

    def start(self) -> None:
        """Put the attention for packs into the model. Raises what transformers raises where that cannot be."""
        self._before = self._model.config._attn_implementation
        self._model.set_attn_implementation(attention_for(self._device, self._model.dtype))
        self._hooks = [
            self._base.register_forward_pre_hook(self._enter, with_kwargs=True),
            self._base.register_forward_hook(self._leave),
        ]

    def stop(self) -> None:
        """Give the model back the attention that it had, and all of its last layer."""
        self.last_layer.stop()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._before is not None:
            self._model.set_attn_implementation(self._before)

    def forward(self, pack: Pack, *, pad: int, **given: Any) -> Any:
        """The model's output for a pack: what it would be for the batch of its rows, padded on the right with `pad`."""
        self._pack = pack
        try:
            return self._model(input_ids=pack.padded_ids(pad), attention_mask=pack.mask.long(), **given)
        finally:
            self._pack = None

    @contextmanager
    def watched(self) -> Iterator[list[torch.Tensor]]:
        """Collects the states (rows, longest, width) that the encoder gives, of every call inside."""
        seen: list[torch.Tensor] = []

        def keep(_module: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            states = getattr(output, "last_hidden_state", None)
            if states is not None:
                seen.append(states.float())

        hook = self._base.register_forward_hook(keep)
        try:
            yield seen
        finally:
            hook.remove()

    def pack(self, rows: Rows, batch: Indices) -> Pack:
        """Some rows, put end to end and onto the device. Raises IndexError for an id that the model does not know."""
        lengths = rows.lengths[batch]
        ids, types = rows.packed(batch)
        refuse_unknown(ids, self._vocabulary)
        ends = np.cumsum(lengths)
        tokens = placed(np.stack([ids, types, self._positions(ids, ends, lengths)]), self._device)
        layout = layout_of(lengths, self._device, self._lasts(ids, ends, lengths))
        bounds = layout.bounds.long()
        columns = torch.arange(layout.longest, device=self._device)
        return Pack(
            ids=tokens[None, 0], types=tokens[None, 1], positions=tokens[None, 2], layout=layout,
            places=(bounds[:-1, None] + columns).clamp_(max=len(ids) - 1), mask=columns < bounds.diff()[:, None],
        )  # fmt: skip

    def _positions(self, ids: Indices, ends: Indices, lengths: Indices) -> Indices:
        """Positions (tokens,) as the model would number each row alone."""
        starts = ends - lengths
        if self._padding is None:
            return np.arange(len(ids)) - np.repeat(starts, lengths)
        # RoBERTa counts from its padding id on, passing over whatever has that id, also where the text itself says it
        counted = ids != self._padding
        count = np.cumsum(counted)
        before = np.repeat(count[starts] - counted[starts], lengths)
        positions: Indices = (count - before) * counted + self._padding
        return positions

    def _lasts(self, ids: Indices, ends: Indices, lengths: Indices) -> Indices:
        """Where in the pack (rows,) a decoder's head reads each row: at the last token that is no padding to it."""
        padding = self._model.config.get_text_config().pad_token_id
        if padding is None:
            return ends - 1
        real = np.maximum.accumulate(np.where(ids != padding, np.arange(len(ids)), -1))[ends - 1]
        lasts: Indices = np.maximum(real, ends - lengths)
        return lasts

    def _enter(
        self, _module: torch.nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._pack is None:
            return None  # a call that is none of ours, which the attention refuses
        kept = {name: value for name, value in kwargs.items() if name not in _REPLACED}
        if self._has_types:
            kept["token_type_ids"] = self._pack.types
        packed = {"input_ids": self._pack.ids, "position_ids": self._pack.positions, "packed_layout": self._pack.layout}
        return (), {**kept, **packed}

    def _leave(self, module: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if self._pack is None:
            return None
        states = self._pack.padded_states(output["last_hidden_state"])
        output["last_hidden_state"] = states
        if output.get("pooler_output") is not None:
            output["pooler_output"] = _pooled(module, states)
        return output


def _pooled(base: Any, states: torch.Tensor) -> torch.Tensor:
    """What the encoder's own pooler makes of the rows' states (rows, longest, width)."""
    if isinstance(base.pooler, torch.nn.Linear):  # ALBERT has a pooler's parts in place of one
        pooled: torch.Tensor = base.pooler_activation(base.pooler(states[:, 0]))
    else:
        pooled = base.pooler(states)
    return pooled


def _counted_from(base: Any) -> int | None:
    """The padding id from which positions are counted (RoBERTa and its kin); None where they count from 0."""
    for name, module in base.named_modules():
        padding: int | None = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            return padding
    return None
