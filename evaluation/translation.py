"""BLEU, chrF and TER of a corpus of translations, from the sums of its documents' statistics.

Knows how sacreBLEU turns sums into a score and writes its signature. Must not know texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from sacrebleu.metrics import BLEU, CHRF, TER

from evaluation import bootstrap
from evaluation.figures import Figures, Interval, Metric
from evaluation.partials import Partial, Statistics

#: The key of each metric in a document's statistics, and how many numbers it has there.
KEYS = {"bleu": ("b", 10), "chrf": ("h", 18), "ter": ("e", 2)}


class _Scorer(Protocol):
    def _compute_score_from_stats(self, stats: list[float]) -> Any: ...
    def get_signature(self) -> object: ...


def partial(statistics: Iterable[Statistics], variants: Mapping[str, str]) -> Partial:
    """{metric: {variant: {number of references: [documents, *sums of its statistics]}}}."""
    out: Partial = {}
    for name, (key, width) in KEYS.items():
        by_references: dict[str, list[int]] = {}
        for item in statistics:
            if key in item:
                sums = by_references.setdefault(str(item.get("k", 1)), [0] * (width + 1))
                sums[:] = [total + value for total, value in zip(sums, (1, *item[key]), strict=True)]
        if by_references:
            out[name] = {variants[name]: by_references}
    return out


def metrics(whole: Partial, statistics: Iterable[Statistics] | None, figures: Figures) -> list[Metric]:
    """BLEU, chrF and TER of the corpus, with intervals where the documents' statistics are given."""
    sums = {name: _chosen(whole[name]) for name in KEYS if name in whole}
    mixed = any(len(whole[name]) > 1 for name in sums)  # then no statistics say which variant they are of
    intervals = _intervals(sums, statistics) if statistics is not None and not mixed else {}
    out = []
    for name, (variant, by_references) in sums.items():
        scorer = _scorer(name, variant, by_references)
        n, *values = _totals(name, by_references)
        score = scorer._compute_score_from_stats(values).score
        interval = intervals.get(name, (None, None))
        out.append(figures.metric(name, score, int(n), interval, str(scorer.get_signature())))
    return out


def _chosen(by_variant: Mapping[str, Any]) -> tuple[str, dict[str, list[int]]]:
    """The variant with most documents; there are several only if workers had different tokenizers installed."""
    return max(sorted(by_variant.items()), key=lambda item: sum(sums[0] for sums in item[1].values()))


def _scorer(name: str, variant: str, by_references: Mapping[str, Any]) -> _Scorer:
    """sacreBLEU's metric with the state that its signature is made of; BLEU's tokenizer need not be installed here."""
    scorer: Any
    if name == "bleu":
        scorer = BLEU(tokenize="none", force=True)
        scorer.tokenizer_signature = variant
    elif name == "chrf":
        scorer = CHRF()
    else:
        asian = variant == "tercom-asian"
        scorer = TER(normalized=asian, asian_support=asian)
    counts = [int(count) for count in by_references]
    scorer.num_refs = counts[0] if len(counts) == 1 else -1  # sacreBLEU writes -1 as "var"
    found: _Scorer = scorer
    return found


def _totals(name: str, by_references: Mapping[str, list[int]]) -> list[float]:
    """[documents, *sacreBLEU's corpus statistics]; in TER a document's reference length is its references' mean."""
    rows = [_row(name, sums, int(count)) for count, sums in sorted(by_references.items())]
    return [sum(column) for column in zip(*rows, strict=True)]


def _row(name: str, sums: Sequence[int], references: int) -> list[float]:
    return [*sums[:-1], sums[-1] / references] if name == "ter" else list(sums)


def _intervals(sums: Mapping[str, Any], statistics: Iterable[Statistics]) -> dict[str, Interval]:
    """The interval of each metric: sacreBLEU's score of each resample's sums."""
    widths = {name: KEYS[name][1] + 1 for name in sums}
    rows = bootstrap.collected(
        (_document_row(item, widths) for item in statistics if "b" in item), sum(widths.values())
    )
    if len(rows) < 2:
        return {}
    resampled = bootstrap.resampled(rows)
    out, start = {}, 0
    for name, width in widths.items():
        columns = resampled[:, start : start + width]
        scorer = _scorer(name, *sums[name])
        scores = [
            scorer._compute_score_from_stats(row[1:]).score if row[0] else float("nan") for row in columns.tolist()
        ]
        out[name] = bootstrap.interval(np.array(scores))
        start += width
    return out


def _document_row(item: Statistics, widths: Mapping[str, int]) -> list[float]:
    row: list[float] = []
    for name, width in widths.items():
        values = item.get(KEYS[name][0])
        row += [0.0] * width if values is None else _row(name, [1, *values], item.get("k", 1))
    return row
