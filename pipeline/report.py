"""The morning report: what a night did, how far its labels have moved, and what people say of them.

Knows the facts of a night, names of figures and the arithmetic between the two. Must not know where facts are kept or what
a report is written to; how it reads is `pipeline.report_text`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from corpusmill.errors import FieldFault
from corpusmill.schedules import ReportDefinition, Rule
from corpusmill.times import rfc3339
from evaluation.proportions import wilson
from pipeline.shift import JS_SHIFTED, PSI_MAJOR, PSI_MODERATE, Shift, shift_of

#: Bins of equal width over scores from 0 to 1; a score of 1 falls into the last.
SCORE_BINS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """What a night's model said: documents by label, and by score in SCORE_BINS bins."""

    labels: Mapping[str, int] = field(default_factory=dict)
    scores: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """How many of the audited documents people have answered, and on how many they agree with the model."""

    answered: int
    agreed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A run as its report begins with it. Times are in seconds since 1970.

    `counts` are those of FIGURES up to `reviewed`. `failures` counts failed documents by error code. `seconds` is by
    stage. `audit` is of this run's model revision. `review_failed` says that documents for people could not be sent.
    """

    schedule: str
    run: str
    fire_time: float
    started_at: float
    finished_at: float
    model_id: str | None
    model_revision: str | None
    counts: Mapping[str, int]
    failures: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    distribution: Distribution = Distribution()
    audit: Audit | None = None
    review_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report: `figures` are what `fail_if` may name, `body` is all of it as JSON."""

    figures: Mapping[str, float]
    body: Mapping[str, Any]


#: The figures of a night besides `failures/CODE` and `seconds/STAGE`, and what each is.
FIGURES = {
    "read": "documents that the source gave",
    "new": "of these, never seen before",
    "changed": "seen before with another text",
    "relabelled": "seen before with this text, which another revision or other parameters had labelled",
    "unchanged": "seen before with this text, and left alone",
    "repeated": "given twice in one reading",
    "unusable": "rows or lines that are no documents",
    "gone": "documents that are no longer in the source",
    "withheld": "documents that were not met, and left in the sinks because something could not be read",
    "ran": "documents that the model ran over",
    "reused": "documents whose labels were taken from before",
    "succeeded": "documents with a label",
    "failed": "documents without one",
    "reviewed": "documents sent to people",
    "review_failed": "1 where people could not be asked, otherwise 0",
    "reused_share": "reused, of all that have been labelled",
    "failed_share": "failed, of all that were to be labelled",
    "unusable_share": "unusable, of all that the source gave",
    "reviewed_share": "reviewed, of all that have a label",
    "label_psi": "population stability index of the labels against the earlier nights",
    "label_psi_chance": "what that stays below in 19 of 20 nights on which nothing moved",
    "label_js": "Jensen–Shannon distance of the labels, 0 to 1",
    "confidence_psi": "population stability index of the scores, by twentieths",
    "confidence_psi_chance": "what that stays below in 19 of 20 nights on which nothing moved",
    "confidence_js": "Jensen–Shannon distance of the scores",
    "confidence_mean": "mean score, to a fortieth",
    "confidence_change": "mean score less that of the earlier nights",
    "audit_answered": "audited documents that people have answered",
    "audit_accuracy": "of these, the share on which they agree with the model",
    "audit_low": "lower end of its 95 % interval",
    "audit_high": "upper end of its 95 % interval",
    "duration_seconds": "from start to end",
    "documents_per_second": "labelled documents, taken from before or not, by the duration",
}
_OPEN = ("failures/", "seconds/")
_COUNTS = (
    "read", "new", "changed", "relabelled", "unchanged", "repeated", "unusable", "gone", "withheld", "ran", "reused",
    "succeeded", "failed", "reviewed",
)  # fmt: skip
_SHARES = {
    "reused_share": ("reused", ("ran", "reused")),
    "failed_share": ("failed", ("succeeded", "failed")),
    "unusable_share": ("unusable", ("read", "unusable")),
    "reviewed_share": ("reviewed", ("succeeded",)),
}


def report_of(facts: Facts, earlier: Sequence[Facts], definition: ReportDefinition) -> Report:
    """The report of a night. `earlier` are nights before it, newest first, of which the definition's `nights` count.

    A figure that a night cannot have is not there: no shift without documents on both sides, no audit without answers.
    """
    before = [night for night in earlier if sum(night.distribution.labels.values())][: definition.nights]
    labels, scores = _labels(facts, before), _scores(facts, before)
    figures: dict[str, float] = {name: facts.counts.get(name, 0) for name in _COUNTS}
    for name, (part, whole) in _SHARES.items():
        if total := sum(figures[each] for each in whole):
            figures[name] = figures[part] / total
    figures["review_failed"] = int(facts.review_failed)
    figures |= {f"failures/{code}": count for code, count in sorted(facts.failures.items())}
    figures |= {f"seconds/{stage}": seconds for stage, seconds in facts.seconds.items()}
    for name, shift in (("label", labels), ("confidence", scores)):
        if shift is not None:
            figures |= {f"{name}_psi": shift.psi, f"{name}_psi_chance": shift.chance, f"{name}_js": shift.js}
    mean, mean_before = _mean(facts.distribution.scores), _mean(_pooled(before))
    if mean is not None:
        figures["confidence_mean"] = mean
        if mean_before is not None:
            figures["confidence_change"] = mean - mean_before
    if facts.audit is not None and facts.audit.answered:
        figures |= _audit(facts.audit)
    duration = facts.finished_at - facts.started_at
    figures["duration_seconds"] = duration
    if duration > 0:
        figures["documents_per_second"] = (figures["succeeded"] + figures["failed"]) / duration
    return Report(figures=figures, body=_body(facts, before, figures, labels, scores))


def broken(report: Report, rules: Sequence[Rule]) -> list[str]:
    """A sentence for each rule that a report breaks; one about a figure that the night does not have is not broken."""
    found = []
    for rule in rules:
        value = report.figures.get(rule.figure)
        if value is not None and rule.above is not None and value > rule.above:
            found.append(f"{rule.figure} is {value:.6g}, above {rule.above:g}.")
        if value is not None and rule.below is not None and value < rule.below:
            found.append(f"{rule.figure} is {value:.6g}, below {rule.below:g}.")
    return found


def faulty_rules(rules: Sequence[Rule]) -> list[FieldFault]:
    """A fault for each rule about what is no figure at all, and would therefore never be broken."""
    faults = []
    for at, rule in enumerate(rules):
        if rule.figure not in FIGURES and not rule.figure.startswith(_OPEN):
            near = get_close_matches(rule.figure, FIGURES, n=1, cutoff=0.0)[0]
            faults.append(FieldFault(f"/report/fail_if/{at}/figure", f"There is no such figure. Did you mean {near}?"))
    return faults


def _labels(facts: Facts, before: Sequence[Facts]) -> Shift | None:
    now, then = facts.distribution.labels, _labels_before(before)
    names = sorted({*now, *then})
    return shift_of([now.get(name, 0) for name in names], [then.get(name, 0) for name in names])


def _labels_before(before: Sequence[Facts]) -> dict[str, int]:
    then: dict[str, int] = {}
    for night in before:
        for label, count in night.distribution.labels.items():
            then[label] = then.get(label, 0) + count
    return then


def _scores(facts: Facts, before: Sequence[Facts]) -> Shift | None:
    now, then = facts.distribution.scores, _pooled(before)
    return shift_of(now, then) if len(now) == len(then) == SCORE_BINS else None


def _pooled(before: Sequence[Facts]) -> list[int]:
    known = [night.distribution.scores for night in before if len(night.distribution.scores) == SCORE_BINS]
    return [sum(column) for column in zip(*known, strict=True)]


def _mean(scores: Sequence[int]) -> float | None:
    """The mean score, each taken to be in the middle of its bin."""
    total = sum(scores)
    if not total:
        return None
    return sum(count * (number + 0.5) / SCORE_BINS for number, count in enumerate(scores)) / total


def _audit(audit: Audit) -> dict[str, float]:
    low, high = wilson(audit.agreed, audit.answered)
    assert low is not None
    assert high is not None
    accuracy = audit.agreed / audit.answered
    return {"audit_answered": audit.answered, "audit_accuracy": accuracy, "audit_low": low, "audit_high": high}


def _body(
    facts: Facts, before: Sequence[Facts], figures: Mapping[str, float], labels: Shift | None, scores: Shift | None
) -> dict[str, Any]:
    now, then = facts.distribution.labels, _labels_before(before)
    total, total_before = sum(now.values()), sum(then.values())
    revisions = sorted({night.model_revision for night in before if night.model_revision})
    return {
        "schedule": facts.schedule, "run": facts.run, "fire_time": rfc3339(facts.fire_time, "seconds"),
        "started_at": rfc3339(facts.started_at, "seconds"), "finished_at": rfc3339(facts.finished_at, "seconds"),
        "model": {"id": facts.model_id, "revision": facts.model_revision},
        "counts": {name: facts.counts.get(name, 0) for name in _COUNTS},
        "failures": dict(sorted(facts.failures.items())),
        "compared": {"nights": len(before), "documents": total_before, "revisions": revisions},
        "labels": [
            {
                "label": label, "documents": now.get(label, 0), "share": now.get(label, 0) / total if total else None,
                "share_before": then.get(label, 0) / total_before if total_before else None,
            }
            for label in sorted({*now, *then}, key=lambda label: (-now.get(label, 0), label))
        ],
        "label_shift": _shift(labels), "confidence_shift": _shift(scores),
        "figures": dict(figures),
    }  # fmt: skip


def _shift(shift: Shift | None) -> dict[str, Any] | None:
    if shift is None:
        return None
    thresholds = {"psi_moderate": PSI_MODERATE, "psi_major": PSI_MAJOR, "js": JS_SHIFTED}
    return {
        "verdict": shift.verdict, "psi": shift.psi, "psi_chance": shift.chance, "js": shift.js, "thresholds": thresholds
    }  # fmt: skip
