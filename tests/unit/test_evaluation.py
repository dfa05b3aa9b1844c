"""The whole way of a figure, shard by shard, held to scikit-learn, rouge-score and sacreBLEU on the raw outputs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF, TER
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)
from sklearn.preprocessing import MultiLabelBinarizer

import evaluation
from corpusmill.documents import Document, Reference, Result, failed
from corpusmill.errors import DocumentError
from corpusmill.tasks import ClassificationParams, Params, SummarizationParams, Task, TranslationParams
from evaluation import Metric, Report, partials

#: (reference, output or None for a failed document)
Case = tuple[Reference | None, dict[str, Any] | None]

SINGLE, SEVERAL = ClassificationParams(), ClassificationParams(multi_label=True)
WORDS = ["the", "cats", "running", "dogs", "Ran", "house", "houses", "a", ",", "über", "2024", "relational"]
texts = st.lists(st.sampled_from([*WORDS, "\n"]), min_size=1, max_size=14).map(" ".join).filter(str.strip)
cuts = st.lists(st.integers(0, 40), max_size=5)


def documents_of(cases: Sequence[Case]) -> tuple[list[Document], list[Result]]:
    documents = [
        Document(position=index, id=str(index), text="some input", reference=reference)
        for index, (reference, _) in enumerate(cases)
    ]
    error = DocumentError(code="timeout", message="It took too long.")
    results = [
        failed(document, error) if output is None else Result(position=index, document_id=str(index), output=output)
        for index, (document, (_, output)) in enumerate(zip(documents, cases, strict=True))
    ]
    return documents, results


def evaluated(task: Task, cases: Sequence[Case], params: Params, at: Sequence[int] = (), total: int = 0) -> Report:
    """The report of documents cut into shards at the positions `at`, merged from the last to the first."""
    documents, results = documents_of(cases)
    bounds = sorted({0, len(cases), *(cut for cut in at if cut < len(cases))})
    shards, kept = [], []
    for start, stop in pairwise(bounds):
        statistics = evaluation.document_statistics(task, documents[start:stop], results[start:stop], params)
        shards.append(stored(evaluation.partial_of(task, results[start:stop], statistics, params)))
        kept += stored(statistics)
    nothing: dict[str, Any] = {}
    whole = reduce(evaluation.merge, reversed(shards), nothing)
    return evaluation.report(task, whole, iter(kept), total=total or len(cases), usage=None, wall_seconds=None)


def stored(value: Any) -> Any:
    """As SQL gives it back."""
    return json.loads(json.dumps(value, allow_nan=False))


def figures(report: Report) -> dict[str, Metric]:
    named = {metric.name: metric for metric in report.metrics}
    assert len(named) == len(report.metrics)
    return named


def labelled(true: str | None, predicted: str) -> Case:
    return true, {"label": predicted, "score": 0.5, "scores": {predicted: 0.5}}


labels = st.sampled_from(["neg", "pos", "neutral", "é", "1"])


@given(pairs=st.lists(st.tuples(labels, labels), min_size=1, max_size=40), at=cuts)
@settings(max_examples=25, deadline=None)
def test_single_label_figures_are_those_of_scikit_learn_whatever_the_shards(
    pairs: list[tuple[str, str]], at: list[int]
) -> None:
    report = evaluated(Task.CLASSIFICATION, [labelled(*pair) for pair in pairs], SINGLE, at)
    true, predicted = zip(*pairs, strict=True)
    names = sorted({*true, *predicted})
    found = figures(report)
    expected = {"accuracy": accuracy_score(true, predicted)}
    expected["mcc"] = matthews_corrcoef(true, predicted) if len(names) > 1 else 0.0
    for average in ("macro", "weighted", "micro"):
        scores = precision_recall_fscore_support(true, predicted, average=average, zero_division=0)
        expected |= {
            f"{name}_{average}": value for name, value in zip(("precision", "recall", "f1"), scores, strict=False)
        }
    columns = precision_recall_fscore_support(true, predicted, labels=names, zero_division=0)
    for name, column in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        expected |= {f"{name}/{label}": value for label, value in zip(names, column, strict=True)}
    for name in [name for name in expected if name in found]:
        assert found[name].value == pytest.approx(expected[name], abs=1e-12)
    assert {"accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_micro", "f1_weighted", "mcc"} <= set(found)
    assert report.confusion_matrix is not None
    assert list(report.confusion_matrix.labels) == names
    counts = [list(row) for row in report.confusion_matrix.counts]
    if len(names) > 1:  # scikit-learn warns of a matrix of one label
        assert counts == confusion_matrix(true, predicted, labels=names).tolist()


label_sets = st.lists(labels, unique=True, max_size=4)


@given(pairs=st.lists(st.tuples(label_sets, label_sets), min_size=1, max_size=30), at=cuts)
@settings(max_examples=25, deadline=None)
def test_multi_label_figures_are_those_of_scikit_learn_on_indicator_matrices(
    pairs: list[tuple[list[str], list[str]]], at: list[int]
) -> None:
    cases: list[Case] = [
        (true, {"label": "x", "labels": predicted, "score": 0.5, "scores": {}}) for true, predicted in pairs
    ]
    report = evaluated(Task.CLASSIFICATION, cases, SEVERAL, at)
    found = figures(report)
    names = sorted({label for pair in pairs for side in pair for label in side})
    assert report.confusion_matrix is None
    if len(names) < 2:  # to scikit-learn a matrix of one column is no indicator matrix
        assert found["accuracy"].value == sum(true == predicted for true, predicted in pairs) / len(pairs)
        return
    binarizer = MultiLabelBinarizer(classes=names)
    true, predicted = (binarizer.fit_transform([pair[side] for pair in pairs]) for side in (0, 1))
    assert found["accuracy"].value == pytest.approx(accuracy_score(true, predicted), abs=1e-12)
    for average in ("micro", "macro", "weighted", "samples"):
        expected = f1_score(true, predicted, average=average, zero_division=0)
        assert found[f"f1_{average}"].value == pytest.approx(expected, abs=1e-11)
    columns = precision_recall_fscore_support(true, predicted, average=None, zero_division=0)
    for name, column in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        for label, value in zip(names, column, strict=True):
            assert found[f"{name}/{label}"].value == pytest.approx(value, abs=1e-12)


@given(pairs=st.lists(st.tuples(st.lists(texts, min_size=1, max_size=3), texts), min_size=1, max_size=12), at=cuts)
@settings(max_examples=20, deadline=None)
def test_rouge_figures_are_the_means_of_rouge_score_whatever_the_shards(
    pairs: list[tuple[list[str], str]], at: list[int]
) -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    scored = [scorer.score_multi(references, output) for references, output in pairs]
    found = figures(evaluated(Task.SUMMARIZATION, [(r, {"summary": o}) for r, o in pairs], SummarizationParams(), at))
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        mean = 100 * sum(scores[name].fmeasure for scores in scored) / len(scored)
        assert found[name].value == pytest.approx(mean, abs=1e-9)
        assert found[name].n == len(pairs)


@given(pairs=st.lists(st.tuples(st.lists(texts, min_size=1, max_size=3), texts), min_size=1, max_size=12), at=cuts)
@settings(max_examples=20, deadline=None)
def test_bleu_chrf_and_ter_are_those_of_sacrebleu_on_the_whole_whatever_the_shards(
    pairs: list[tuple[list[str], str]], at: list[int]
) -> None:
    report = evaluated(Task.TRANSLATION, [(r, {"translation": o}) for r, o in pairs], TranslationParams(), at)
    outputs = [output for _, output in pairs]
    most = max(len(references) for references, _ in pairs)
    streams = [[references[i] if i < len(references) else None for references, _ in pairs] for i in range(most)]
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF()), ("ter", TER())):
        expected = metric.corpus_score(outputs, streams).score
        assert figures(report)[name].value == pytest.approx(expected, abs=1e-9)
        assert figures(report)[name].signature == str(metric.get_signature())


numbers = st.integers(0, 9)
partial_objects = st.fixed_dictionaries(
    {},
    optional={
        "documents": numbers,
        "confidence": st.tuples(numbers, numbers).map(list),
        "labels": st.dictionaries(labels, numbers, max_size=3),
        "cells": st.dictionaries(labels, st.dictionaries(labels, numbers, min_size=1, max_size=3), max_size=3),
    },
)


@given(a=partial_objects, b=partial_objects, c=partial_objects)
def test_merging_is_associative_and_commutative_also_beyond_the_bound(
    a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partials, "MOST_ENTRIES", 4)
        a, b, c = (partials.bounded(item) for item in (a, b, c))
        before = json.dumps([a, b, c])
        assert evaluation.merge(evaluation.merge(a, b), c) == evaluation.merge(a, evaluation.merge(b, c))
        assert evaluation.merge(a, b) == evaluation.merge(b, a)
        assert evaluation.merge({}, a) == evaluation.merge(a, {}) == a
        assert json.dumps([a, b, c]) == before


def test_failed_documents_are_left_out_and_coverage_says_so() -> None:
    cases = [labelled("a", "a"), ("a", None), labelled("b", "a"), labelled(None, "b")]
    found = figures(evaluated(Task.CLASSIFICATION, cases, SINGLE, total=8))
    assert (found["accuracy"].value, found["accuracy"].n, found["accuracy"].coverage) == (0.5, 2, 0.25)
    assert found["label_share/a"].value == pytest.approx(2 / 3)
    assert found["label_share/a"].n == 3
    assert found["mean_confidence"].n == 3


def test_a_failed_document_has_no_statistics() -> None:
    for task, params in ((Task.CLASSIFICATION, SINGLE), (Task.SUMMARIZATION, SummarizationParams()),
                         (Task.TRANSLATION, TranslationParams())):  # fmt: skip
        assert evaluation.document_statistics(task, *documents_of([("a", None)]), params) == [None]


def test_results_find_their_documents_by_position_in_any_order() -> None:
    documents, results = documents_of([labelled("a", "a"), labelled("b", "c")])
    found = evaluation.document_statistics(Task.CLASSIFICATION, documents[::-1], results, SINGLE)
    assert [item and (item["t"], item["p"]) for item in found] == [("a", "a"), ("b", "c")]


def test_a_list_of_one_label_counts_as_that_label_and_several_as_no_reference() -> None:
    cases: list[Case] = [
        (["1"], labelled(None, "1")[1]),
        (["1", "2"], labelled(None, "1")[1]),
        ("  ", labelled(None, "1")[1]),
    ]
    found = figures(evaluated(Task.CLASSIFICATION, cases, SINGLE))
    assert (found["accuracy"].value, found["accuracy"].n) == (1.0, 1)


def test_a_reference_that_the_model_does_not_know_is_a_miss_with_its_own_row() -> None:
    report = evaluated(Task.CLASSIFICATION, [labelled("sarcastic", "pos"), labelled("pos", "pos")], SINGLE)
    assert figures(report)["accuracy"].value == 0.5
    assert report.confusion_matrix is not None
    assert report.confusion_matrix.labels == ("pos", "sarcastic")
    assert report.confusion_matrix.counts == ((1, 0), (1, 0))


def test_an_empty_list_of_labels_is_a_reference_where_several_labels_may_hold() -> None:
    output = {"label": "x", "labels": [], "score": 0.1, "scores": {}}
    found = figures(evaluated(Task.CLASSIFICATION, [([], output), (None, output), ("a", output)], SEVERAL))
    assert (found["accuracy"].value, found["accuracy"].n) == (0.5, 2)


def test_labels_hold_nothing_that_a_database_refuses() -> None:
    cases = [labelled("a\0b", "a\0b"), labelled("\ud800", "x"), labelled("l" * 5000, "y")]
    report = evaluated(Task.CLASSIFICATION, cases, SINGLE)
    assert report.confusion_matrix is not None
    for label in report.confusion_matrix.labels:
        assert "\0" not in label
        assert len(label.encode("utf-8")) <= 200
    assert figures(report)["accuracy"].value == pytest.approx(1 / 3)


def test_references_that_are_no_labels_at_all_leave_accuracy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partials, "MOST_ENTRIES", 10)
    cases = [labelled(f"text {index}", "pos") for index in range(30)] + [labelled("pos", "pos")] * 10
    report = evaluated(Task.CLASSIFICATION, cases, SINGLE, at=[7, 8, 30])
    assert figures(report)["accuracy"].value == 0.25
    assert "f1_macro" not in figures(report)
    assert report.confusion_matrix is None
    several: list[Case] = [(case[0], {**(case[1] or {}), "labels": ["pos"]}) for case in cases]
    found = figures(evaluated(Task.CLASSIFICATION, several, SEVERAL, at=[7, 8, 30]))
    assert found["accuracy"].value == found["f1_micro"].value == found["f1_samples"].value == 0.25
    assert "f1_macro" not in found


def test_without_references_there_are_shares_confidence_and_lengths_only() -> None:
    found = figures(evaluated(Task.CLASSIFICATION, [labelled(None, "a"), labelled(None, "b")], SINGLE))
    assert set(found) == {"label_share/a", "label_share/b", "mean_confidence"}
    assert found["mean_confidence"].value == 0.5
    for task, key, params in (
        (Task.SUMMARIZATION, "summary", SummarizationParams()),
        (Task.TRANSLATION, "translation", TranslationParams()),
    ):
        found = figures(evaluated(task, [(None, {key: "fünf!"}), ([" "], {key: ""})], params))
        assert set(found) == {"length_ratio"}
        assert (found["length_ratio"].value, found["length_ratio"].n) == (0.25, 2)


def test_throughput_follows_from_usage_and_wall_clock() -> None:
    documents, results = documents_of([labelled(None, "a"), (None, None)])
    statistics = evaluation.document_statistics(Task.CLASSIFICATION, documents, results, SINGLE)
    partial = evaluation.partial_of(Task.CLASSIFICATION, results, statistics, SINGLE)
    usage = {"seconds": {"model": 1.5, "read": 0.25}, "tokens": 80, "padded_tokens": 100}
    report = evaluation.report(Task.CLASSIFICATION, partial, None, total=4, usage=usage, wall_seconds=2.0)
    found = {metric.name: metric.value for metric in report.metrics}
    assert found["documents_per_second"] == 1.0
    assert found["tokens_per_second"] == 40.0
    assert found["padding_share"] == pytest.approx(0.2)
    assert (found["seconds/model"], found["seconds/read"]) == (1.5, 0.25)
    assert figures(report)["documents_per_second"].coverage == 0.5


def test_usage_says_how_busy_the_device_and_the_decoders_slots_were() -> None:
    usage = {"seconds": {"model": 3.0, "run": 3.5, "wait": 0.5}, "slot_steps": 400, "busy_slot_steps": 300}
    report = evaluation.report(Task.TRANSLATION, {"documents": 2}, None, total=2, usage=usage, wall_seconds=9.0)
    found = {metric.name: metric.value for metric in report.metrics}
    assert (found["device_busy_share"], found["slot_occupancy"]) == (0.75, 0.75)


def test_a_job_that_has_not_begun_has_an_empty_report() -> None:
    for task in Task:
        report = evaluation.report(task, {}, None, total=5, usage={}, wall_seconds=0.0)
        assert report.view() == {"metrics": [], "confusion_matrix": None}


def test_no_figure_is_ever_nan_or_infinite() -> None:
    bad = {"label": "a", "score": math.nan, "scores": {}}
    report = evaluated(Task.CLASSIFICATION, [("a", bad), ("a", {**bad, "score": math.inf})], SINGLE)
    assert "mean_confidence" not in figures(report)
    json.dumps(report.view(), allow_nan=False)
    empty = Document(position=0, id="0", text="", reference="x")
    results = [Result(position=0, document_id="0", output={"translation": ""})]
    params = TranslationParams()
    statistics = evaluation.document_statistics(Task.TRANSLATION, [empty], results, params)
    partial = evaluation.partial_of(Task.TRANSLATION, results, statistics, params)
    report = evaluation.report(Task.TRANSLATION, partial, statistics, total=0, usage={}, wall_seconds=1e-320)
    json.dumps(report.view(), allow_nan=False)
    assert figures(report)["length_ratio"].value is None


@given(reference=st.text(st.characters(exclude_categories=[])), output=st.text(st.characters(exclude_categories=[])))
@settings(max_examples=40, deadline=None)
def test_any_text_whatever_can_be_scored(reference: str, output: str) -> None:
    for task, params, key in (
        (Task.CLASSIFICATION, SINGLE, "label"),
        (Task.SUMMARIZATION, SummarizationParams(), "summary"),
        (Task.TRANSLATION, TranslationParams(target_lang="zh"), "translation"),
    ):
        report = evaluated(task, [(reference, {key: output}), ([reference, "x"], {key: output})], params)
        json.dumps(report.view(), allow_nan=False)


def test_metrics_come_in_one_order_with_those_against_references_first() -> None:
    report = evaluated(Task.CLASSIFICATION, [labelled("b", "a"), labelled("a", "a")], SINGLE)
    overall = ["accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_micro", "f1_weighted", "mcc"]
    by_label = [f"{name}/{label}" for label in "ab" for name in ("precision", "recall", "f1", "support")]
    assert [m.name for m in report.metrics] == [*overall, *by_label, "label_share/a", "mean_confidence"]
    assert report.view()["metrics"][0].keys() == {"name", "value", "ci_low", "ci_high", "n", "coverage", "signature"}
