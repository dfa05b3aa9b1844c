"""What a model must show on a few texts, when it is loaded, before batches of them may go through it together.

Knows outputs and states alone and together. Must not know what the outputs mean.

A pack is taken where the states of every token and the outputs are those of the text alone, and where no text's states
change with its neighbour. Whatever else can go wrong in a pack (positions, masks, windows, poolers, kernels, attention
that cannot be confined) shows there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from worker.device import is_device_lost
from worker.engines.probes import Probes
from worker.models.loading import first_line
from worker.models.packing import Packing
from worker.models.rows import Indices, Rows

#: What a model raises for inputs that it cannot take, and for a defect of its own.
MODEL_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError, NotImplementedError)
#: Largest difference that batching may make to an output, relative to the largest one.
_OUTPUTS = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
#: Largest difference of a text's states in a pack from those alone: root mean square, relative to the states' own. Texts
#: that attend to each other differ by a tenth and more.
_STATES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
#: The same between two packs in which a neighbour differs, whatever the precision: the sums are the same ones.
_LEAK = 1e-4

#: Outputs (batch, n) of some rows, in float32 on the host.
Call = Callable[[Rows, Indices], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Alone:
    """Outputs (texts, n) of texts that went through a model one by one, and the states (tokens, width) of each; no states
    where they were not asked for."""

    outputs: torch.Tensor
    states: list[torch.Tensor]


def run_alone(call: Call, probes: Probes, packing: Packing | None) -> Alone:
    """Every probe alone, by the model's own attention. Raises what the model raises."""
    rows = probes.rows
    if packing is None:
        return Alone(torch.cat([call(rows, np.array([index])) for index in range(len(probes))]), [])
    with packing.watched() as states:
        outputs = torch.cat([call(rows, np.array([index])) for index in range(len(probes))])
    return Alone(outputs, [state[0] for state in states])


def mixes(call: Call, probes: Probes, alone: Alone, dtype: torch.dtype) -> bool:
    """Whether texts of mixed lengths padded together give what they give alone. Where convolutions or transforms stand
    in for attention (FNet), padding leaks into the texts."""
    return _near(call(probes.rows, probes.all), alone.outputs, dtype)


def why_not_packed(packing: Packing, packed: Call, probes: Probes, alone: Alone, dtype: torch.dtype) -> str | None:
    """Start the packing and try it. Where it fails, the model is as it was, and the reason comes back as a sentence."""
    try:
        packing.start()
        why = _difference(packing, packed, probes, alone, dtype)
    except MODEL_ERRORS as error:
        if is_device_lost(error):
            raise
        why = f"The model cannot be run on packs: {type(error).__name__}: {first_line(error)}"
    if why is not None:
        packing.stop()
    return why


def why_not_pruned(packing: Packing, packed: Call, probes: Probes, alone: Alone, dtype: torch.dtype) -> str | None:
    """Have a started packing run its last layer for the tokens alone that the model's head reads, and try it. Where it
    fails, every token goes through all layers as before, and the reason comes back as a sentence."""
    last = packing.last_layer
    why: str | None = None
    for associated in (True, False):
        try:
            if associated:
                with last.watched():
                    packed(probes.rows, probes.all)
            last.start(associated=associated)
            why = _pruned_difference(packing, packed, probes, alone, dtype)
        except MODEL_ERRORS as error:
            if is_device_lost(error):
                raise
            why = f"The last layer cannot be run for some tokens alone: {type(error).__name__}: {first_line(error)}"
        if why is None:
            return None
        last.stop()
    return why


def _pruned_difference(packing: Packing, packed: Call, probes: Probes, alone: Alone, dtype: torch.dtype) -> str | None:
    with packing.watched() as seen:
        outputs = packed(probes.rows, probes.all)
        packed(probes.changed, probes.all)
    together, beside = seen
    # every state that was not computed is no number, and so is what a head makes of one
    held = [
        torch.isfinite(states[: len(own)]).all(dim=1).nonzero()[:, 0]
        for states, own in zip(together, alone.states, strict=True)
    ]
    if not torch.isfinite(outputs).all():
        return "The head reads other tokens of a text."
    apart = max(_distance(together[row, at], alone.states[row][at]) for row, at in enumerate(held))
    if not apart <= _STATES[dtype]:
        return f"Run for one token of a text, the last layer's states differ from those alone by {apart:.1g} of their size."
    leak = max(_distance(beside[row, held[row]], together[row, held[row]]) for row in probes.others)
    if not leak <= _LEAK:
        return f"Run for one token of a text, its states change with its neighbour, by {leak:.1g} of their size."
    if not _near(outputs, alone.outputs, dtype):
        return "Run for one token of a text, the outputs differ from those alone."
    return None


def _difference(packing: Packing, packed: Call, probes: Probes, alone: Alone, dtype: torch.dtype) -> str | None:
    with packing.watched() as seen:
        outputs = packed(probes.rows, probes.all)
        packed(probes.changed, probes.all)
    lengths = probes.rows.lengths.tolist()
    together, beside = ([states[row, :length] for row, length in enumerate(lengths)] for states in seen)
    leak = max(_distance(beside[row], together[row]) for row in probes.others)
    if not leak <= _LEAK:
        return f"In a pack a text's states change with its neighbour, by {leak:.1g} of their size."
    apart = max(_distance(*pair) for pair in zip(together, alone.states, strict=True))
    if not apart <= _STATES[dtype]:
        return f"In a pack the states of a text differ from those alone by {apart:.1g} of their size."
    if not _near(outputs, alone.outputs, dtype):
        return "In a pack the outputs of a text differ from those alone."
    return None


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square of a difference, relative to that of what was expected."""
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt().clamp(min=1e-6))


def _near(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    return float((found - expected).abs().max()) <= _OUTPUTS[dtype] * max(1.0, float(expected.abs().max()))
