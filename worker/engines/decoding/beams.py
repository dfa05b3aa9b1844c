"""Beam search as transformers' `_beam_search` does it for each source alone, for all slots at once.

Knows slots, rules and scores. Must not know models or the order of sources. The formulas and their order, the -1e9 that
stands for "not this one" included, are those of `GenerationMixin._beam_search` and the functions it calls, so that ties
and roundings fall as they do there.
"""

from __future__ import annotations

import torch

from worker.engines.decoding.best import best_k
from worker.engines.decoding.processors import Outputs, processors_of
from worker.engines.decoding.rules import Rules
from worker.engines.decoding.slots import Slots

_OUT = -1.0e9


class Beams:
    """Keeps for each slot the beams that run, with their scores, and the best finished ones.

    In `Slots.more`: scores of the running beams (slots, beams); scores, lengths, flags (slots, beams) and tokens (slots,
    beams, output) of the finished ones.
    """

    def __init__(self, rules: Rules, vocabulary: int, device: torch.device) -> None:
        self._rules = rules
        self._vocabulary = vocabulary
        self._device = device
        self._processors = processors_of(rules, vocabulary, device)
        self._ends = torch.tensor(rules.ends, dtype=torch.long, device=device)
        #: Candidates a source, of which so many may end that enough are left to go on with.
        self._kept = max(2, 1 + len(rules.ends)) * rules.beams
        self._divisors = torch.ones(0, device=device)

    def prepare(self, slots: Slots) -> None:
        """As `Choice` says."""
        count, beams, output = slots.size.slots, slots.size.beams, slots.size.output
        running = torch.zeros((count, beams), device=self._device)
        slots.more = [
            running, torch.zeros_like(running), torch.zeros_like(running, dtype=torch.long),
            torch.zeros_like(running, dtype=torch.bool),
            torch.zeros((count, beams, output), dtype=torch.long, device=self._device),
        ]  # fmt: skip
        # How scores are divided by length: length ** length_penalty, rounded once, as a Python number is in a division.
        powers = [1.0, *(float(length**self._rules.length_penalty) for length in range(1, output + 1))]
        self._divisors = torch.tensor(powers, dtype=torch.float32, device=self._device)

    def admit(self, slots: Slots, slot: int, seed: int | None) -> None:  # noqa: ARG002 — beams are not drawn
        """Only the first beam counts at first: all of them hold the same."""
        running, finished, lengths, flags, _ = slots.more
        running[slot, 0], running[slot, 1:] = 0.0, _OUT
        finished[slot], lengths[slot], flags[slot] = _OUT, 0, False

    def move(self, origin: int, target: int) -> None:
        """All of it is in `Slots.more`."""

    def outcome(self, slots: Slots, slot: int) -> list[int]:
        """The best finished beam."""
        _, _, lengths, _, finished = slots.more
        tokens: list[int] = finished[slot, 0, : int(lengths[slot, 0]) + 1].tolist()
        return tokens

    def choose(self, scores: torch.Tensor, slots: Slots) -> list[bool]:
        """As `Choice` says."""
        live, beams = slots.live, self._rules.beams
        places, longest = slots.places[:live], slots.longest[:live]
        top, parents, chosen = self._candidates(scores, slots)
        places += 1
        width = int(slots.tokens.shape[2])
        tokens = slots.tokens[:live].gather(1, parents[:, :, None].expand(-1, -1, width))
        tokens.scatter_(2, places[:, None, None].expand(-1, self._kept, 1), chosen[:, :, None])
        hits = torch.isin(chosen, self._ends) | (places + 1 >= longest)[:, None]

        on, going = (top + hits * _OUT).topk(beams)
        self._finish(slots, top, tokens, hits)
        slots.tokens[:live] = tokens.gather(1, going[:, :, None].expand(-1, -1, width))
        origins = parents.gather(1, going)[:, :, None].expand(-1, -1, width)
        slots.ancestors[:live] = slots.ancestors[:live].gather(1, origins)
        slots.more[0][:live] = on
        done = self._done(slots, hits)
        answers: list[bool] = done.tolist()
        return answers

    def _candidates(self, scores: torch.Tensor, slots: Slots) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best continuations of each source: their scores, the beams they continue and their tokens (live, kept)."""
        live, beams = slots.live, self._rules.beams
        scores = torch.log_softmax(scores, dim=-1)
        if self._processors:
            lengths, longest = slots.places[:live] + 1, slots.longest[:live]
            outputs = Outputs(
                slots.tokens[:live].flatten(0, 1), lengths.repeat_interleave(beams), longest.repeat_interleave(beams)
            )
            for process in self._processors:
                process(scores, outputs)
        # Those of a beam that are among the best of all beams are among the best of their own.
        values, found = best_k(scores, min(self._kept, scores.shape[1]))
        each = values.shape[1]
        together = (values.view(live, beams, each) + slots.more[0][:live, :, None]).flatten(1)
        top, which = together.topk(self._kept)
        chosen = found.view(live, -1).gather(1, which).clamp(max=self._vocabulary - 1)
        return top, which // each, chosen

    def _finish(self, slots: Slots, top: torch.Tensor, tokens: torch.Tensor, hits: torch.Tensor) -> None:
        """Keep the best of the beams finished before and those that end now (`_update_finished_beams`)."""
        live, beams = slots.live, self._rules.beams
        _, scores, lengths, flags, finished = (tensor[:live] for tensor in slots.more)
        places = slots.places[:live, None]
        ended = hits.clone()
        ended[:, beams:] = False
        now = top / self._divisors[places]
        if self._rules.early_stopping is True:
            now = now + flags.all(1, keepdim=True) * _OUT
        now = now + ~ended * _OUT
        best, which = torch.cat([scores, now], 1).topk(beams)
        scores.copy_(best)
        lengths.copy_(torch.cat([lengths, places.expand_as(top)], 1).gather(1, which))
        flags.copy_(torch.cat([flags, ended], 1).gather(1, which))
        finished.copy_(torch.cat([finished, tokens], 1).gather(1, which[:, :, None].expand(-1, -1, tokens.shape[2])))

    def _done(self, slots: Slots, hits: torch.Tensor) -> torch.Tensor:
        """Whether a search ends: nothing can get better, enough have ended, or none may go on.

        As `_check_early_stop_heuristic` and `_beam_search_has_unfinished_sequences`.
        """
        live = slots.live
        running, scores, _, flags, _ = (tensor[:live] for tensor in slots.more)
        lengths = slots.places[:live]
        if self._rules.early_stopping == "never" and self._rules.length_penalty > 0.0:
            lengths = slots.longest[:live] - 1
        possible = running[:, :1] / self._divisors[lengths][:, None]
        worst = torch.where(flags, scores.min(1, keepdim=True)[0], _OUT)
        done = ~(possible > worst).any(1) | hits.all(1)
        return done | flags.all(1) if self._rules.early_stopping is True else done
