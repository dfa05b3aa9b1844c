"""What this machine can multiply at best, and what an encoder's forward asks of it.

Knows torch's matrix product and the formula of a transformer encoder. Must not know texts or engines.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from typing import Any

import torch

#: Rows, inputs and outputs of the product: the feed-forward layer of a base-sized model over a batch.
SHAPE = (2048, 768, 3072)


def matrix_peak(repeats: int = 9, dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations a second of one linear layer on the CPU, by CPU seconds: the median of some calls.

    Two operations a multiplication. With several threads, CPU seconds would add up: use one.
    """
    rows, inputs, outputs = SHAPE
    x, weight = torch.randn(rows, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
    with torch.inference_mode():
        torch.nn.functional.linear(x, weight)
        taken = []
        for _ in range(repeats):
            started = time.process_time()
            torch.nn.functional.linear(x, weight)
            taken.append(time.process_time() - started)
    return 2 * rows * inputs * outputs / statistics.median(taken)


def encoder_operations(config: Any, lengths: Iterable[int]) -> float:
    """Floating-point operations of an encoder over texts of these true lengths in tokens, padding not counted.

    A layer of width d and feed-forward width f takes 2 (4 d² + 2 d f) a token in its linear layers and 4 L d in the
    attention of a text of L tokens; embeddings, normalization and the classifier's head are left out.
    """
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or config.hidden_dim
    linear = 2 * (4 * width * width + 2 * width * inner)
    return float(config.num_hidden_layers * sum(linear * length + 4 * width * length * length for length in lengths))


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
