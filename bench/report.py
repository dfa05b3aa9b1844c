"""Figures as JSON and as tables, on the screen and between the markers of docs/performance.md.

Knows groups, goals and Markdown. Must not know how anything is measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.reach import Goal, verdict
from bench.tables import Group, Row, as_json, from_json

DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
RESULTS = Path(__file__).parent / "results"

#: Facts with a column of their own, by name: the column's head and how a value is written.
_COLUMNS = {
    "padding_share": ("padding", "{:.0%}"),
    "slot_occupancy": ("slots held", "{:.0%}"),
    "share_of_peak": ("of peak", "{:.2f}"),
}


def save(path: Path, groups: Sequence[Group], about: Mapping[str, Any]) -> dict[str, Any]:
    """Write the groups as JSON, each with what it was measured on; groups of an earlier run that were not run again
    stay. Answers all that the file then holds."""
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept |= {group.key: {**about, "group": as_json(group)} for group in groups}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    return kept


def markdown(kept: Mapping[str, Any], goals: Sequence[Goal]) -> str:
    """All tables: the goals first, then a table for each group."""
    groups = {key: from_json(value["group"]) for key, value in kept.items()}
    order = list(dict.fromkeys([*(goal.group for goal in goals if goal.group in groups), *groups]))
    parts = [_about(kept, order), "### Reach", _goals(goals, groups)]
    parts += [table(groups[key], kept[key]) for key in order]
    return "\n\n".join(parts) + "\n"


def table(group: Group, about: Mapping[str, Any]) -> str:
    """One group's table under its title."""
    return "\n\n".join([f"### {group.title}", _heading(group, about), _rows(group)])


def _about(kept: Mapping[str, Any], order: Sequence[str]) -> str:
    first = kept[order[0]]
    machine = ", ".join(
        f"{value} {name}" if name in {"cores", "memory"} else value for name, value in first["machine"].items()
    )
    versions = ", ".join(f"{name} {value}" for name, value in first["versions"].items())
    same = all(kept[key]["machine"] == first["machine"] for key in order)
    mixed = "" if same else " Not all groups ran on this machine; the JSON has each one's own."
    return f"Machine: {machine}.{mixed}\n\nVersions: {versions}."


def _goals(goals: Sequence[Goal], groups: Mapping[str, Group]) -> str:
    lines = ["| work | against | measured | at least | aim | reached |", "|---|---|---|---|---|---|"]
    for goal in goals:
        found = goal.found(groups)
        measured = "–" if isinstance(found, str) else f"{found:.2f}"
        lines.append(
            f"| {goal.work} | {goal.compared} | {measured} | {goal.least:g} | {goal.aim:g} | {verdict(goal, found)} |"
        )
    return "\n".join(lines)


def _heading(group: Group, about: Mapping[str, Any]) -> str:
    facts = []
    if "peak" in group.facts:
        facts.append(f"matrix peak {group.facts['peak'] / 1e9:.0f} GFLOP/s")
    facts += [*group.notes, f"`{about['command']}`, {about['date']}"]
    return f"{group.corpus}. {'; '.join(facts)}."


def _rows(group: Group) -> str:
    """The group's table; `ratio` is how many times faster than the reference row."""
    columns = [name for name in _COLUMNS if any(name in row.facts for row in group.rows)]
    tokens = any("generated_tokens" in row.facts or "tokens" in row.facts for row in group.rows)
    heads = ["", "CPU s", "wall s", "spread", "documents/s", *(["tokens/s"] if tokens else []), "ratio",
             *(_COLUMNS[name][0] for name in columns), "answers"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    reference = group.row(group.reference)
    for row in group.rows:
        if row.skipped is not None:
            lines.append(f"| {row.name} | not measured: {row.skipped} |" + " |" * (len(heads) - 2))
            continue
        cells = [row.name, f"{row.cpu_seconds:.2f}", f"{row.wall_seconds:.2f}", f"{row.spread:.0%}"]
        cells.append(f"{group.rate(row):.2f}")
        if tokens:
            count = row.facts.get("generated_tokens", row.facts.get("tokens"))
            cells.append("" if count is None else f"{count / group.seconds(row):.0f}")
        cells.append(f"{group.rate(row) / group.rate(reference):.2f}" if reference else "")
        cells += [_COLUMNS[name][1].format(row.facts[name]) if name in row.facts else "" for name in columns]
        lines.append(f"| {' | '.join([*cells, _answers(row)])} |")
    return "\n".join(lines)


def _answers(row: Row) -> str:
    """How many answers are the reference's, how far scores are off, and whether that was a condition."""
    if row.same is None:
        return ""
    told = f"{row.same}/{row.compared or row.documents}"
    if row.near_ties:
        told += f" and {row.near_ties} near-ties"
    if row.largest_difference is not None:
        told += f", scores within {row.largest_difference:.0e}"
    return told + (" **differ**" if row.gated and not row.holds else "")


def write_between_markers(name: str, text: str, document: Path = DOCUMENT) -> None:
    """Put the text between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`. Raises ValueError where they are missing."""
    start, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    before, found, rest = document.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{document.name} has no markers {start} … {end}")
    document.write_text(f"{before}{start}\n{text.strip()}\n{end}{after}", encoding="utf-8")
