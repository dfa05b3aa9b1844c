"""Texts of random tokens on which a model is tried when it is loaded: alone, and then together.

Knows token ids and lengths. Of models it reads the configuration alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from worker.models.rows import Indices, Rows, plan_rows
from worker.models.tokens import Frame, Tokens

#: Tokens of each text without special ones: two of equal length, which share a call of the attention, and few in all,
#: since every load waits for them.
_LENGTHS = (5, 12, 12)
#: The text whose tokens are others in `changed`.
CHANGED = 1
#: Widest window that a text is made longer than: a decoder's of thousands would take longer than the rest of the load.
_WIDEST = 512


@dataclass(frozen=True, slots=True)
class Probes:
    """`rows`, a text each, and `changed`, which differ from them in the text at `CHANGED` alone."""

    rows: Rows
    changed: Rows

    def __len__(self) -> int:
        return len(self.rows.lengths)

    @property
    def others(self) -> list[int]:
        """Rows that are the same in both."""
        return np.flatnonzero(self.rows.owner != CHANGED).tolist()

    @property
    def all(self) -> Indices:
        """Every row, equal lengths side by side."""
        return np.arange(len(self))


def probes_of(model: Any, tokenizer: Any, frame: Frame, limit: int) -> Probes:
    """Texts of ordinary tokens. Of a model with local attention, one of them is longer than its window."""
    window = getattr(model.config, "sliding_window", None) or 0
    lengths = np.array([*_LENGTHS, *([window + 8] if 0 < window <= _WIDEST else [])])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    known = min(len(tokenizer), getattr(model.get_input_embeddings(), "num_embeddings", None) or len(tokenizer))
    ordinary = np.setdiff1d(np.arange(known), np.array(tokenizer.all_special_ids, dtype=np.int64))
    draw = np.random.default_rng(0)
    ids = draw.choice(ordinary, size=int(lengths.sum())).astype(np.int32)
    others = ids.copy()
    others[offsets[CHANGED] : offsets[CHANGED + 1]] = draw.choice(ordinary, size=lengths[CHANGED])
    rows, changed = (plan_rows((Tokens(flat, offsets),), frame, limit, "truncate") for flat in (ids, others))
    return Probes(rows, changed)
