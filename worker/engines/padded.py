"""A batch of rows through a classifier, padded to its longest row.

Knows the model's forward and the device. Must not know documents or what logits mean. Another way of running a batch
takes this one's place by the same `logits`, `tokens` and `name`.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from corpusmill.errors import ModelFault
from worker.device import Device, is_device_lost
from worker.models.loading import first_line
from worker.models.rows import Indices, Rows, plan_rows, unused_id
from worker.models.tokens import TextEncoder

#: Largest difference that padding may make to a logit, relative to the largest one.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_PROBES = ("One.", "A short text, and then some.", "Is a longer text beside it scored as it would be alone? " * 3)
#: What a model raises for inputs that it cannot take, and for a defect of its own.
MODEL_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError, NotImplementedError)


class PaddedForward:
    """Runs batches of rows. Where padding would change the outputs, rows of equal length only go together.

    Raises ModelFault, when it is made, where the model cannot be run or has not one output for each of `labels`.
    """

    def __init__(
        self, model: Any, tokenizer: Any, encoder: TextEncoder, *, device: Device, limit: int, labels: int
    ) -> None:
        self._model = model
        self._device = device.torch_device
        self._has_types = encoder.has_types
        self._labels = labels
        self._accepts = frozenset(inspect.signature(model.forward).parameters)
        self._vocabulary: int | None = getattr(model.get_input_embeddings(), "num_embeddings", None)
        self._pad_type = getattr(tokenizer, "pad_token_type_id", 0) or 0
        # XLNet reads its answer at the last column, so that texts must end there
        self._pad_left = model.config.model_type == "xlnet"
        self._mixes = "attention_mask" in self._accepts and self._padding_is_harmless(encoder, limit)

    @property
    def name(self) -> str:
        """What the job's record calls this way of running."""
        return "padded" if self._mixes else "equal-length"

    def tokens(self, lengths: Indices) -> int:
        """Tokens, padding included, that rows of these lengths put through the model."""
        return int(lengths.max() * len(lengths) if self._mixes else lengths.sum())

    def logits(self, rows: Rows, batch: Indices) -> torch.Tensor:
        """Logits (batch, labels) of some rows, in float32 on the host."""
        if self._mixes or len(batch) == 1:
            return self._forward(rows, batch)
        lengths = rows.lengths[batch]
        logits = torch.empty((len(batch), self._labels))
        for length in np.unique(lengths):
            where = np.flatnonzero(lengths == length)
            logits[torch.from_numpy(where)] = self._forward(rows, batch[where])
        return logits

    def _forward(self, rows: Rows, batch: Indices) -> torch.Tensor:
        config = self._model.config.get_text_config()
        pad = config.pad_token_id
        ids, mask, types = rows.padded(batch, pad=pad or 0, pad_type=self._pad_type, left=self._pad_left)
        if pad is not None or len(batch) == 1:
            return self._call(ids, mask, types)
        # A decoder (GPT-2) takes a text's last token to be the last one that is no padding. Where it has no padding
        # token, any id that no text of the batch holds will do, and no text's own token can be mistaken for it.
        chosen = unused_id(ids[mask == 1], self._vocabulary or int(ids.max()) + 2)
        if chosen is None:
            return torch.cat([self._forward(rows, batch[index : index + 1]) for index in range(len(batch))])
        ids[mask == 0] = chosen
        config.pad_token_id = chosen
        try:
            return self._call(ids, mask, types)
        finally:
            config.pad_token_id = None

    def _call(self, ids: Indices, mask: Indices, types: Indices) -> torch.Tensor:
        if self._vocabulary is not None and ids.max() >= self._vocabulary:
            # said here, because on a GPU it would end the process
            raise IndexError(f"the tokenizer gave an id that the model's {self._vocabulary} embeddings do not hold")
        given = {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": types} if self._has_types else {})
        inputs: dict[str, Any] = {
            name: torch.from_numpy(values).to(self._device) for name, values in given.items() if name in self._accepts
        }
        inputs |= dict.fromkeys(self._accepts & {"use_cache", "use_mems"}, False)  # nothing follows this forward
        with torch.inference_mode():
            logits: torch.Tensor = self._model(**inputs).logits
            return logits.float().cpu()

    def _padding_is_harmless(self, encoder: TextEncoder, limit: int) -> bool:
        """Whether texts of mixed lengths score together as they do alone, tried on three: where convolutions or "
        "transforms
        stand in for attention, padding leaks into the texts."""
        rows = plan_rows((encoder.encode(_PROBES),), encoder.single, limit, "truncate")
        try:
            alone = torch.cat([self._forward(rows, np.array([index])) for index in range(len(_PROBES))])
            together = self._forward(rows, np.arange(len(_PROBES)))
        except MODEL_ERRORS as error:
            if is_device_lost(error):
                raise
            raise ModelFault(f"The model cannot be run: {type(error).__name__}: {first_line(error)}") from error
        if alone.shape[1] != self._labels:
            raise ModelFault(f"The model has {alone.shape[1]} outputs, and its configuration {self._labels} labels.")
        tolerance = _TOLERANCE[self._model.dtype] * max(1.0, float(alone.abs().max()))
        return float((alone - together).abs().max()) <= tolerance
