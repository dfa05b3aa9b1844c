"""How texts, given by their lengths, are cut into batches, and how outputs find their way back into order.

Knows lengths in tokens. Must not know tensors or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def plan_batches(lengths: Sequence[int], budget: int, *, most: int = 1 << 30) -> list[list[int]]:
    """Cut indices into batches whose padded size, longest × count, stays within `budget` tokens.

    Indices are sorted by length, longest first, so that padding is small and the largest batch (the one that may not fit
    the device) comes first; a single text above the budget is a batch alone. Each index appears exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        current = batches[-1] if batches else None
        if current is None or len(current) >= most or lengths[current[0]] * (len(current) + 1) > budget:
            batches.append([index])
        else:
            current.append(index)
    return batches


def plan_packs(lengths: Sequence[int], budget: int, *, most: int = 1 << 30) -> list[list[int]]:
    """Cut indices into packs, texts end to end without padding, whose sum of lengths stays within `budget` tokens.

    Longest first, so that equal lengths stand side by side; a single text above the budget is a pack alone. Longest ×
    count stays within twice the budget, since what is read off a pack's states may be laid out as a padded array.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    packs: list[list[int]] = []
    longest = total = 0
    for index in order:
        length = lengths[index]
        current = packs[-1] if packs else None
        full = current is None or len(current) >= most or total + length > budget
        if current is None or full or longest * (len(current) + 1) > 2 * budget:
            packs.append([index])
            longest = total = length
        else:
            current.append(index)
            total += length
    return packs


def restore_order(batches: Iterable[Sequence[int]], outputs: Iterable[Sequence[T]]) -> list[T]:
    """Outputs given batch by batch, put back at the indices that the batches name."""
    pairs = [pair for batch, rows in zip(batches, outputs, strict=True) for pair in zip(batch, rows, strict=True)]
    return [output for _, output in sorted(pairs, key=lambda pair: pair[0])]
