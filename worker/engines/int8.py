"""Linear layers with weights of eight bits, on a CPU.

Knows matrices and how torch's oneDNN kernels multiply bytes. Must not know architectures beyond where their stacks of
layers are, nor tasks, documents or batches.

A weight is rounded to 127 steps on either side of zero, with a scale for each output. An input is rounded to 256 steps,
with a scale for each row of it, so that what a row gives depends on nothing that shares its batch: a document's outputs
stay its own, as in float32. Sums are exact (32 bits). What is not a stack's layer (embeddings, attention, norms, heads)
stays in float32, but for the head of a decoder that makes its own products with `int8_linear`.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from corpusmill.errors import ModelFault
from worker.models.loading import first_line

#: Elements of an input that are rounded together: a core's second-level cache holds them.
_ROUNDED_AT_ONCE = 96 << 10
#: Rows go to the kernel in multiples of this: it builds a program for each number of rows it meets.
_ROW_STEP = 16
#: Layers narrower than this on a side stay in float32: rounding their inputs costs what the product saves.
_LEAST_SIDE = 64
#: Layers that attention gives one input, by the names that transformers' models have for them.
_SIBLINGS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"), ("q", "k", "v"),
             ("query_proj", "key_proj", "value_proj"))  # fmt: skip
_TINY = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """Rows of an input as bytes: row r is about `low[r] + levels[r] * reach[r] / 255`.

    `levels` (rows or a few more, inputs) is uint8, `low` and `reach` are (rows, 1).
    """

    levels: torch.Tensor
    low: torch.Tensor
    reach: torch.Tensor


def rounded(rows: torch.Tensor) -> Rounded:
    """Rows (rows, inputs) of float32, each rounded to 256 steps between its least and its largest value."""
    count, width = rows.shape
    levels = torch.empty(_padded(count), width, dtype=torch.int8)
    low, reach = torch.empty(count, 1), torch.empty(count, 1)
    step = max(_ROW_STEP, _ROUNDED_AT_ONCE // width)
    scratch = torch.empty(min(step, count), width)
    for start in range(0, count, step):
        chunk = rows[start : start + step]
        least, scaled = low[start : start + step], scratch[: len(chunk)]
        torch.amin(chunk, dim=1, keepdim=True, out=least)
        torch.amax(chunk, dim=1, keepdim=True, out=reach[start : start + step])
        factor = 255.0 / reach[start : start + step].sub_(least).clamp_(min=_TINY)
        torch.mul(chunk, factor, out=scaled)
        scaled.sub_(factor.mul_(least).add_(128.0)).round_()
        levels[start : start + len(chunk)].copy_(scaled)
    # The kernel is fast for unsigned bytes, and the conversion from float32 for signed ones, 128 less.
    return Rounded(levels.view(torch.uint8).bitwise_xor_(128), low, reach)


class Memo:
    """The last rounded input, for layers that are given one tensor after another (queries, keys, values): it is known
    again by its identity, and let go of when all of them have had it."""

    def __init__(self, users: int) -> None:
        self._users = users
        self._uses = 0
        self._inputs: torch.Tensor | None = None
        self._rounded: Rounded | None = None

    def rounded(self, inputs: torch.Tensor, rows: torch.Tensor) -> Rounded:
        """`rows` of `inputs`, rounded now or before."""
        if self._inputs is not inputs or self._rounded is None:
            self._inputs, self._rounded, self._uses = inputs, rounded(rows), 0
        found = self._rounded
        self._uses += 1
        if self._uses == self._users:
            self._inputs = self._rounded = None
        return found


class Int8Linear(torch.nn.Module):
    """`x @ weight.T + bias` with the weight in int8. Takes (..., inputs) and gives (..., outputs), both float32.

    Raises ModelFault, when it is made, where this machine has no kernel for it.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        steps = _steps()
        self.out_features, self.in_features = weight.shape
        self.own_bytes = weight.numel() + 12 * self.out_features
        self.memo: Memo | None = None
        with torch.no_grad():
            levels, self._scales = quantized(weight.detach().float(), steps)
            self._sums = levels.float().sum(dim=1).mul_(self._scales)
            # Opaque to torch: it has a data type and a shape but no storage, so it can be no parameter and no buffer.
            self.weight = torch.ops.onednn.qlinear_prepack(levels, None)
            self._zeros = torch.zeros(self.out_features, dtype=torch.int32)
            self._shift = torch.zeros(self.out_features) if bias is None else bias.detach().float().clone()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """x @ w.T = low * sum(w) + reach * (levels / 255) @ w.T, row by row."""
        rows = inputs.reshape(-1, self.in_features)
        given = rounded(rows) if self.memo is None else self.memo.rounded(inputs, rows)
        product = _product(given.levels, 1 / 255, self.weight, self._scales, self._zeros)[: len(rows)]
        torch.addcmul(self._shift, product, given.reach, out=product).addcmul_(given.low, self._sums)
        return product.view(*inputs.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def _product(
    levels: torch.Tensor, scale: float, weight: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    """`levels * scale` (rows, inputs) times a packed weight with its `scales` (outputs,), in float32."""
    product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        levels, scale, 0, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


def _padded(rows: int) -> int:
    return -(-rows // _ROW_STEP) * _ROW_STEP


def quantized(weight: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (outputs, inputs) as int8 within ±`steps`, and the scale (outputs,) of each of its rows."""
    scales = weight.abs().amax(dim=1).clamp_(min=_TINY).div_(steps)
    return weight.div(scales.unsqueeze(1)).round_().to(torch.int8), scales


def int8_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Int8Linear:
    """The product with a weight (outputs, inputs) and a bias, for decoders that make their own."""
    return Int8Linear(weight, bias)


def quantize_linears(model: torch.nn.Module) -> int:
    """Put an `Int8Linear` in the place of every linear layer of the model's stacks. Returns how many there were.

    A stack is what a `ModuleList` holds: heads, poolers and embeddings stand outside and stay as they are. Each float
    weight is let go of as soon as its bytes are made. Raises ModelFault where the model has no such layer, where one
    is not float32, or where this machine has no kernel for them.
    """
    places: dict[int, tuple[torch.nn.Linear, list[tuple[torch.nn.Module, str]]]] = {}
    for parent, name, linear in _stacked(model):
        places.setdefault(id(linear), (linear, []))[1].append((parent, name))
    if not places:
        raise ModelFault(f"{type(model).__name__} has no linear layers that int8 could replace: use engine auto.")
    while places:  # popped one by one, so that nothing here keeps a replaced weight
        _, (linear, uses) = places.popitem()
        if linear.weight.dtype != torch.float32 or linear.weight.device.type != "cpu":
            raise ModelFault("int8 is made of float32 weights on a CPU: leave dtype at auto or float32.")
        replacement = Int8Linear(linear.weight, linear.bias)
        for parent, name in uses:
            setattr(parent, name, replacement)
    for module in model.modules():
        _share(module)
    return sum(1 for module in model.modules() if isinstance(module, Int8Linear))


def _share(module: torch.nn.Module) -> None:
    """Let projections of one input, as attention has them, round it once."""
    for names in _SIBLINGS:
        layers = [getattr(module, name, None) for name in names]
        alike = [layer for layer in layers if isinstance(layer, Int8Linear)]
        if len(alike) == len(names) and len({layer.in_features for layer in alike}) == 1:
            memo = Memo(len(alike))
            for layer in alike:
                layer.memo = memo


def int8_bytes(model: torch.nn.Module) -> int:
    """Bytes that the weights of a model's int8 layers hold, which are neither parameters nor buffers."""
    return sum(module.own_bytes for module in model.modules() if isinstance(module, Int8Linear))


def _stacked(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Linear]]:
    """(parent, name, layer) of every linear layer in a stack; one that is shared comes for each of its places.

    Of exact type only: a subclass may compute something else. Layers of a size that the kernel does not gain from are
    left out.
    """
    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    seen = set()
    for stack in stacks:
        for parent in stack.modules():
            for name, child in parent.named_children():
                if (
                    type(child) is torch.nn.Linear
                    and min(child.weight.shape) >= _LEAST_SIDE
                    and (parent, name) not in seen
                ):
                    seen.add((parent, name))
                    yield parent, name, child


@functools.cache
def _steps() -> int:
    """Steps on either side of zero that a weight is rounded to: 127, or 63 where the processor adds pairs of products
    in 16 bits (those without VNNI), tried on the largest bytes there are."""
    why = "it is not x86-64" if platform.machine() not in {"x86_64", "AMD64"} else "its results are not exact"
    for steps in (127, 63):
        try:
            if _exact(steps):
                return steps
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            why = first_line(error)
            break
    raise ModelFault(f"This machine's processor has no kernel for int8 ({why}): use engine auto.")


def _exact(steps: int) -> bool:
    """Whether products of bytes come out whole: all at their largest, of either sign, on a few rows and on many."""
    signs = torch.ones(64, 256, dtype=torch.int8)
    signs[1::2] = -1
    weight = torch.ops.onednn.qlinear_prepack(signs * steps, None)
    scales, zeros = torch.ones(64), torch.zeros(64, dtype=torch.int32)
    expected = signs[:, 0].float() * (255 * steps * 256)
    for rows in (_ROW_STEP, 256):
        levels = torch.full((rows, 256), 255, dtype=torch.uint8)
        if not torch.equal(_product(levels, 1.0, weight, scales, zeros), expected.expand(rows, -1)):
            return False
    return True
