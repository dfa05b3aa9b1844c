"""Linear layers by oneDNN, with their weights laid out once and the GELU that follows them in the same kernel.

Knows linear layers and, by the names of their parts, the feed-forward blocks of transformers' encoders. Must not know
texts or batches. For float32 on a CPU. torch gives a linear layer to MKL, which lays its weight out anew at each call; on
processors that MKL was not made for it computes more slowly too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import nn

#: A linear layer and the activation of its outputs, by their names in a block: BERT and its kin, DistilBERT, ALBERT.
_PAIRS = (("dense", "intermediate_act_fn"), ("lin1", "activation"), ("ffn", "activation"))
#: Rows for which oneDNN is asked to lay the weights out; any number of rows may follow.
_USUAL_ROWS = 1_024
#: The exact GELU, by the error function; the others are approximations of it.
_EXACT = ("GELUActivation", "GELU")
#: Rows, inputs and outputs of the product by which the two libraries are compared: some ten milliseconds a call.
_COMPARED = (512, 768, 768)
#: Share of the usual time within which a laid out layer must stay to be used.
_WORTH = 0.97
#: Largest difference that the layers laid out may make to an output, relative to the largest one.
_TOLERANCE = 1e-5
_FAULTS = (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError, NotImplementedError)


class LaidOut(nn.Module):
    """`linear(x)`, x (…, inputs) to (…, outputs), or with `then` "gelu" `gelu(linear(x))`, for float32 on a CPU."""

    def __init__(self, linear: nn.Linear, then: str = "none") -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.own_bytes = linear.weight.nbytes
        # Opaque to torch: it has a data type and a shape but no address, so it can be no parameter and no buffer.
        self.weight: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.contiguous(), _USUAL_ROWS)
        self._then = then

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the class says."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self._then, [], "none")
        return product

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, then={self._then}"


def fuse(model: Any) -> int:
    """Fuse linear layers in float32 with the exact GELU that follows them, in place; how many there were.

    The model must be on a CPU. Measured with BERT-base's sizes on one core of a Xeon: 130 to 145 GFLOP/s
    apart, 165 to 190 together.
    """
    if not _works():
        return 0
    count = 0
    for block in list(model.modules()):
        for linear, activation in _PAIRS:
            if _fits(getattr(block, linear, None), getattr(block, activation, None)):
                setattr(block, linear, LaidOut(getattr(block, linear), "gelu"))
                setattr(block, activation, nn.Identity())
                count += 1
    return count


def lay_out(model: Any) -> int:
    """Lay out the other linear layers of the model's stacks that are in float32, in place, where that is faster here; how
    many there were.

    The model must be on a CPU. The first layer of each stack is tried: where the model does not run with it
    (it may look at its weights itself), or gives something else, all stay as they are. Measured on one core of an AMD
    EPYC with AVX-512, 1,024 rows of BERT-base's sizes: 86 to 92 GFLOP/s by MKL, 104 to 107 laid out.
    """
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    replaced: dict[int, LaidOut] = {}
    before = [(*place, getattr(*place)) for stack in stacks for place in _linears(stack[0])]
    if not before or not _works() or not _pays():
        return 0
    try:
        expected = _outputs(model)
        for parent, name, linear in before:
            setattr(parent, name, replaced.setdefault(id(linear), LaidOut(linear)))
        fine = _near(_outputs(model), expected)
    except _FAULTS:
        fine = False
    if not fine:
        for parent, name, linear in before:
            setattr(parent, name, linear)
        return 0
    del before  # which holds weights that nothing needs any more
    for stack in stacks:
        for parent, name in _linears(stack):
            linear = getattr(parent, name)
            setattr(parent, name, replaced.setdefault(id(linear), LaidOut(linear)))
    return len(replaced)


def laid_out_bytes(model: nn.Module) -> int:
    """Bytes that laid out weights hold, which are neither parameters nor buffers."""
    return sum(module.own_bytes for module in model.modules() if isinstance(module, LaidOut))


def _linears(stack: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Where float32 linear layers stand, by parent and name. Of exact type only: a subclass may compute another thing."""
    for parent in list(stack.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.weight.dtype is torch.float32:
                yield parent, name


def _outputs(model: Any) -> torch.Tensor:
    """What the model gives for a few tokens. Raises what the model raises."""
    with torch.inference_mode():
        output = model(input_ids=torch.arange(5, 13).unsqueeze(0))
        found: torch.Tensor = output[0]
        return found


def _near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return float((found - expected).abs().max()) <= _TOLERANCE * max(1.0, float(expected.abs().max()))


@cache
def _works() -> bool:
    """Whether this build of torch has the kernels, and they give what the parts give."""
    if not (torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    with torch.random.fork_rng(devices=[]):
        linear = nn.Linear(16, 32)
    x = torch.linspace(-3.0, 3.0, 48).view(3, 16)
    with torch.inference_mode():
        try:
            return torch.allclose(LaidOut(linear, "gelu")(x), nn.functional.gelu(linear(x)), atol=1e-5) and (
                torch.allclose(LaidOut(linear)(x), linear(x), atol=1e-5)
            )
        except RuntimeError:
            return False


@cache
def _pays() -> bool:
    """Whether laid out layers are faster on this machine than those of torch, by the CPU seconds of some calls in turn."""
    rows, inputs, outputs = _COMPARED
    with torch.random.fork_rng(devices=[]):  # a load must not move the draws of whoever loads
        linear = nn.Linear(inputs, outputs).requires_grad_(False)
        x = torch.randn(rows, inputs)
    laid = LaidOut(linear)
    taken: dict[Callable[[torch.Tensor], Any], list[float]] = {linear: [], laid: []}
    with torch.inference_mode():
        for _ in range(6):
            for layer, seconds in taken.items():
                started = time.process_time()
                layer(x)
                seconds.append(time.process_time() - started)
    usual, ours = (statistics.median(seconds[1:]) for seconds in taken.values())
    return ours <= _WORTH * usual


def _fits(linear: Any, activation: Any) -> bool:
    if type(linear) is not nn.Linear or linear.bias is None or linear.weight.dtype is not torch.float32:
        return False
    exact = type(activation).__name__ in _EXACT and getattr(activation, "approximate", "none") == "none"
    return exact and (not hasattr(activation, "act") or activation.act is nn.functional.gelu)
