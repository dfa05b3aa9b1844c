"""How far one distribution has moved from another: counts in, figures out.

Knows two measures, their usual thresholds and what chance alone does to them. Must not know what is counted. Two sets of
counts are given by the same cells, in the same order; cells that both leave empty are no matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, log2, sqrt
from typing import Literal

#: N. Siddiqi, Credit Risk Scorecards (Wiley, 2006), has these for the population stability index: below 0.1 nothing has
#: changed, from 0.25 on much has. They are convention, not theory.
PSI_MODERATE, PSI_MAJOR = 0.1, 0.25
#: The default threshold of the tools that watch drift by this distance (Evidently; CapyMOA's `JensenShannon`).
JS_SHIFTED = 0.1
#: Added to each cell before the index is computed, where a cell is empty on one side (see `psi`).
PSEUDO_COUNT = 0.5

Verdict = Literal["stable", "moderate", "major"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """How far a distribution has moved. `chance` is what the index stays below in 19 of 20 nights on which nothing has
    moved at all, given how few documents there are."""

    psi: float
    js: float
    chance: float

    @property
    def verdict(self) -> Verdict:
        """By the index and its thresholds; what chance alone would give is stable, however large."""
        if self.psi < PSI_MODERATE or self.psi <= self.chance:
            return "stable"
        return "moderate" if self.psi < PSI_MAJOR else "major"


def shift_of(now: Sequence[int], before: Sequence[int]) -> Shift | None:
    """How far `now` has moved from `before`; None where either counts nothing."""
    cells = [(a, b) for a, b in zip(now, before, strict=True) if a or b]
    left, right = [a for a, _ in cells], [b for _, b in cells]
    if not sum(left) or not sum(right):
        return None
    return Shift(psi=psi(left, right), js=js_distance(left, right), chance=chance(sum(left), sum(right), len(cells)))


def psi(now: Sequence[int], before: Sequence[int]) -> float:
    """The population stability index: the sum over cells of (p − q) ln(p / q), p and q the shares now and before.

    It is Jeffreys' divergence, KL(p‖q) + KL(q‖p), natural logarithms, 0 to infinity (formula and thresholds: N. Siddiqi,
    Credit Risk Scorecards, 2006; its statistics: B. Yurdakul and J. Naranjo, Journal of Risk Model Validation 14, 2020). A
    cell that is empty on one side would make it infinite, however rare the label: where there is one, half a document is
    added to every cell of both sides (Krichevsky and Trofimov's estimate of the shares), which thousands of documents do
    not notice.
    """
    added = PSEUDO_COUNT if any(not count for count in (*now, *before)) else 0.0
    return sum((p - q) * log(p / q) for p, q in zip(_shares(now, added), _shares(before, added), strict=True))


def js_distance(now: Sequence[int], before: Sequence[int]) -> float:
    """The Jensen–Shannon distance: the square root of the mean of KL(p‖m) and KL(q‖m), m the mean of p and q.

    With logarithms to the base 2 it lies between 0 (the same) and 1 (nothing in common), and it is a metric (divergence:
    J. Lin, IEEE Transactions on Information Theory 37, 1991; its root: D. Endres and J. Schindelin, ibid. 49, 2003). Empty
    cells need nothing: 0 · log 0 is 0.
    """
    pairs = list(zip(_shares(now, 0.0), _shares(before, 0.0), strict=True))
    divergence = sum(_part(p, (p + q) / 2) + _part(q, (p + q) / 2) for p, q in pairs) / 2
    return sqrt(min(1.0, max(0.0, divergence)))


def chance(now: int, before: int, cells: int) -> float:
    """The 95th percentile of the index of two samples, of so many documents each, from one distribution over `cells`.

    The index divided by 1/n + 1/m is about χ² with cells − 1 degrees of freedom (Yurdakul and Naranjo, 2020), whose
    percentile is taken from Wilson and Hilferty's normal approximation (PNAS 17, 1931), off by about 2 % at one degree of
    freedom and less at more.
    """
    freedom = cells - 1
    if freedom < 1:
        return 0.0
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + 1.6448536269514722 * sqrt(spread)) ** 3 * (1 / now + 1 / before))


def _shares(counts: Sequence[int], added: float) -> list[float]:
    total = sum(counts) + added * len(counts)
    return [(count + added) / total for count in counts]


def _part(share: float, mean: float) -> float:
    return share * log2(share / mean) if share else 0.0
