"""A batch of rows through a classifier, padded to its longest row.

Knows the model's forward and the device. Must not know documents or what logits mean. `packed` takes this one's place,
by the same `logits`, `tokens` and `name`, for the models that it can run.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from worker.models.rows import Indices, Rows, refuse_unknown, unused_id
from worker.models.transfer import Coming, placed

#: What a forward would keep for one that follows; none does.
UNUSED = frozenset({"use_cache", "use_mems"})


class PaddedForward:
    """Runs batches of rows. Once `mixes` is set false, where padding would change the outputs, rows of equal length
    only go together."""

    packs = False

    def __init__(self, model: Any, *, has_types: bool, pad_type: int, device: torch.device, labels: int) -> None:
        self._model = model
        self._device = device
        self._has_types = has_types
        self._labels = labels
        self._pad_type = pad_type
        self._vocabulary: int | None = getattr(model.get_input_embeddings(), "num_embeddings", None)
        self.accepts = frozenset(inspect.signature(model.forward).parameters)
        # XLNet reads its answer at the last column, so that texts must end there
        self._pad_left = model.config.model_type == "xlnet"
        self.mixes = "attention_mask" in self.accepts

    @property
    def name(self) -> str:
        """What the job's record calls this way of running."""
        return "padded" if self.mixes else "equal-length"

    def tokens(self, lengths: Indices) -> int:
        """Tokens, padding included, that rows of these lengths put through the model."""
        return int(lengths.max() * len(lengths) if self.mixes else lengths.sum())

    def logits(self, rows: Rows, batch: Indices) -> torch.Tensor:
        """Logits (batch, labels) of some rows, in float32 on the host."""
        if self.mixes or len(batch) == 1:
            return self._forward(rows, batch)
        lengths = rows.lengths[batch]
        logits = torch.empty((len(batch), self._labels))
        for length in np.unique(lengths):
            where = np.flatnonzero(lengths == length)
            logits[torch.from_numpy(where)] = self._forward(rows, batch[where])
        return logits

    def launch(self, rows: Rows, batch: Indices) -> Coming:
        """The same; it has come already."""
        return Coming(self.logits(rows, batch))

    def _forward(self, rows: Rows, batch: Indices) -> torch.Tensor:
        with padding_id(self._model, rows, batch) as pad:
            if pad is None:
                return torch.cat([self._forward(rows, batch[index : index + 1]) for index in range(len(batch))])
            ids, mask, types = rows.padded(batch, pad=pad, pad_type=self._pad_type, left=self._pad_left)
            return self._call(ids, mask, types)

    def _call(self, ids: Indices, mask: Indices, types: Indices) -> torch.Tensor:
        refuse_unknown(ids, self._vocabulary)
        given = {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": types} if self._has_types else {})
        inputs: dict[str, Any] = {
            name: placed(values, self._device) for name, values in given.items() if name in self.accepts
        }
        inputs |= dict.fromkeys(self.accepts & UNUSED, False)
        with torch.inference_mode():
            logits: torch.Tensor = self._model(**inputs).logits
            return logits.float().cpu()


@contextmanager
def padding_id(model: Any, rows: Rows, batch: Indices) -> Iterator[int | None]:
    """An id to pad some rows with, known to the model as padding meanwhile; None where all its ids are in use.

    A decoder (GPT-2) takes a text's last token to be the last one that is no padding. Where it has no padding token, any
    id that no text of the batch holds will do, and no text's own token can be mistaken for it.
    """
    config = model.config.get_text_config()
    if config.pad_token_id is not None or len(batch) == 1:
        yield config.pad_token_id or 0
        return
    ids, _ = rows.packed(batch)
    vocabulary = getattr(model.get_input_embeddings(), "num_embeddings", None)
    chosen = unused_id(ids, vocabulary or int(ids.max()) + 2)
    if chosen is None:
        yield None
        return
    config.pad_token_id = chosen
    try:
        yield chosen
    finally:
        config.pad_token_id = None
