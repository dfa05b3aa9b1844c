"""How long a prompt and its answer may get.

Knows numbers of tokens. Must not know texts or models.
"""

from __future__ import annotations

from dataclasses import dataclass

from corpusmill.tasks import Task
from worker.engines.generation import TRANSLATION_STEP, default_new_tokens

#: New tokens of a summary where neither the job nor the model states a length.
SUMMARY_NEW_TOKENS = 256
#: Positions of a model that states no limit anywhere (BLOOM).
UNSTATED_POSITIONS = 4_096
#: The least tokens that a prompt must leave for the text itself.
LEAST_ROOM = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Limits that hold for every prompt of a shard, all in tokens.

    `positions` bound prompt and answer together; `own` is the prompt without a text; `new` what the job or the model
    states for an answer, `total` what the job states for both; `least` and `least_total` are the same from below.
    """

    task: Task
    positions: int
    own: int
    new: int | None = None
    total: int | None = None
    least: int = 0
    least_total: int = 0

    @property
    def longest_prompt(self) -> int:
        """The longest prompt that leaves its answer the room that it is to have; a longer text is cut or split."""
        window = min(self.positions, self.total or self.positions)
        if self.new is not None and self.total is None:
            return window - self.new
        if self.task is Task.SUMMARIZATION or self.total is not None:
            return window - min(SUMMARY_NEW_TOKENS, window // 2)
        # A translation of n tokens may take 2 n + 32, rounded up.
        text = (window - self.own - 32 - TRANSLATION_STEP) // 3
        return self.own + max(text, (window - self.own) // 3)

    def new_tokens(self, prompt: int) -> int:
        """How many tokens may follow a prompt of so many."""
        if self.new is not None:
            wanted = self.new
        elif self.total is not None:
            wanted = self.total - prompt
        elif self.task is Task.SUMMARIZATION:
            wanted = SUMMARY_NEW_TOKENS
        else:
            wanted = default_new_tokens(self.task, prompt - self.own)
        return max(1, min(wanted, self.positions - prompt))

    def least_tokens(self, prompt: int) -> int:
        """How many tokens must follow it before an end token may."""
        return min(self.least or max(0, self.least_total - prompt), self.new_tokens(prompt))
