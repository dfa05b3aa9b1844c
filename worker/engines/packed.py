"""Batches of rows through a classifier, packed end to end where the model allows it, so that nothing is padded.

Knows the ways of running a classifier and which one a model gets. Must not know documents or what logits mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from corpusmill.errors import ModelFault
from worker.device import is_device_lost
from worker.engines.padded import UNUSED, PaddedForward, padding_id
from worker.engines.probes import Probes, probes_of
from worker.engines.trial import MODEL_ERRORS, Alone, mixes, run_alone, why_not_packed, why_not_pruned
from worker.models.loading import first_line
from worker.models.packing import Packing
from worker.models.rows import Indices, Rows
from worker.models.tokens import TextEncoder
from worker.models.transfer import Coming


class Forward(Protocol):
    """A way of running batches of rows. `packs` says whether a batch's size is the sum of its lengths."""

    packs: bool

    @property
    def name(self) -> str:
        """What the job's record calls this way of running."""

    def tokens(self, lengths: Indices) -> int:
        """Tokens, padding included, that rows of these lengths put through the model."""

    def logits(self, rows: Rows, batch: Indices) -> torch.Tensor:
        """Logits (batch, labels) of some rows, in float32 on the host."""

    def launch(self, rows: Rows, batch: Indices) -> Coming:
        """The same, on its way while the device computes."""


class PackedForward:
    """Runs batches of rows packed, by a packing that has been started."""

    packs = True

    def __init__(self, model: Any, packing: Packing, accepts: frozenset[str]) -> None:
        self._model = model
        self._packing = packing
        self._given = dict.fromkeys(accepts & UNUSED, False)

    @property
    def name(self) -> str:
        """As the protocol says."""
        return "packed"

    def tokens(self, lengths: Indices) -> int:
        """As the protocol says: no token is padding."""
        return int(lengths.sum())

    def logits(self, rows: Rows, batch: Indices) -> torch.Tensor:
        """As the protocol says."""
        return self.launch(rows, batch).get()

    def launch(self, rows: Rows, batch: Indices) -> Coming:
        """As the protocol says. Equal lengths run fastest side by side."""
        with padding_id(self._model, rows, batch) as pad, torch.inference_mode():
            if pad is None:
                alone = [self.logits(rows, batch[index : index + 1]) for index in range(len(batch))]
                return Coming(torch.cat(alone))
            pack = self._packing.pack(rows, batch)
            logits: torch.Tensor = self._packing.forward(pack, pad=pad, **self._given).logits
            return Coming(logits.float())


@dataclass(frozen=True, slots=True)
class Chosen:
    """How a model is run; where it is not packed, why (a sentence); the texts on which that was tried; and, where it is
    packed, for which tokens its last layer runs."""

    forward: Forward
    fallback: str | None
    probes: Probes
    last_layer: str | None = None


def forward_for(
    model: Any, tokenizer: Any, encoder: TextEncoder, *, device: torch.device, limit: int, labels: int
) -> Chosen:
    """The fastest way of running a model that gives the outputs of each text alone.

    Raises ModelFault where the model cannot be run, or has not one output for each of `labels`.
    """
    pad_type = getattr(tokenizer, "pad_token_type_id", 0) or 0
    padded = PaddedForward(model, has_types=encoder.has_types, pad_type=pad_type, device=device, labels=labels)
    packing = Packing(model, has_types=encoder.has_types, device=device)
    why = packing.obstacle()
    probes = probes_of(model, tokenizer, encoder.single, limit)
    try:
        alone = run_alone(padded.logits, probes, packing if why is None else None)
        _refuse_mismatch(alone, labels)
        if why is None:
            packed = PackedForward(model, packing, padded.accepts)
            why = why_not_packed(packing, packed.logits, probes, alone, model.dtype)
            if why is None:
                whole = why_not_pruned(packing, packed.logits, probes, alone, model.dtype)
                tokens = "one token of each text" if whole is None else f"every token: {whole}"
                return Chosen(packed, None, probes, tokens)
        padded.mixes = padded.mixes and mixes(padded.logits, probes, alone, model.dtype)
    except MODEL_ERRORS as error:
        if is_device_lost(error):
            raise
        raise ModelFault(f"The model cannot be run: {type(error).__name__}: {first_line(error)}") from error
    return Chosen(padded, why, probes)


def _refuse_mismatch(alone: Alone, labels: int) -> None:
    outputs = alone.outputs.shape[1]
    if outputs != labels:
        raise ModelFault(f"The model has {outputs} outputs, and its configuration {labels} labels.")
