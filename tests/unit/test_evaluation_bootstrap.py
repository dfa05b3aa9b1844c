"""The intervals: what a plain bootstrap over documents gives, in bounded memory and the same each time."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, TER
from sklearn.metrics import f1_score, matthews_corrcoef, precision_recall_fscore_support

import evaluation
from corpusmill.documents import Document, Result
from corpusmill.tasks import ClassificationParams, Task, TranslationParams
from evaluation import Metric, bootstrap, confusion


def figures(task: Task, partial: dict[str, Any], statistics: Any) -> dict[str, Metric]:
    report = evaluation.report(task, partial, statistics, total=partial["documents"], usage=None, wall_seconds=None)
    return {metric.name: metric for metric in report.metrics}


def rouge_partial(statistics: list[dict[str, Any]]) -> dict[str, Any]:
    from evaluation import summarization

    return {"documents": len(statistics), "succeeded": len(statistics)} | summarization.partial(statistics)


def rouge_statistics(count: int, seed: int = 1) -> list[dict[str, Any]]:
    chosen = random.Random(seed)
    return [{"i": 1, "o": 1, "r": [chosen.randrange(11), 10, 10] * 4} for _ in range(count)]


def width(metric: Metric) -> float:
    assert metric.ci_low is not None
    assert metric.ci_high is not None
    assert metric.value is not None
    assert metric.ci_low <= metric.value <= metric.ci_high
    return metric.ci_high - metric.ci_low


def normal_width(values: list[float]) -> float:
    return 2 * 1.96 * float(np.std(values)) / math.sqrt(len(values))


matrices = st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=4, max_size=4).filter(
    lambda rows: sum(map(sum, rows)) > 0
)


@given(matrix=matrices)
@settings(max_examples=60, deadline=None)
def test_the_figures_of_a_resampled_matrix_are_those_of_scikit_learn(matrix: list[list[int]]) -> None:
    rows, columns = (axis.ravel() for axis in np.indices((4, 4)))
    counts = np.array(matrix).ravel()
    pairs = confusion.Sparse(rows, columns, counts, 4)
    found = confusion.scores(pairs, np.stack([counts, 2 * counts]).astype(float))
    true, predicted = np.repeat(rows, counts), np.repeat(columns, counts)
    macro = precision_recall_fscore_support(true, predicted, average="macro", zero_division=0)[:3]
    accuracy = float(np.mean(true == predicted))
    weighted = f1_score(true, predicted, average="weighted", zero_division=0)
    several = len({*true, *predicted}) > 1
    mcc = matthews_corrcoef(true, predicted) if several else 0.0
    for row in found.overall:  # twice the counts, the same figures
        assert row == pytest.approx([accuracy, *macro, accuracy, weighted, mcc], abs=1e-12)
    columns_by_label = precision_recall_fscore_support(true, predicted, labels=range(4), zero_division=0)
    for name, expected in zip(confusion.BY_LABEL, columns_by_label, strict=False):
        assert found.by_label[name][0] == pytest.approx(expected, abs=1e-12)


def test_drawing_counts_from_the_matrix_is_drawing_documents() -> None:
    chosen = random.Random(5)
    pairs = [
        (t, t if chosen.random() < 0.8 else chosen.choice("abc")) for t in (chosen.choice("aabc") for _ in range(300))
    ]
    documents = [Document(position=i, id=str(i), text="x", reference=t) for i, (t, _) in enumerate(pairs)]
    results = [Result(position=i, document_id=str(i), output={"label": p}) for i, (_, p) in enumerate(pairs)]
    params = ClassificationParams()
    statistics = evaluation.document_statistics(Task.CLASSIFICATION, documents, results, params)
    found = figures(Task.CLASSIFICATION, evaluation.partial_of(Task.CLASSIFICATION, results, statistics, params), None)
    generator = np.random.default_rng(7)
    true, predicted = np.array(pairs).T
    drawn = [generator.integers(0, 300, 300) for _ in range(400)]
    by_hand = [f1_score(true[index], predicted[index], average="macro") for index in drawn]
    low, high = np.quantile(by_hand, (0.025, 0.975))
    assert found["f1_macro"].ci_low == pytest.approx(low, abs=0.012)
    assert found["f1_macro"].ci_high == pytest.approx(high, abs=0.012)
    assert found["support/a"].ci_low is None


def test_intervals_of_rouge_are_as_wide_as_theory_has_them_with_and_without_grouping() -> None:
    for count in (2_000, 40_000):
        statistics = rouge_statistics(count)
        metric = figures(Task.SUMMARIZATION, rouge_partial(statistics), iter(statistics))["rougeL"]
        expected = normal_width([10.0 * item["r"][0] for item in statistics])
        assert width(metric) == pytest.approx(expected, rel=0.12)


def test_intervals_of_bleu_and_ter_are_those_of_drawing_documents_by_hand() -> None:
    chosen = random.Random(11)
    vocabulary = [f"w{index}" for index in range(30)]
    references = [" ".join(chosen.choices(vocabulary, k=chosen.randint(4, 12))) for _ in range(80)]
    outputs = [" ".join(w if chosen.random() < 0.8 else "x" for w in text.split()) for text in references]
    params = TranslationParams()
    documents = [Document(position=i, id=str(i), text="x", reference=text) for i, text in enumerate(references)]
    results = [Result(position=i, document_id=str(i), output={"translation": text}) for i, text in enumerate(outputs)]
    statistics = evaluation.document_statistics(Task.TRANSLATION, documents, results, params)
    partial = evaluation.partial_of(Task.TRANSLATION, results, statistics, params)
    found = figures(Task.TRANSLATION, partial, statistics)
    draws = [[chosen.randrange(80) for _ in range(80)] for _ in range(400)]
    for name, metric, tolerance in (("bleu", BLEU(), 1.5), ("ter", TER(), 0.8)):
        rows = metric._extract_corpus_statistics(outputs, [references])
        by_hand = [metric._aggregate_and_compute([rows[i] for i in draw]).score for draw in draws]
        low, high = np.quantile(by_hand, (0.025, 0.975))
        assert width(found[name]) > 0
        assert (found[name].ci_low, found[name].ci_high) == pytest.approx((low, high), abs=tolerance)


def test_intervals_of_several_labels_come_from_the_documents() -> None:
    chosen = random.Random(3)
    statistics = [{"p": ["a"] if chosen.random() < 0.7 else ["a", "b"], "t": ["a"]} for _ in range(400)]
    from evaluation import multilabel

    partial = {"documents": 400, "succeeded": 400} | multilabel.partial(statistics)
    found = figures(Task.CLASSIFICATION, partial, iter(statistics))
    correct = [float(item["p"] == item["t"]) for item in statistics]
    assert width(found["accuracy"]) == pytest.approx(normal_width(correct), rel=0.12)
    assert width(found["f1_samples"]) > 0
    assert width(found["precision/a"]) == 0.0
    without = figures(Task.CLASSIFICATION, partial, None)
    assert without["accuracy"].ci_low is None
    assert without["accuracy"].value == found["accuracy"].value


def test_without_statistics_only_the_confusion_matrix_gives_intervals() -> None:
    partial = rouge_partial(rouge_statistics(10))
    assert figures(Task.SUMMARIZATION, partial, None)["rouge1"].ci_low is None
    assert evaluation.intervals_need_statistics(Task.SUMMARIZATION, partial)
    assert not evaluation.intervals_need_statistics(Task.SUMMARIZATION, {"documents": 3})
    single = {"documents": 4, "succeeded": 4, "cells": {"a": {"a": 3, "b": 1}}, "scored": 4, "hits": 3}
    assert not evaluation.intervals_need_statistics(Task.CLASSIFICATION, single)
    assert width(figures(Task.CLASSIFICATION, single, None)["accuracy"]) > 0


def test_statistics_that_are_not_needed_are_not_read() -> None:
    single = {"documents": 4, "succeeded": 4, "cells": {"a": {"a": 3, "b": 1}}, "scored": 4, "hits": 3}
    statistics = iter([{"p": "a", "t": "a"}])
    assert figures(Task.CLASSIFICATION, single, statistics)["accuracy"].value == 0.75
    assert len(list(statistics)) == 1


def test_the_same_statistics_give_the_same_intervals() -> None:
    statistics = rouge_statistics(500)
    partial = rouge_partial(statistics)
    assert figures(Task.SUMMARIZATION, partial, statistics) == figures(Task.SUMMARIZATION, partial, iter(statistics))


def test_one_document_has_no_interval() -> None:
    statistics = rouge_statistics(1)
    assert figures(Task.SUMMARIZATION, rouge_partial(statistics), statistics)["rouge1"].ci_low is None
    single = {"documents": 1, "succeeded": 1, "cells": {"a": {"a": 1}}, "scored": 1, "hits": 1}
    assert figures(Task.CLASSIFICATION, single, None)["accuracy"].ci_low is None


@given(count=st.integers(0, 60), most=st.integers(4, 12))
def test_documents_are_kept_apart_as_long_as_they_fit_and_then_in_groups_that_lose_none(count: int, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "MOST_ROWS", most)
        rows = bootstrap.collected(([1.0, float(index)] for index in range(count)), 2)
    assert len(rows) == (count if count <= most else most // 2)
    assert rows[:, 0].sum() == count
    assert rows[:, 1].sum() == sum(range(count))


def test_groups_give_the_same_width_where_unlike_documents_take_turns_and_where_they_stand_apart() -> None:
    for statistics in (
        [{"r": [10 * (index % 2), 10, 10] * 4} for index in range(20_000)],
        [{"r": [10 * (index // 10_000), 10, 10] * 4} for index in range(20_000)],
    ):
        metric = figures(Task.SUMMARIZATION, rouge_partial(statistics), statistics)["rouge1"]
        assert width(metric) == pytest.approx(2 * 1.96 * 50 / math.sqrt(20_000), rel=0.12)
