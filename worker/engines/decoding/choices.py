"""One next token for each slot: the best one, or one drawn at random with the slot's own generator.

Knows slots, rules and scores. Must not know models or the order of sources. `Choice` is what a session asks of these and
of beam search (`beams`).
"""

from __future__ import annotations

from typing import Protocol

import torch

from worker.engines.decoding.best import best_of
from worker.engines.decoding.processors import Outputs, processors_of
from worker.engines.decoding.rules import Rules
from worker.engines.decoding.slots import Slots


class Choice(Protocol):
    """Chooses tokens for the live slots, and knows when an output is at its end."""

    def prepare(self, slots: Slots) -> None:
        """Add to new slots the tensors that this choice keeps for each (`Slots.more`)."""

    def admit(self, slots: Slots, slot: int, seed: int | None) -> None:
        """A source begins in a slot. `seed` is for drawing at random."""

    def choose(self, scores: torch.Tensor, slots: Slots) -> list[bool]:
        """Append a token to every live output, whose scores (live × beams, padded vocabulary) may be changed.

        Says for each live slot whether its output is at its end.
        """

    def outcome(self, slots: Slots, slot: int) -> list[int]:
        """The output of a slot at its end, from its first token on."""

    def move(self, origin: int, target: int) -> None:
        """A slot's contents were copied into another: keep up with what `Slots.more` does not hold."""


class Single:
    """Greedy decoding and sampling: one beam, as `_sample` of transformers."""

    def __init__(self, rules: Rules, vocabulary: int, device: torch.device) -> None:
        self._rules = rules
        self._vocabulary = vocabulary
        self._device = device
        self._processors = processors_of(rules, vocabulary, device)
        self._ends = torch.tensor(rules.ends, dtype=torch.long, device=device)
        self._generators: dict[int, torch.Generator] = {}

    def prepare(self, slots: Slots) -> None:
        """Nothing is kept beside the tokens."""

    def admit(self, slots: Slots, slot: int, seed: int | None) -> None:  # noqa: ARG002 — only beams keep something
        """Give the slot a generator of its own where tokens are drawn."""
        if self._rules.sampled:
            self._generators[slot] = torch.Generator(device=self._device).manual_seed(seed or 0)

    def choose(self, scores: torch.Tensor, slots: Slots) -> list[bool]:
        """As `Choice` says."""
        live = slots.live
        places, longest = slots.places[:live], slots.longest[:live]
        if self._processors:
            outputs = Outputs(slots.tokens[:live, 0], places + 1, longest)
            for process in self._processors:
                process(scores, outputs)
        chosen = self._drawn(scores, slots) if self._rules.sampled else best_of(scores)
        places += 1
        slots.tokens[torch.arange(live, device=chosen.device), 0, places] = chosen
        done = (places + 1 >= longest) | torch.isin(chosen, self._ends)
        answers: list[bool] = done.tolist()
        return answers

    def outcome(self, slots: Slots, slot: int) -> list[int]:
        """As `Choice` says."""
        tokens: list[int] = slots.tokens[slot, 0, : int(slots.places[slot]) + 1].tolist()
        return tokens

    def move(self, origin: int, target: int) -> None:
        """The generator goes with its slot."""
        if origin in self._generators:
            self._generators[target] = self._generators.pop(origin)

    def _drawn(self, scores: torch.Tensor, slots: Slots) -> torch.Tensor:
        """One token a row, drawn as `generate()` draws it for that row alone after `torch.manual_seed(seed)`."""
        scores = scores[:, : self._vocabulary].contiguous()
        for warp in self._rules.warpers:
            scores = warp(slots.tokens[: slots.live, 0], scores)
        likely = torch.softmax(scores, dim=-1)
        draws = [
            torch.multinomial(likely[slot : slot + 1], 1, generator=self._generators[slot])
            for slot in range(slots.live)
        ]
        return torch.cat(draws)[:, 0]
