"""Matrix products with fixed weights: the one place through which every projection of the decoder goes.

Knows torch's kernels. Must not know what is projected. A factory with the signature of `Factory` may be handed to
`SlotDecoder` in the place of the one here, to hold weights in another form (8-bit integers).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

#: x (rows, inputs) to (rows, outputs).
Linear = Callable[[torch.Tensor], torch.Tensor]
#: Makes a Linear of a weight (outputs, inputs) and a bias (outputs,) or None, both left as they are. What it makes may
#: say in an attribute `own_bytes` what it holds beside that weight.
Factory = Callable[[torch.Tensor, torch.Tensor | None], Linear]

#: Rows for which oneDNN is asked to lay the weights out; any number of rows may follow.
_USUAL_ROWS = 64


class PlainLinear:
    """The weights as they are. T5 keeps some in float32 among halves: what goes in is cast to the weight's type."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x.to(self._weight.dtype), self._weight, self._bias)


class BlockedLinear:
    """float32 weights on a CPU, laid out once as oneDNN's kernels read them.

    `functional.linear` lays them out anew in each call: for the few rows of a decoder step up to half of its time.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _USUAL_ROWS)
        self._weight: torch.Tensor = laid_out
        self._bias = bias
        self.own_bytes = weight.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return product


def factory_for(device: torch.device, dtype: torch.dtype) -> Factory:
    """The fastest exact form of weights for a device."""
    blocked = device.type == "cpu" and dtype is torch.float32 and torch._C._has_mkldnn
    return BlockedLinear if blocked and hasattr(torch.ops.mkldnn, "_reorder_linear_weight") else PlainLinear
