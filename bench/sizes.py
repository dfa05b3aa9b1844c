"""How much is measured: whole runs of minutes, and a smoke run of two.

Knows counts only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Rounds, and documents of each comparison."""

    rounds: int
    distilbert: int
    bert: int
    uniform: int
    mails: int
    greedy: int
    beams: int
    summaries: int
    system: int


FULL = Size(rounds=3, distilbert=64, bert=32, uniform=16, mails=16, greedy=128, beams=32, summaries=16, system=640)
QUICK = Size(rounds=1, distilbert=32, bert=16, uniform=8, mails=8, greedy=32, beams=8, summaries=0, system=96)
