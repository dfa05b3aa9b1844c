"""What the engine is to reach, and whether it does: ratios of rows that were measured side by side.

Knows the goals and the rows' names. Must not know how anything is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.names import ALONE, COMPILED, CT2, CT2_HALF, INT8, ONNX, OURS, SYSTEM, generate_in, pipeline_of
from bench.tables import Group, Row

#: A ratio, or why there is none.
Found = float | str


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio to reach: how many times faster `ours` is than the fastest of `against`, in one group.

    Without `against`, the share of the machine's measured matrix peak. `by_tokens` compares generated tokens a second
    instead of documents, for rows whose outputs are not the same.
    """

    work: str
    compared: str
    group: str
    against: tuple[str, ...]
    least: float
    aim: float
    ours: str = OURS
    by_tokens: bool = False

    def found(self, groups: Mapping[str, Group]) -> Found:
        """The ratio, or why it was not measured. A row whose answers are not the reference's is no comparison."""
        if self.group not in groups:
            return "not run"
        group = groups[self.group]
        ours = group.row(self.ours)
        if ours is None or (ours.gated and not ours.holds):
            return _why(group, self.ours)
        if not self.against:
            return ours.facts["share_of_peak"]
        others = [row for name in self.against if (row := group.row(name)) is not None and (row.holds or not row.gated)]
        if not others:
            return _why(group, self.against[0])
        return self._rate(group, ours) / max(self._rate(group, row) for row in others)

    def _rate(self, group: Group, row: Row) -> float:
        return row.facts["generated_tokens"] / group.seconds(row) if self.by_tokens else group.rate(row)


def _why(group: Group, name: str) -> str:
    skipped = next((row.skipped for row in group.rows if row.name == name and row.skipped), None)
    return skipped or "answers differ, so that it is no comparison"


def _encoder_goals(kind: str, name: str) -> list[Goal]:
    group, work = f"{kind}/paragraphs", f"classification, long-tailed, {name}"
    return [
        Goal(work, pipeline_of(32), group, (pipeline_of(32),), 3.5, 5.0),
        Goal(work, pipeline_of(1), group, (pipeline_of(1),), 1.2, 1.5),
        Goal(work, "better of ONNX Runtime and CTranslate2, float32", group, (ONNX, CT2), 1.1, 1.3),
        Goal(work, "measured matrix peak", group, (), 0.70, 0.80),
    ]


CPU_GOALS = [
    *_encoder_goals("distilbert", "DistilBERT"),
    *_encoder_goals("bert-base", "BERT-base"),
    Goal("greedy, Marian size", generate_in(32), "greedy", (generate_in(32),), 2.2, 3.0),
    Goal("greedy, Marian size", "CTranslate2 float32", "greedy", (CT2,), 1.2, 1.6),
    Goal("beam 4, Marian size", generate_in(32), "beams", (generate_in(32),), 2.6, 4.0),
    Goal("beam 4, Marian size", "CTranslate2 float32", "beams", (CT2,), 0.85, 1.1),
    Goal("beam 4, BART size, long sources", generate_in(8), "summaries", (generate_in(8),), 4.0, 6.0),
    Goal("int8, DistilBERT", "our float32", "distilbert/paragraphs", (OURS,), 1.8, 2.5, ours=INT8),
    Goal("int8, BERT-base", "our float32", "bert-base/paragraphs", (OURS,), 1.8, 2.5, ours=INT8),
    Goal("int8, greedy, Marian size", "our float32, by tokens", "greedy", (OURS,), 1.8, 2.5, ours=INT8, by_tokens=True),
    Goal("whole system, HTTP to SQL", "our engine alone", "system", (ALONE,), 0.93, 0.98, ours=SYSTEM),
]


def _gpu_goals(kind: str, name: str, times: float) -> list[Goal]:
    group = f"gpu/{kind}"
    return [
        Goal(f"classification, long-tailed, {name}, bf16", pipeline_of(32), group, (pipeline_of(32),), times, times)
    ]


#: On one H200; on another device the same, with its own measured rate.
GPU_GOALS = [
    *_gpu_goals("distilbert", "DistilBERT", 15.0),
    *_gpu_goals("bert-base", "BERT-base", 10.0),
    *_gpu_goals("roberta-large", "RoBERTa-large", 6.0),
    Goal("packed BERT-base, eager", "measured dense rate", "gpu/bert-base", (), 0.45, 0.45),
    Goal("packed BERT-base, compiled", "measured dense rate", "gpu/bert-base", (), 0.55, 0.60, ours=COMPILED),
    Goal("greedy, Marian size", generate_in(32), "gpu/marian", (generate_in(32),), 20.0, 20.0),
    Goal("greedy, Marian size", CT2_HALF, "gpu/marian", (CT2_HALF,), 2.0, 2.0),
    Goal("beam 4, Marian size", generate_in(32), "gpu/marian-beams", (generate_in(32),), 15.0, 15.0),
    Goal("beam 4, Marian size", CT2_HALF, "gpu/marian-beams", (CT2_HALF,), 1.0, 1.0),
    Goal("whole system, HTTP to SQL", "our engine alone", "system", (ALONE,), 0.9, 0.9, ours=SYSTEM),
]


def verdict(goal: Goal, found: Found) -> str:
    """Whether a goal is met, in words."""
    if isinstance(found, str):
        return f"not measured: {found}"
    if found >= goal.aim:
        return "aim"
    return "yes" if found >= goal.least else "no"
