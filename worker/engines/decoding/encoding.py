"""Sources through the model's own encoder, and their keys and values for all of the decoder's layers.

Knows the encoder's forward. Must not know slots. Sources of about one length go together, padded and masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from worker.engines.decoding.weights import Decoder
from worker.engines.sources import Ids, padded


@dataclass(frozen=True, slots=True)
class Encoded:
    """A source's keys and values for every layer in turn, (2 × layers, heads, length, head size): a view of its batch."""

    crosses: torch.Tensor


class SourceRunner:
    """Runs batches of sources through the encoder of a model on the decoder's device."""

    def __init__(self, model: Any, decoder: Decoder, pad: int) -> None:
        self._encoder = model.get_encoder()
        self._decoder = decoder
        self._pad = pad

    def encode(self, sources: Sequence[Ids]) -> list[Encoded]:
        """Keys and values of each source (ids with special tokens), in order. Raises what torch raises."""
        ids, mask = padded(sources, self._pad)
        device = self._decoder.device
        output = self._encoder(
            input_ids=torch.from_numpy(ids).to(device), attention_mask=torch.from_numpy(mask).to(device),
            return_dict=True,
        )  # fmt: skip
        hidden: torch.Tensor = output.last_hidden_state
        decoder, (count, width) = self._decoder, ids.shape
        crosses = decoder.cross_kv(hidden.reshape(count * width, -1))
        crosses = crosses.to(decoder.dtype).view(count, width, -1, decoder.heads, decoder.head_size)
        crosses = crosses.permute(0, 2, 3, 1, 4)
        return [Encoded(crosses[row, :, :, : len(source)]) for row, source in enumerate(sources)]
