"""What each document's metrics need, kept beside its result, and what a shard's documents add up to.

Knows documents, results and which figures each task has. Must not know where statistics are kept.

A document's statistics are a JSON object with short keys, None for a failed document. Classification: `p` the predicted
label (multi-label: labels), `c` the confidence, `t` the reference's label (labels). Summarization and translation: `i`
and `o` the characters of input and output, then `r` (see `rouge`), or `b`, `h`, `e`, `k` (see `bleu`). What has
no usable reference lacks the keys that need one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from corpusmill.documents import Document, Result
from corpusmill.tasks import ClassificationParams, Params, Task, TranslationParams
from evaluation import classification, multilabel, summarization
from evaluation.partials import Partial, Statistics, whole
from evaluation.references import label_of, reference_texts, true_label, true_labels


def document_statistics(
    task: Task, documents: Sequence[Document], results: Sequence[Result], params: Params
) -> list[Statistics | None]:
    """The statistics of each result, in the order of `results`; None for a failed one.

    `documents` hold those of the results, in any order, found by their position. Raises KeyError where one is missing.
    """
    by_position = {document.position: document for document in documents}
    pairs = ((by_position[result.position], result.output) for result in results)
    if task is Task.CLASSIFICATION:
        several = isinstance(params, ClassificationParams) and params.multi_label
        return [None if output is None else _labels(document, output, several) for document, output in pairs]
    if task is Task.SUMMARIZATION:
        return [None if output is None else _summary(document, output["summary"]) for document, output in pairs]
    return _translations(pairs, params)


def partial_of(
    task: Task, results: Sequence[Result], statistics: Sequence[Mapping[str, Any] | None], params: Params
) -> Partial:
    """What these results add to their job's metrics: counts and sums only.

    `documents` and `succeeded` count results; `labels` {predicted label: documents}, `confidence` [documents, sum];
    `lengths` [characters of input, of output]; the rest is the task's own.
    """
    known = [dict(item) for item in statistics if item is not None]
    out: Partial = {"documents": len(results), "succeeded": len(known)}
    if task is Task.CLASSIFICATION:
        several = isinstance(params, ClassificationParams) and params.multi_label
        return out | _predicted(known) | (multilabel.partial(known) if several else classification.partial(known))
    if known:
        out["lengths"] = [sum(item[key] for item in known) for key in ("i", "o")]
    return out | (summarization.partial(known) if task is Task.SUMMARIZATION else _translation_partial(known, params))


def _labels(document: Document, output: Mapping[str, Any], several: bool) -> Statistics:
    out: Statistics = {}
    true: str | list[str] | None
    if several:
        out["p"], true = sorted({label_of(label) for label in output["labels"]}), true_labels(document)
    else:
        out["p"], true = label_of(output["label"]), true_label(document)
    score = output.get("score")
    if score is not None and math.isfinite(score):
        out["c"] = round(float(score), 12)
    if true is not None:
        out["t"] = true
    return out


def _summary(document: Document, summary: str) -> Statistics:
    out: Statistics = {"i": len(document.text), "o": len(summary)}
    references = reference_texts(document)
    if references:
        from evaluation import rouge

        counts = rouge.statistics(references, summary)
        if counts is not None:
            out["r"] = counts
    return out


def _translations(
    pairs: Iterable[tuple[Document, Mapping[str, Any] | None]], params: Params
) -> list[Statistics | None]:
    from evaluation.bleu import scorers

    scorer = scorers(_target_lang(params))
    out: list[Statistics | None] = []
    for document, output in pairs:
        if output is None:
            out.append(None)
            continue
        translation, references = output["translation"], reference_texts(document)
        lengths = {"i": len(document.text), "o": len(translation)}
        out.append(lengths | (scorer.statistics(references, translation) if references else {}))
    scorer.forget()
    return out


def _translation_partial(known: Sequence[Statistics], params: Params) -> Partial:
    if not known:
        return {}
    from evaluation import bleu, translation

    return translation.partial(known, bleu.scorers(_target_lang(params)).variants)


def _target_lang(params: Params) -> str | None:
    return params.target_lang if isinstance(params, TranslationParams) else None


def _predicted(known: Sequence[Statistics]) -> Partial:
    labels: dict[str, int] = {}
    for item in known:
        for label in item["p"] if isinstance(item["p"], list) else [item["p"]]:
            labels[label] = labels.get(label, 0) + 1
    scores = [whole(item["c"]) for item in known if "c" in item]
    return {"labels": labels, "confidence": [len(scores), sum(scores)]}
