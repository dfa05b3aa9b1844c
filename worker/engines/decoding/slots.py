"""The slots: for each source that is being decoded its keys and values, its tokens so far and where it stands.

Knows tensors and a decoder's measures. Slots 0 to `live` - 1 hold a source each; whoever ends is replaced, by the next
source or by the last slot's. Must not know settings, or how tokens are chosen: a `Choice` keeps what it needs in
`more`, tensors whose first dimension is the slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker.engines.decoding.weights import Decoder

#: Devices on which groups follow what their slots need. Elsewhere graphs are captured, which need caches that never move.
_FOLLOWING = frozenset({"cpu"})
#: Slots of a group that follows. One long source makes all of its group read as many keys and values as itself.
_TOGETHER = 8
#: Tokens by which such a group's outputs get room.
_GRAIN = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many slots, for sources and outputs of how many tokens at most, and how many beams each."""

    slots: int
    source: int
    output: int
    beams: int


class Group:
    """The caches of slots `first` to `stop` - 1, which attend together, for sources and outputs of so many tokens.

    `keys` and `values` are, layer by layer, (slots, heads, output, beams, head size); `cross_keys` and `cross_values`
    (slots, heads, source, head size).
    """

    def __init__(self, decoder: Decoder, first: int, stop: int, beams: int) -> None:
        self.first, self.stop = first, stop
        self.source = self.output = 0

        def caches(*shape: int) -> list[torch.Tensor]:
            whole = (stop - first, decoder.heads, 0, *shape, decoder.head_size)
            return [torch.zeros(whole, dtype=decoder.dtype, device=decoder.device) for _ in decoder.layers]

        self.keys, self.values = caches(beams), caches(beams)
        self.cross_keys, self.cross_values = caches(), caches()

    @property
    def caches(self) -> tuple[list[torch.Tensor], ...]:
        """Keys, values, cross keys and cross values, layer by layer."""
        return self.keys, self.values, self.cross_keys, self.cross_values

    def resize(self, source: int, output: int, former: Group | None = None, live: int | None = None) -> None:
        """Room for sources and outputs of so many tokens, with what was held of them: here, or in a former group's first
        `live` slots, which it loses."""
        held = self if former is None else former
        lengths = output, output, source, source
        for mine, theirs, length in zip(self.caches, held.caches, lengths, strict=True):
            for layer, old in enumerate(theirs):
                if former is None and old.shape[2] == length:
                    continue
                shape = list(mine[layer].shape)
                shape[2] = length
                made = old.new_zeros(shape)
                _copy(old, made, len(old) if live is None else live)
                mine[layer] = made
                if former is not None:
                    theirs[layer] = made[:0]  # so that the old one is freed before the next is made
        self.source, self.output = source, output


class Slots:
    """Caches and bookkeeping; made of `former` slots, they take over their live sources and their caches.

    The caches stand in `groups`. On a CPU these are small and little longer than their slots need (`fit`): a step for
    few rows is bound by the memory that it reads, and a cache without gaps is read faster. Where the slots are `fixed`,
    as on other devices, there is one group of the full size, which never moves.

    `tokens` (slots, beams, output) are the outputs so far, `places` (slots,) the place of the last of them, `lengths`
    (slots,) the sources' lengths and `longest` (slots,) the outputs' limits. `ancestors` (slots, beams, output) says in
    which beam's cache each place of a beam's history stands: beams are never moved.
    """

    def __init__(self, decoder: Decoder, size: Size, former: Slots | None = None) -> None:
        self.size = size
        self.live: int = 0 if former is None else former.live
        self.fixed = decoder.device.type not in _FOLLOWING
        device, together = decoder.device, size.slots if self.fixed else _TOGETHER

        def numbers(*shape: int) -> torch.Tensor:
            return torch.zeros((size.slots, *shape), dtype=torch.long, device=device)

        self.groups = [
            Group(decoder, first, min(first + together, size.slots), size.beams)
            for first in range(0, size.slots, together)
        ]
        for group, old in zip(self.groups, former.groups if former else (), strict=False):
            live = min(self.live - group.first, group.stop - group.first)
            if live > 0:
                whole = (size.source, size.output) if self.fixed else (old.source, old.output)
                group.resize(min(whole[0], size.source), min(whole[1], size.output), old, live)
        if self.fixed:
            self.groups[0].resize(size.source, size.output)
        self.tokens = numbers(size.beams, size.output)
        self.places, self.longest = numbers(), numbers()
        self.lengths = numbers() + 1  # a slot that nobody has used attends to something too
        self.ancestors = numbers(size.beams, size.output if size.beams > 1 else 0).to(torch.uint8)
        self.more: list[torch.Tensor] = []

    def admit(self, crosses: torch.Tensor, start: int, longest: int, slot: int) -> None:
        """Put a source into a slot; `crosses` (2 × layers, heads, length, head size) has its keys and values in turn."""
        length = crosses.shape[2]
        group, row = self._place(slot)
        group.resize(max(length, group.source), group.output)
        for layer, (keys, values) in enumerate(zip(group.cross_keys, group.cross_values, strict=True)):
            keys[row, :, :length] = crosses[2 * layer]
            values[row, :, :length] = crosses[2 * layer + 1]
        self.lengths[slot], self.longest[slot], self.places[slot] = length, longest, 0
        self.tokens[slot, :, 0] = start

    def move(self, origin: int, target: int, source: int, output: int) -> None:
        """Copy a slot's contents, up to so many tokens, into another slot."""
        (group, row), (mine, here) = self._place(origin), self._place(target)
        mine.resize(max(source, mine.source), max(output, mine.output))
        for length, theirs, ours in zip((output, output, source, source), group.caches, mine.caches, strict=True):
            for old, new in zip(theirs, ours, strict=True):
                new[here, :, :length] = old[row, :, :length]
        for tensor in self._books():
            tensor[target] = tensor[origin]

    def fit(self, sources: Sequence[int], outputs: Sequence[int]) -> None:
        """Room in the groups for live slots with sources and outputs of so many tokens, and none where half is enough."""
        for group in self.groups if not self.fixed else ():
            if group.first >= len(sources):
                return
            source = max(sources[group.first : group.stop])
            output = -(-max(outputs[group.first : group.stop]) // _GRAIN) * _GRAIN
            output = min(output, self.size.output)
            group.resize(
                group.source if source <= group.source < 2 * source else source,
                group.output if output <= group.output < 2 * output else output,
            )

    def take_over(self, former: Slots) -> None:
        """Keep the books of the sources whose caches were taken from the former slots."""
        for mine, theirs in zip(self._books(), former._books(), strict=True):
            _copy(theirs, mine, self.live)

    def _place(self, slot: int) -> tuple[Group, int]:
        """A slot's group, and which of its slots it is."""
        group = self.groups[slot // self.groups[0].stop]
        return group, slot - group.first

    def _books(self) -> list[torch.Tensor]:
        return [self.tokens, self.places, self.longest, self.lengths, self.ancestors, *self.more]


def _copy(origin: torch.Tensor, target: torch.Tensor, live: int) -> None:
    """What both have room for, of the first `live` slots."""
    shared = (slice(live), *(slice(min(pair)) for pair in zip(origin.shape[1:], target.shape[1:], strict=True)))
    target[shared] = origin[shared]
