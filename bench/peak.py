"""What this machine can multiply at best, and what an encoder's forward asks of it.

Knows torch's matrix products and the formula of a transformer encoder. Must not know texts or engines.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

#: Rows, inputs and outputs of the product: the feed-forward layer of a base-sized model over a batch.
SHAPE = (2048, 768, 3072)


def matrix_peak(repeats: int = 9, dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations a second of one linear layer on the CPU, by CPU seconds: the median of some calls, of the
    faster of what torch has (MKL, and oneDNN with the weight laid out before).

    Two operations a multiplication. With several threads, CPU seconds would add up: use one.
    """
    rows, inputs, outputs = SHAPE
    x, weight = torch.randn(rows, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
    products: list[Callable[[], Any]] = [lambda: torch.nn.functional.linear(x, weight)]
    if dtype is torch.float32 and torch._C._has_mkldnn:
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(x, laid_out, None, "none", [], "none"))
    with torch.inference_mode():
        taken = min(_median_seconds(product, repeats) for product in products)
    return 2 * rows * inputs * outputs / taken


def _median_seconds(product: Callable[[], Any], repeats: int) -> float:
    """CPU seconds of a call: the median of some, after one that does not count."""
    product()
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        product()
        taken.append(time.process_time() - started)
    return statistics.median(taken)


def encoder_operations(config: Any, lengths: Iterable[int], *, one_read: bool = False) -> float:
    """Floating-point operations of an encoder over texts of these true lengths in tokens, padding not counted.

    A layer of width d and feed-forward width f takes 2 (4 d² + 2 d f) a token in its linear layers and 4 L d in the
    attention of a text of L tokens; embeddings, normalization and the classifier's head are left out. Where `one_read`,
    the last layer makes keys and values alone, 4 d² a token, but for one token of each text.
    """
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or config.hidden_dim
    linear, keys = 2 * (4 * width * width + 2 * width * inner), 4 * width * width
    total = 0.0
    for length in lengths:
        whole = linear * length + 4 * width * length * length
        last = keys * length + (linear - keys) + 4 * width * length if one_read else whole
        total += (layers - 1) * whole + last
    return total


def device_peak(device: str, dtype: str, side: int, repeats: int = 9) -> float:
    """Floating-point operations a second of a product of two square matrices on a device, by wall seconds: the median of
    some calls."""
    a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    taken = []
    with torch.inference_mode():
        for _ in range(3 + repeats):
            _wait(device)
            started = time.perf_counter()
            a @ b
            _wait(device)
            taken.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(taken[3:])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
