"""The share of successes among trials, with its interval.

Knows counts. Must not know what they are counts of.
"""

from __future__ import annotations

from math import sqrt

from evaluation.figures import NO_INTERVAL, Interval

#: The 97.5th percentile of the standard normal distribution.
_Z = 1.959963984540054


def wilson(hits: int, trials: int) -> Interval:
    """The 95 % score interval of a proportion (E. B. Wilson, JASA 22, 1927); no interval without trials.

    Unlike the bootstrap it has a width where all trials, or none, are hits, and it holds its level with few of them (Brown,
    Cai and DasGupta, Statistical Science 16, 2001). Raises ValueError where there are not 0 to `trials` hits.
    """
    if not 0 <= hits <= trials:
        raise ValueError(f"{hits} hits of {trials}")
    if not trials:
        return NO_INTERVAL
    share, square = hits / trials, _Z * _Z
    centre = share + square / (2 * trials)
    spread = _Z * sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    low, high = ((centre + sign * spread) / (1 + square / trials) for sign in (-1, 1))
    # exact at the ends, where rounding would leave a hair
    return (0.0 if hits == 0 else max(0.0, low)), (1.0 if hits == trials else min(1.0, high))
