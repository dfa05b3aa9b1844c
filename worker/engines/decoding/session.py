"""Continuous batching: sources wait, are encoded, take a slot, and leave it when their output is at its end.

Knows the order of things and memory. Must not know how a step is computed (`forward`), how tokens are chosen (`choices`,
`beams`) or what the sources are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from worker.device import is_out_of_memory, release
from worker.engines.base import Usage
from worker.engines.budget import Budget
from worker.engines.decoding.beams import Beams
from worker.engines.decoding.choices import Choice, Single
from worker.engines.decoding.encoding import Encoded, SourceRunner
from worker.engines.decoding.families import FAMILIES, read_decoder
from worker.engines.decoding.forward import Extent
from worker.engines.decoding.graphs import stepper
from worker.engines.decoding.linear import Factory, Linear, factory_for
from worker.engines.decoding.room import Room
from worker.engines.decoding.rules import Rules, Unsupported
from worker.engines.decoding.selftest import check
from worker.engines.decoding.slots import Size, Slots
from worker.engines.sources import Ids

#: Slots are laid out anew for shorter sources where so many times as many would fit.
_WORTH_MOVING = 1.5
#: A processor's encoder batch of fewer tokens than this is not worth splitting, though padding costs it what tokens do.
_FULL_TOKENS = 256
#: Sources go through the encoder together down to this part of the longest one's length.
_ALIKE = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Ids with special tokens, the longest output for them (start token included), and the seed where it is sampled.

    `key` is the caller's own, to know the source by.
    """

    ids: Ids
    longest: int
    seed: int | None = None
    key: Any = None


def _length(source: Source) -> int:
    return len(source.ids)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A source and its output from start token to end token; None where it does not fit the memory even alone."""

    source: Source
    tokens: list[int] | None


class SlotDecoder:
    """A model's decoder, ready for sessions. Raises Unsupported where the model is not decoded here.

    `linear` makes every matrix product (`linear.Factory`); `tolerance` is what its scores may differ by from the model's
    own, relative to the largest, or None for what its precision allows.
    """

    def __init__(
        self, model: Any, budget: Budget, *, pad: int, linear: Factory | None = None, tolerance: float | None = None
    ) -> None:
        name = type(model).__name__
        if name not in FAMILIES:
            raise Unsupported(f"The architecture {name} is not decoded in slots.")
        embedding = model.get_decoder().embed_tokens.weight
        factory = linear or factory_for(embedding.device, embedding.dtype)
        #: What the decoder holds beside the model's own weights.
        self.own_bytes = 0

        def make(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
            made = factory(weight, bias)
            self.own_bytes += getattr(made, "own_bytes", 0)
            return made

        with torch.no_grad():
            self.decoder = read_decoder(model, make)
        self.runner = SourceRunner(model, self.decoder, pad)
        with torch.inference_mode():
            check(model, self.decoder, self.runner, tolerance)
        self.budget = budget

    @property
    def vocabulary(self) -> int:
        """Tokens that the head knows."""
        return self.decoder.vocabulary

    def session(self, rules: Rules) -> Session:
        """A session for sources that share these rules."""
        return Session(self, rules)


class Session:
    """Sources on their way through the slots. `add` them, and call `advance` as long as it is `busy`."""

    def __init__(self, slot_decoder: SlotDecoder, rules: Rules) -> None:
        decoder = slot_decoder.decoder
        self._decoder = decoder
        self._runner = slot_decoder.runner
        self._rules = rules
        self._room = Room(slot_decoder.budget, decoder.token_bytes)
        self._step = stepper(decoder)
        kind = Beams if rules.beams > 1 else Single
        self._choice: Choice = kind(rules, decoder.vocabulary, decoder.device)
        self._waiting: list[Source] = []
        self._encoded: deque[tuple[Source, Encoded]] = deque()
        self._slots: Slots | None = None
        self._sources: list[Source] = []
        self._ages: list[int] = []
        #: Sources in an encoder batch that is under way, and its padded tokens: for when they do not fit.
        self._encoding: tuple[list[Source], int] = ([], 0)
        #: Rows of a step that is under way.
        self._stepping = 0
        #: What came to its end in a step whose slots are still to be left.
        self._ended: list[Outcome] = []

    @property
    def busy(self) -> bool:
        """Whether any source is not at its end."""
        return bool(self._sources) or self.waits

    @property
    def waits(self) -> bool:
        """Whether any source has no slot yet."""
        return bool(self._waiting or self._encoded)

    def add(self, sources: Iterable[Source]) -> None:
        """More sources; the longest go first, so that what may not fit shows early and the rest ends together."""
        self._waiting += sources
        self._waiting.sort(key=_length)

    @torch.inference_mode()
    def drop(self, unwanted: Callable[[Source], bool]) -> None:
        """Forget sources, wherever they are."""
        self._waiting = [source for source in self._waiting if not unwanted(source)]
        self._encoded = deque(pair for pair in self._encoded if not unwanted(pair[0]))
        try:
            for slot in reversed(range(len(self._sources))):
                if unwanted(self._sources[slot]):
                    self._leave(slot)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            under_way, rows, padded = self._forget()
            self._room.shrink(rows=rows, padded=padded)
            self.add(source for source in under_way if not unwanted(source))

    @torch.inference_mode()
    def advance(self, usage: Usage) -> list[Outcome]:
        """Fill free slots, take one step in all of them, and give the outputs that came to their end with it.

        What is done is counted in `usage`. Where the memory is full, everything under way starts again with half as many
        slots.
        """
        try:
            with usage.phase("model"):
                self._fill(usage)
                return self._advance(usage) if self._sources else []
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        return self._retreat()

    def _fill(self, usage: Usage) -> None:
        while self.waits:
            if not self._encoded:
                if not self._may_take(self._waiting[-1]):
                    return
                self._encode(usage)
            source, encoded = self._encoded[0]
            if not self._may_take(source):
                return
            self._make_way(source)
            self._enter(source, encoded)
            self._encoded.popleft()  # not before it has a slot: if there is no memory for it, it is still known

    def _encode(self, usage: Usage) -> None:
        """The next batch of the longest sources that wait, within the token budget; on a CPU of about one length, where
        these fill it."""
        longest = len(self._waiting[-1].ids)
        count = max(1, min(len(self._waiting), self._room.budget.tokens // longest))
        if self._decoder.device.type == "cpu":
            full = -(-_FULL_TOKENS // longest)
            alike = len(self._waiting) - bisect_left(self._waiting, _ALIKE * longest, key=_length)
            count = min(count, max(full, alike))
        batch = self._waiting[: -count - 1 : -1]
        self._encoding = batch, longest * count
        del self._waiting[-count:]
        self._encoded.extend(zip(batch, self._runner.encode([source.ids for source in batch]), strict=True))
        self._encoding = [], 0
        self._room.fitted()
        usage.batches += 1
        usage.padded_tokens += longest * count

    def _may_take(self, source: Source) -> bool:
        """Whether a slot is free for a source, or may be after the slots are laid out anew."""
        return len(self._sources) < self._fitting(source).slots

    def _fitting(self, source: Source) -> Size:
        """The slots as they are, or as they had better be for a source beside those that are live."""
        now = self._slots.size if self._slots is not None else None
        fits = now is not None and len(source.ids) <= now.source and source.longest <= now.output
        if now is not None and fits and len(self._sources) < now.slots:
            return now
        together = [*self._sources, source]
        best = self._room.size(
            source=max(len(one.ids) for one in together),
            output=max(one.longest for one in together),
            beams=self._rules.beams,
            wanted=len(together) + len(self._waiting) + len(self._encoded),
        )
        return now if now is not None and fits and best.slots < _WORTH_MOVING * now.slots else best

    def _make_way(self, source: Source) -> None:
        """Lay the slots out for a source that `_may_take` has admitted, where they are not fit for it."""
        best, old = self._fitting(source), self._slots
        if old is not None and best == old.size:
            return
        if not self._sources:
            self._slots = old = None  # before the new ones take their memory
        self._slots = Slots(self._decoder, best, old)
        self._choice.prepare(self._slots)
        if old is not None:
            self._slots.take_over(old)
        self._step.forget()

    def _enter(self, source: Source, encoded: Encoded) -> None:
        assert self._slots is not None
        slot = self._slots.live
        self._slots.admit(encoded.crosses, self._rules.start, source.longest, slot)
        self._choice.admit(self._slots, slot, source.seed)
        self._slots.live += 1
        self._sources.append(source)
        self._ages.append(0)

    def _advance(self, usage: Usage) -> list[Outcome]:
        slots = self._slots
        assert slots is not None
        live = len(self._sources)
        sources, outputs = [len(source.ids) for source in self._sources], [age + 1 for age in self._ages]
        slots.fit(sources, outputs)
        extent = Extent(live, max(sources), max(outputs))
        self._stepping = live * self._rules.beams
        scores, offered = self._step(slots, extent)
        done = self._choice.choose(scores[: self._stepping], slots)
        self._stepping = 0
        self._ages = [age + 1 for age in self._ages]
        usage.slot_steps += offered
        usage.busy_slot_steps += live
        usage.padded_tokens += offered
        ended = [slot for slot in range(live) if done[slot]]
        self._ended = [Outcome(self._sources[slot], self._choice.outcome(slots, slot)) for slot in ended]
        for slot in reversed(ended):
            self._leave(slot)
        return self._take_ended()

    def _take_ended(self) -> list[Outcome]:
        ended, self._ended = self._ended, []
        return ended

    def _leave(self, slot: int) -> None:
        """Free a slot: the last one's source moves into it."""
        assert self._slots is not None
        last = len(self._sources) - 1
        if slot != last:
            self._slots.move(last, slot, len(self._sources[last].ids), self._ages[last])
            self._choice.move(last, slot)
            self._sources[slot], self._ages[slot] = self._sources[last], self._ages[last]
        self._sources.pop()
        self._ages.pop()
        self._slots.live = last

    def _retreat(self) -> list[Outcome]:
        """The memory is full: begin again with what is under way, in half the room, or give up what is alone."""
        ended = self._take_ended()
        finished = {outcome.source for outcome in ended}
        under_way, rows, padded = self._forget()
        left = [source for source in under_way if source not in finished]
        if len(under_way) == 1 and left:
            return [Outcome(left[0], None)]
        self._room.shrink(rows=rows, padded=padded)
        self.add(left)
        return ended

    def _forget(self) -> tuple[list[Source], int, int]:
        """Free what is held for all that is under way, and return it, with the rows or padded tokens in the model."""
        (batch, padded), rows = self._encoding, self._stepping
        under_way = [*self._sources, *(source for source, _ in self._encoded), *batch]
        self._slots = None
        self._encoded.clear()
        self._sources, self._ages, self._encoding, self._stepping = [], [], ([], 0), 0
        self._step.forget()
        release(self._room.budget.device)
        return under_way, rows, padded
