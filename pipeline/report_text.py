"""How a report reads: Markdown for people.

Knows Markdown's table syntax and how figures are rounded for the eye. Must not know how they were computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.report import Report

#: Labels shown in the table; the JSON has them all.
MOST_LABELS = 20
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&-])")


def markdown(report: Report, alarms: Sequence[str] = ()) -> str:
    """The report as Markdown; names and labels, which are other people's texts, cannot become markup."""
    body, figures = report.body, report.figures
    parts = [
        f"# {plain(body['schedule'])}: {body['fire_time']}",
        f"Run {plain(body['run'])}, model {plain(body['model']['id'])} at {plain(body['model']['revision'])}.",
    ]
    if alarms:
        parts.append("\n".join(["**Alarms**", "", *(f"- {plain(alarm)}" for alarm in alarms)]))
    parts.append(_table(("documents", "count"), ((name, _count(n)) for name, n in body["counts"].items())))
    parts.append(_work(figures))
    if body["failures"]:
        parts += ["## Failures", _table(("cause", "documents"), body["failures"].items())]
    parts += ["## Labels", _moved("Labels", body["label_shift"], body["compared"]), _labels(body["labels"])]
    parts += ["## Confidence", _moved("Scores", body["confidence_shift"], body["compared"]), _confidence(figures)]
    parts += ["## People", _people(figures)]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(value: Any) -> str:
    """A text on one line that Markdown takes for nothing but text."""
    if value is None:
        return "none"
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


def _work(figures: Any) -> str:
    said = [f"Took {_span(figures['duration_seconds'])}"]
    if "documents_per_second" in figures:
        said.append(f"{figures['documents_per_second']:,.1f} documents/s")
    if "reused_share" in figures:
        said.append(f"reused {_count(figures['reused'])} ({figures['reused_share']:.1%}), ran {_count(figures['ran'])}")
    if "failed_share" in figures:
        said.append(f"failed {figures['failed_share']:.2%}")
    stages = [
        f"{name.removeprefix('seconds/')} {_span(n)}" for name, n in figures.items() if name.startswith("seconds/")
    ]
    return ", ".join(said) + "." + (f" By stage: {', '.join(stages)}." if stages else "")


def _moved(what: str, shift: Any, compared: Any) -> str:
    if shift is None:
        return f"{what} have nothing to be compared with yet."
    nights = "night" if compared["nights"] == 1 else f"{compared['nights']} nights"
    verdict = {"stable": "have not moved", "moderate": "have moved a little", "major": "have moved much"}
    return (
        f"{what} {verdict[shift['verdict']]} against the last {nights} ({_count(compared['documents'])} documents): "
        f"population stability index {shift['psi']:.3f} (0.1 is a little, 0.25 much; chance alone stays below "
        f"{shift['psi_chance']:.3f} in 19 nights of 20), Jensen–Shannon distance {shift['js']:.3f} (0.1 is a shift)."
    )


def _labels(labels: Sequence[Any]) -> str:
    rows = [
        (each["label"], _count(each["documents"]), _share(each["share"]), _share(each["share_before"]))
        for each in labels[:MOST_LABELS]
    ]
    more = len(labels) - len(rows)
    return _table(("label", "documents", "share", "before"), rows) + (f"\n\n{more} more labels." if more else "")


def _confidence(figures: Any) -> str:
    if "confidence_mean" not in figures:
        return ""
    change = figures.get("confidence_change")
    return f"Mean score {figures['confidence_mean']:.3f}" + (f" ({change:+.3f})." if change is not None else ".")


def _people(figures: Any) -> str:
    sent = f"Sent to people: {_count(figures['reviewed'])}"
    if "reviewed_share" in figures:
        sent += f" ({figures['reviewed_share']:.2%} of the labelled)"
    if figures["review_failed"]:
        sent += "; those of this run could not all be sent, and a later run tries again"
    if "audit_accuracy" not in figures:
        return sent + ". No audited document has been answered yet."
    return (
        f"{sent}. Of {_count(figures['audit_answered'])} audited documents that have been answered, people agree on "
        f"{figures['audit_accuracy']:.1%} ({figures['audit_low']:.1%} to {figures['audit_high']:.1%})."
    )


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(names)} |", f"|---|{'---:|' * (len(names) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows)])


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _count(number: float) -> str:
    return f"{int(number):,}"


def _span(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    return f"{whole // 60}:{whole % 60:02} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02} h"
