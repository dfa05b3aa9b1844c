"""The slots: for each source that is being decoded its keys and values, its tokens so far and where it stands.

Knows tensors and a decoder's measures. Slots 0 to `live` - 1 hold a source each; whoever ends is replaced, by the next
source or by the last slot's. Must not know settings, or how tokens are chosen: a `Choice` keeps what it needs in
`more`, tensors whose first dimension is the slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.engines.decoding.weights import Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many slots, for sources and outputs of how many tokens at most, and how many beams each."""

    slots: int
    source: int
    output: int
    beams: int


class Slots:
    """Preallocated caches and bookkeeping; made of `former` slots, they take over their live sources and their caches.

    `keys` and `values` are, layer by layer, (slots, heads, output, beams, head size); `cross_keys` and `cross_values`
    (slots, heads, source, head size). `tokens` (slots, beams, output) are the outputs so far, `places` (slots,) the place
    of the last of them, `lengths` (slots,) the sources' lengths and `longest` (slots,) the outputs' limits.
    `ancestors` (slots, beams, output) says in which beam's cache each place of a beam's history stands: beams are never
    moved.
    """

    def __init__(self, decoder: Decoder, size: Size, former: Slots | None = None) -> None:
        self.size = size
        self.live: int = 0 if former is None else former.live
        device, heads, head = decoder.device, decoder.heads, decoder.head_size

        def caches(old: list[torch.Tensor], *shape: int) -> list[torch.Tensor]:
            """New caches with what the former slots hold, each of which is freed before the next is made."""
            made: list[torch.Tensor] = []
            for layer in range(len(decoder.layers)):
                cache = torch.zeros((size.slots, heads, *shape, head), dtype=decoder.dtype, device=device)
                if old:
                    _copy(old[layer], cache, self.live)
                    old[layer] = cache[:0]
                made.append(cache)
            return made

        def numbers(*shape: int) -> torch.Tensor:
            return torch.zeros((size.slots, *shape), dtype=torch.long, device=device)

        keys, values, cross_keys, cross_values = ([], [], [], []) if former is None else former.caches()
        self.keys, self.values = caches(keys, size.output, size.beams), caches(values, size.output, size.beams)
        self.cross_keys, self.cross_values = caches(cross_keys, size.source), caches(cross_values, size.source)
        self.tokens = numbers(size.beams, size.output)
        self.places, self.longest = numbers(), numbers()
        self.lengths = numbers() + 1  # a slot that nobody has used attends to something too
        self.ancestors = numbers(size.beams, size.output if size.beams > 1 else 0).to(torch.uint8)
        self.more: list[torch.Tensor] = []

    def admit(self, crosses: torch.Tensor, start: int, longest: int, slot: int) -> None:
        """Put a source into a slot; `crosses` (2 × layers, heads, length, head size) has its keys and values in turn."""
        length = crosses.shape[2]
        for layer, (keys, values) in enumerate(zip(self.cross_keys, self.cross_values, strict=True)):
            keys[slot, :, :length] = crosses[2 * layer]
            values[slot, :, :length] = crosses[2 * layer + 1]
        self.lengths[slot], self.longest[slot], self.places[slot] = length, longest, 0
        self.tokens[slot, :, 0] = start

    def move(self, origin: int, target: int, source: int, output: int) -> None:
        """Copy a slot's contents, up to so many tokens, into another slot."""
        for cache in (*self.keys, *self.values):
            cache[target, :, :output] = cache[origin, :, :output]
        for cache in (*self.cross_keys, *self.cross_values):
            cache[target, :, :source] = cache[origin, :, :source]
        for tensor in self._books():
            tensor[target] = tensor[origin]

    def take_over(self, former: Slots) -> None:
        """Keep the books of the sources whose caches were taken from the former slots."""
        for mine, theirs in zip(self._books(), former._books(), strict=True):
            _copy(theirs, mine, self.live)

    def caches(self) -> tuple[list[torch.Tensor], ...]:
        """Keys, values, cross keys and cross values, layer by layer."""
        return self.keys, self.values, self.cross_keys, self.cross_values

    def _books(self) -> list[torch.Tensor]:
        return [self.tokens, self.places, self.longest, self.lengths, self.ancestors, *self.more]


def _copy(origin: torch.Tensor, target: torch.Tensor, live: int) -> None:
    """What both have room for, of the first `live` slots."""
    shared = (slice(live), *(slice(min(pair)) for pair in zip(origin.shape[1:], target.shape[1:], strict=True)))
    target[shared] = origin[shared]
