"""Settings that forbid or force tokens, for all slots at once, each slot at its own position.

Knows rules and the tokens so far. Each function changes scores in place and gives what transformers' processor of that
name gives for a slot alone; they run in transformers' order. Must not know how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from worker.engines.decoding.rules import Rules

_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs so far: `tokens` (n, t), what is behind an output's length being anything; `lengths` and `longest` (n,),
    the length so far and the longest that it may get, both with the start token."""

    tokens: torch.Tensor
    lengths: torch.Tensor
    longest: torch.Tensor


#: Changes scores (n, v), of which v exceeds the vocabulary by at least one column of -inf.
Processor = Callable[[torch.Tensor, Outputs], None]


def processors_of(rules: Rules, vocabulary: int, device: torch.device) -> list[Processor]:
    """What the rules ask for, in transformers' order (`_get_logits_processor`)."""
    found: list[Processor] = []
    if rules.repetition_penalty != 1.0:
        found.append(_repetition_penalty(rules.repetition_penalty, vocabulary))
    if rules.no_repeat_ngram_size > 0:
        found.append(_no_repeated_ngram(rules.no_repeat_ngram_size, vocabulary))
    found += _bad_words(rules.bad_words, vocabulary, device)
    if rules.minimum > 0 and rules.ends:
        found.append(_minimum(rules.minimum, torch.tensor(rules.ends, device=device)))
    if rules.first is not None:
        found.append(_first(rules.first))
    if rules.last:
        found.append(_last(torch.tensor(rules.last, device=device)))
    if rules.suppressed:
        found.append(_never(torch.tensor(rules.suppressed, device=device)))
    if rules.suppressed_first:
        begin = 1 if rules.first is None else 2
        found.append(_never_at(begin, torch.tensor(rules.suppressed_first, device=device)))
    return found


def _repetition_penalty(penalty: float, spare: int) -> Processor:
    def apply(scores: torch.Tensor, outputs: Outputs) -> None:
        # What is no token yet goes to the spare column, whose -inf stays what it is.
        places = torch.arange(outputs.tokens.shape[1], device=scores.device)
        seen = torch.where(places < outputs.lengths[:, None], outputs.tokens, spare)
        score = scores.gather(1, seen)
        scores.scatter_(1, seen, torch.where(score < 0, score * penalty, score / penalty))

    return apply


def _no_repeated_ngram(size: int, spare: int) -> Processor:
    def apply(scores: torch.Tensor, outputs: Outputs) -> None:
        if outputs.tokens.shape[1] < size:
            return
        runs = outputs.tokens.unfold(1, size, 1)
        complete = torch.arange(runs.shape[1], device=scores.device) + size <= outputs.lengths[:, None]
        if size > 1:
            complete = complete & (runs[..., :-1] == _last_tokens(outputs, size - 1)[:, None]).all(-1)
        scores.scatter_(1, torch.where(complete, runs[..., -1], spare), _NEVER)

    return apply


def _bad_words(words: tuple[tuple[int, ...], ...], spare: int, device: torch.device) -> list[Processor]:
    single = [word[0] for word in words if len(word) == 1]
    found = [_never(torch.tensor(single, device=device))] if single else []
    for size in sorted({len(word) for word in words} - {1}):
        alike = torch.tensor([word for word in words if len(word) == size], device=device)
        found.append(_bad_sequences(alike[:, :-1], alike[:, -1], spare))
    return found


def _bad_sequences(beginnings: torch.Tensor, ends: torch.Tensor, spare: int) -> Processor:
    size = beginnings.shape[1]

    def apply(scores: torch.Tensor, outputs: Outputs) -> None:
        if outputs.tokens.shape[1] < size:
            return
        begun = (_last_tokens(outputs, size)[:, None] == beginnings).all(-1) & (outputs.lengths >= size)[:, None]
        scores.scatter_(1, torch.where(begun, ends, spare), _NEVER)

    return apply


def _minimum(minimum: int, ends: torch.Tensor) -> Processor:
    def apply(scores: torch.Tensor, outputs: Outputs) -> None:
        short = outputs.lengths < outputs.longest.clamp(max=minimum)
        scores[:, ends] = scores[:, ends].masked_fill(short[:, None], _NEVER)

    return apply


def _first(token: int) -> Processor:
    def apply(scores: torch.Tensor, outputs: Outputs) -> None:
        _force(scores, outputs.lengths == 1, torch.tensor([token], device=scores.device))

    return apply


def _last(ends: torch.Tensor) -> Processor:
    def apply(scores: torch.Tensor, outputs: Outputs) -> None:
        _force(scores, outputs.lengths == outputs.longest - 1, ends)

    return apply


def _force(scores: torch.Tensor, where: torch.Tensor, tokens: torch.Tensor) -> None:
    rows = where.nonzero()[:, 0]
    if len(rows):
        scores[rows] = _NEVER
        scores[rows[:, None], tokens] = 0.0


def _never(tokens: torch.Tensor) -> Processor:
    def apply(scores: torch.Tensor, _: Outputs) -> None:
        scores[:, tokens] = _NEVER

    return apply


def _never_at(length: int, forbidden: torch.Tensor) -> Processor:
    def apply(scores: torch.Tensor, outputs: Outputs) -> None:
        scores[:, forbidden] = scores[:, forbidden].masked_fill((outputs.lengths == length)[:, None], _NEVER)

    return apply


def _last_tokens(outputs: Outputs, count: int) -> torch.Tensor:
    """Each output's last `count` tokens (n, count); where there are fewer, anything."""
    places = outputs.lengths[:, None] - count + torch.arange(count, device=outputs.tokens.device)
    return outputs.tokens.gather(1, places.clamp(min=0))
