"""Glob patterns for paths below a folder: `*` and `?` within a name, `[…]`, and `**` for any number of folders.

Knows paths as text. Must not touch a file system: what a pattern names is listed and then held against it, so that no
pattern leads anywhere.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

from corpusmill.errors import PlaceFault
from corpusmill.schedules import leads_out


def compiled(pattern: str) -> Callable[[str], bool]:
    """Whether a path (with `/`) is meant. Raises PlaceFault for a pattern that begins elsewhere or climbs."""
    parts = pattern.split("/")
    if leads_out(pattern):
        raise PlaceFault(f"The pattern {pattern!r} leads out of the folder: it begins below it, with / between names.")
    wanted = [None if part == "**" else re.compile(fnmatch.translate(part)) for part in parts if part not in {"", "."}]

    def matches(path: str) -> bool:
        return _matches(path.split("/"), wanted)

    return matches


def _matches(names: list[str], wanted: list[re.Pattern[str] | None]) -> bool:
    """Names against patterns one by one; `None` stands for any number of folders, none included."""
    reached = {0}
    for name in names:
        starts = _through(reached, wanted)
        reached = {place for place in starts if place < len(wanted) and wanted[place] is None}
        reached |= {
            place + 1
            for place in starts
            if place < len(wanted) and (one := wanted[place]) is not None and one.match(name)
        }
    return len(wanted) in _through(reached, wanted)


def _through(reached: set[int], wanted: list[re.Pattern[str] | None]) -> set[int]:
    """The places from which the next name may be taken: a `**` may stand for nothing."""
    found = set(reached)
    for place in sorted(reached):
        at = place
        while at < len(wanted) and wanted[at] is None:
            at += 1
            found.add(at)
    return found
