"""How things are shown: JSON, tables, and progress.

Knows stdout (what was asked for), stderr (what is said meanwhile) and terminals. Must not know servers or commands.
On a terminal a table is drawn; elsewhere its columns are separated by tabs, so that `cut` and `awk` can read it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

#: Control characters, which a text could use to drive the reader's terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_CONTROL_BUT_NEWLINE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]+")


def say(message: str) -> None:
    """A message to the person, on stderr."""
    print(_CONTROL_BUT_NEWLINE.sub(" ", message), file=sys.stderr, flush=True)


def print_json(data: Any) -> None:
    """What was asked for, as JSON on stdout."""
    print(json.dumps(data, ensure_ascii=False, indent=2))


def cell(value: Any, *, grouped: bool = False) -> str:
    """A table's cell on one line. `grouped` puts commas between the thousands of whole numbers."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if grouped else str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:,.1f}" if grouped else f"{value:.1f}"
    if isinstance(value, tuple):
        return "; ".join(cell(each) for each in value)
    return _CONTROL.sub(" ", str(value)).strip()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, drawn: bool | None = None) -> None:
    """A table on stdout: drawn on a terminal (or where `drawn`), with each cell cut to the width, else tabs.

    A tuple in a cell is a line each where the table is drawn.
    """
    if not (sys.stdout.isatty() if drawn is None else drawn):
        print("\t".join(columns))
        for row in rows:
            print("\t".join(cell(value) for value in row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    kept = [list(row) for row in rows]
    for at, name in enumerate(columns):
        number = any(isinstance(row[at], int | float) for row in kept)
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=True, overflow="ellipsis")
    for row in kept:
        table.add_row(*(Text(_drawn(value)) for value in row))
    shown = console()
    if not shown.is_terminal:
        shown.width = max(shown.width, 120)
    shown.print(table)


def _drawn(value: Any) -> str:
    if isinstance(value, tuple):
        return "\n".join(cell(each, grouped=True) for each in value)
    return cell(value, grouped=True)


def print_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values, a line each, on stdout; what has no value is left out."""
    shown = [(name, cell(value, grouped=sys.stdout.isatty())) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name:<{width}}  {value}" if sys.stdout.isatty() else f"{name}\t{value}")


def console(*, stderr: bool = False) -> Any:
    """A rich console that shows texts as they are: no markup, no emoji names, no highlighting."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=False)


def span(seconds: float | None) -> str:
    """A time span for people: `48 s`, `3:05 min`, `2:10 h`."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
