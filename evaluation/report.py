"""A job's metrics from its merged partial, its documents' statistics and what its running took.

Knows which figures each task has and in which order they are told. Must not know how they are computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from corpusmill.tasks import Task
from evaluation import classification, multilabel, summarization
from evaluation.figures import ConfusionMatrix, Figures, Metric, Report, divided
from evaluation.partials import UNIT, Partial, Statistics


def intervals_need_statistics(task: Task, partial: Mapping[str, Any]) -> bool:
    """Whether `report` would read the documents' statistics: not without references, and not for single labels."""
    if task is Task.CLASSIFICATION:
        return bool(partial.get("by_label"))
    return any(name in partial for name in ("rouge", "bleu"))


def report(
    task: Task,
    partial: Mapping[str, Any],
    statistics: Iterable[Mapping[str, Any] | None] | None,
    *,
    total: int,
    usage: Mapping[str, Any] | None = None,
    wall_seconds: float | None = None,
) -> Report:
    """The metrics of a job of `total` documents, as far as they are known.

    `partial` is the merge of its shards' partials. `statistics` are its documents', in order of position, and read at
    most once; without them (None) the intervals that need them are None. `usage` are the job's summed {"seconds":
    {phase: s}, "tokens", "padded_tokens", …} and `wall_seconds` the time from its start; figures that lack what they
    need are left out. Only metrics against references have intervals: the others are counts of what was done, not
    estimates.
    """
    figures, merged = Figures(total), dict(partial)
    known = None
    if statistics is not None and intervals_need_statistics(task, merged):
        known = (dict(item) for item in statistics if item is not None)
    scored, matrix = _scored(task, merged, known, figures)
    return Report(
        metrics=[*scored, *_outputs(merged, figures), *_throughput(merged, figures, usage or {}, wall_seconds)],
        confusion_matrix=matrix,
    )


def _scored(
    task: Task, merged: Partial, known: Iterator[Statistics] | None, figures: Figures
) -> tuple[list[Metric], ConfusionMatrix | None]:
    if task is Task.SUMMARIZATION:
        return summarization.metrics(merged, known, figures), None
    if task is Task.TRANSLATION:
        from evaluation import translation

        return translation.metrics(merged, known, figures), None
    if not merged.get("scored"):
        return [], None
    if "by_label" in merged:
        return multilabel.metrics(merged, known, figures), None
    return classification.metrics(merged, figures)


def _outputs(merged: Partial, figures: Figures) -> Iterator[Metric]:
    """What the outputs are like, whatever the references: shares of labels, mean confidence, ratio of lengths."""
    n = merged.get("succeeded", 0)
    for label, count in sorted(merged.get("labels", {}).items()):
        yield figures.metric(f"label_share/{label}", divided(count, n), n)
    confident, sum_of_scores = merged.get("confidence", (0, 0))
    if confident:
        yield figures.metric("mean_confidence", sum_of_scores / (confident * UNIT), confident)
    if "lengths" in merged:
        characters_in, characters_out = merged["lengths"]
        yield figures.metric("length_ratio", divided(characters_out, characters_in), n)


def _throughput(
    merged: Partial, figures: Figures, usage: Mapping[str, Any], wall_seconds: float | None
) -> Iterator[Metric]:
    n = merged.get("documents", 0)
    if wall_seconds:
        yield figures.metric("documents_per_second", divided(n, wall_seconds), n)
        if usage.get("tokens"):
            yield figures.metric("tokens_per_second", divided(usage["tokens"], wall_seconds), n)
    if usage.get("padded_tokens"):
        share_of_text = divided(usage.get("tokens", 0), usage["padded_tokens"]) or 0.0
        yield figures.metric("padding_share", 1.0 - share_of_text, n)
    if usage.get("slot_steps"):
        yield figures.metric("slot_occupancy", divided(usage.get("busy_slot_steps", 0), usage["slot_steps"]), n)
    if driven := usage.get("seconds", {}).get("run", 0.0) + usage.get("seconds", {}).get("wait", 0.0):
        yield figures.metric("device_busy_share", divided(usage["seconds"].get("model", 0.0), driven), n)
    for phase, seconds in sorted(usage.get("seconds", {}).items()):
        yield figures.metric(f"seconds/{phase}", seconds, n)
