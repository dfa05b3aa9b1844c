"""What a shard contributes to its job's metrics, and how contributions add up.

Knows sums. Must not know what they are sums of.

A partial is a JSON object of integers, of lists of integers and of further such objects. Two add up key by key, so
merging is associative and commutative, and {} changes nothing. Integers, unlike floats, have sums that do not depend on
the order of the summands: fractions enter as whole multiples of 1/UNIT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Statistics = dict[str, Any]
Partial = dict[str, Any]

#: Fractions are kept to twelve decimals: a mean of them is off by 5e-13 at most.
UNIT = 10**12

#: The tables that grow with the labels of a corpus, and how many entries they may have. References that are no labels
#: at all (ids, texts) would make them as large as the corpus: beyond this bound a table becomes None, and stays it.
TABLES = ("cells", "by_label")
MOST_ENTRIES = 200_000


def whole(value: float) -> int:
    """A fraction as a whole number of units."""
    return round(value * UNIT)


def merge(a: Mapping[str, Any], b: Mapping[str, Any]) -> Partial:
    """The partial of two disjoint sets of documents together. Neither argument is changed."""
    return bounded(_added(a, b))


def bounded(partial: Partial) -> Partial:
    """The partial, its tables replaced by None where they have outgrown MOST_ENTRIES.

    The bound depends only on which entries there are, and they only become more: whatever the order of merging, the
    table of the whole is either kept exactly or None.
    """
    for name in TABLES:
        if name in partial and _entries(partial[name]) > MOST_ENTRIES:
            partial = {**partial, name: None}
    return partial


def _entries(table: dict[str, Any] | None) -> int:
    return sum(len(row) if isinstance(row, dict) else 1 for row in (table or {}).values())


def _added(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(a)
    for key, value in b.items():
        out[key] = _sum(out[key], value) if key in out else value
    return out


def _sum(a: Any, b: Any) -> Any:
    if a is None or b is None:  # outgrown on one side, outgrown together
        return None
    if isinstance(a, dict):
        return _added(a, b)
    if isinstance(a, list):
        return [x + y for x, y in zip(a, b, strict=True)]
    return a + b
