"""How many sources may be decoded at once, from a token budget and the memory that is free.

Knows budgets and bytes. Must not know what is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.device import free_bytes
from worker.engines.budget import Budget
from worker.engines.decoding.slots import Size

#: Of the tokens that may go through the device together, this part may be decoded in one step: a decoder reads all its
#: weights for however few rows, and gains little from more rows than this.
_TOKENS_A_ROW = 16
#: Tokens held in caches, for each that may go through the device together.
_HELD = 16
#: Encoder batches that must fit one after another before a halved budget grows, by a quarter: what took the memory may
#: have gone by then.
_CALM = 50
#: The part of the free memory that caches may take.
_SHARE = 0.5


@dataclass(slots=True)
class Room:
    """What a session may hold: `rows` beams in a step and `tokens` in its caches. Both follow the budget down and up."""

    budget: Budget
    token_bytes: int
    _free: int = 0
    _fitted: int = 0

    def __post_init__(self) -> None:
        self._free = free_bytes(self.budget.device)

    @property
    def rows(self) -> int:
        return max(1, self.budget.tokens // _TOKENS_A_ROW)

    @property
    def tokens(self) -> int:
        return min(_HELD * self.budget.tokens, int(_SHARE * self._free / self.token_bytes))

    def size(self, *, source: int, output: int, beams: int, wanted: int) -> Size:
        """Slots for sources and outputs of up to so many tokens: `wanted` of them, or as many as there is room for."""
        fitting = min(self.rows // beams, self.tokens // (source + beams * output), wanted)
        return Size(slots=max(1, fitting), source=source, output=output, beams=beams)

    def shrink(self, *, rows: int = 0, padded: int = 0) -> None:
        """So many rows of a step, or so many tokens of an encoder's batch, did not fit: halve the budget for good. Without
        either, the caches did not, which are as large as the budget allows."""
        self._fitted = 0
        tried = max(rows * _TOKENS_A_ROW, padded) or self.budget.tokens
        self.budget.tokens = max(1, min(self.budget.tokens, tried) // 2)

    def fitted(self) -> None:
        """A batch has been through the encoder: after many, try again what once did not fit."""
        self._fitted += 1
        most, tokens = self.budget.device.batch_tokens, self.budget.tokens
        if self._fitted >= _CALM and tokens < most:
            self.budget.tokens = min(most, tokens + max(1, tokens // 4))
            self._fitted = 0
