"""The best entries of long rows, found by blocks: the largest of each block first, then inside the best blocks only.

Knows tensors whose rows are a multiple of `BLOCK`. Exact: the k best entries lie in the k blocks with the largest ones.
"""

from __future__ import annotations

import torch

from worker.engines.decoding.weights import BLOCK


def best_of(scores: torch.Tensor) -> torch.Tensor:
    """The index of each row's largest entry, the first of equal ones. (n, v) to (n,)."""
    blocks = scores.view(len(scores), -1, BLOCK)
    block = blocks.amax(-1).argmax(-1)
    rows = torch.arange(len(scores), device=scores.device)
    return block * BLOCK + blocks[rows, block].argmax(-1)


def best_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and indices (n, k) of each row's k largest entries, largest first. `scores` is (n, v)."""
    blocks = scores.view(len(scores), -1, BLOCK)
    if blocks.shape[1] <= k:
        values, indices = scores.topk(k)
        return values, indices
    chosen = blocks.amax(-1).topk(k).indices
    found = blocks.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK)).flatten(1)
    values, places = found.topk(k)
    return values, chosen.gather(1, places // BLOCK) * BLOCK + places % BLOCK
