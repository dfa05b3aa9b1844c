"""How the documents of a pack lie, and what a layer may be asked for in the place of its attention over all of them.

Knows lengths and tensors. Must not know how attention is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from worker.models.transfer import placed


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the documents of a pack stand.

    `runs` are neighbours of equal length: (first token, documents, tokens of each). `bounds` (documents + 1,), int32 on
    the device, is where each document begins, and the end. `lasts` (documents,) says where the last token stands that is
    no padding to the model, where that is known. `masks` holds windows already drawn, for the next layer.
    """

    runs: tuple[tuple[int, int, int], ...]
    bounds: torch.Tensor
    longest: int
    lasts: npt.NDArray[np.int64] | None = None
    masks: dict[tuple[int, int, int, int, bool], torch.Tensor] = field(default_factory=dict)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document (documents,)."""
        return np.repeat([length for _, _, length in self.runs], [count for _, count, _ in self.runs])

    @property
    def ordinals(self) -> torch.Tensor:
        """Bounds (documents + 1,) where each document has one token."""
        return torch.arange(len(self.bounds), dtype=self.bounds.dtype, device=self.bounds.device)


class KeysOnly:
    """In the place of a layout: a layer is left where its attention would begin, by raising `Keys`."""


class Keys(Exception):
    """Raised where nothing is wrong: keys and values (1, heads, tokens, width) of a layer, and how its attention looks at
    them; `window` 0 is none."""

    def __init__(self, key: torch.Tensor, value: torch.Tensor, *, causal: bool, window: int) -> None:
        super().__init__()
        self.key, self.value, self.causal, self.window = key, value, causal, window


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """In the place of a layout: one query of each document, which sees all of the document's keys and values here,
    (1, heads, tokens, width); those that the layer makes of its own few tokens are not looked at."""

    key: torch.Tensor
    value: torch.Tensor
    layout: Layout


@dataclass(frozen=True, slots=True, eq=False)
class Associated:
    """In the place of a layout: one query of each document, which sees all of it, with the keys and values never made.

    `states` (1, tokens, inputs) are what they would be made of, by the weights `key` and `value` (heads · width, inputs) and
    the values' `bias` (heads · width,).
    """

    states: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    bias: torch.Tensor | None
    layout: Layout


#: What stands in a model's call for how its documents lie.
Asked = Layout | Reading | Associated | KeysOnly | None


def layout_of(
    lengths: npt.NDArray[np.int64], device: torch.device, lasts: npt.NDArray[np.int64] | None = None
) -> Layout:
    """Documents of these lengths (documents,) end to end."""
    bounds = placed(np.concatenate([[0], np.cumsum(lengths)]), device)
    return Layout(runs=runs_of(lengths), bounds=bounds.int(), longest=int(lengths.max()), lasts=lasts)


def runs_of(lengths: npt.NDArray[np.int64]) -> tuple[tuple[int, int, int], ...]:
    """Runs of equal neighbours of lengths (documents,): (first token, documents, tokens of each)."""
    heads = np.flatnonzero(np.diff(lengths, prepend=-1))
    counts = np.diff(heads, append=len(lengths))
    starts = np.cumsum(lengths)[heads] - lengths[heads]
    return tuple(zip(starts.tolist(), counts.tolist(), lengths[heads].tolist(), strict=True))
