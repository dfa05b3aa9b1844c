"""The metrics that the API returns are those of scikit-learn, sacreBLEU and rouge-score on the exported results.

Nothing is computed here but by those libraries, from nothing but what an export holds, in each of its formats.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import pytest
import rouge_score.rouge_scorer
from sacrebleu.metrics import BLEU, CHRF, TER
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)
from sklearn.preprocessing import MultiLabelBinarizer

from .stack import ROOT, Stack, jsonl

FORMATS = ("jsonl", "csv", "parquet")
#: Columns whose cells are JSON: of a number or a truth value in CSV, of an object or a list in any table.
TYPED = {"scores", "labels", "score", "position", "n_tokens", "n_segments", "truncated"}
TOLERANCE = 1e-9
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Ended:
    """A job that has ended, with its metrics by name, its matrix, and its exports as rows with the same names."""

    job: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    matrix: dict[str, Any] | None
    exports: dict[str, list[Row]]

    def scored(self, format: str) -> list[Row]:
        """The exported rows that have both an output and a reference."""
        return [row for row in self.exports[format] if row["status"] == "succeeded" and row["reference"] is not None]


def ended(stack: Stack, documents: Sequence[Mapping[str, Any]], **body: Any) -> Ended:
    """Upload the documents, run the job to its end, and fetch everything that it has to show."""
    corpus = stack.upload(jsonl(documents))
    job = stack.wait(stack.submit(corpus=corpus["id"], **body)["id"])
    shown = stack.get(f"/jobs/{job['id']}/metrics")
    metrics = {metric["name"]: metric for metric in shown["metrics"]}
    assert len(metrics) == len(shown["metrics"])
    exports = {format: read(format, stack.export(job["id"], format, raw="true")) for format in FORMATS}
    return Ended(job, metrics, shown["confusion_matrix"], exports)


def read(format: str, content: bytes) -> list[Row]:
    """An export's rows: `status`, `reference` and what is in an output, as JSON Lines have them."""
    if format == "jsonl":
        lines = [json.loads(line) for line in content.splitlines()]
        return [{"reference": None, **line, **(line["output"] or {})} for line in lines]
    if format == "csv":
        rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    else:
        rows = pq.read_table(io.BytesIO(content)).to_pylist()
    return [{name: _typed(name, value) for name, value in row.items()} for row in rows]


def _typed(name: str, value: Any) -> Any:
    """A table's cell as the value it stands for: CSV knows neither null nor numbers, and no table knows lists."""
    if value is None or (value == "" and name != "text"):
        return None
    if isinstance(value, str) and (name in TYPED or (name == "reference" and value.startswith("["))):
        return json.loads(value)
    return value


def assert_metrics(found: Ended, expected: Mapping[str, float], *, n: int, total: int) -> None:
    """Each value is the expected one, over `n` of `total` documents, and within its interval where there is one."""
    for name, value in expected.items():
        metric = found.metrics[name]
        assert metric["value"] == pytest.approx(value, rel=0, abs=TOLERANCE), name
        assert (metric["n"], metric["coverage"]) == (n, pytest.approx(n / total)), name
        if metric["ci_low"] is not None:
            assert metric["ci_low"] <= metric["value"] <= metric["ci_high"], name


def corpus(name: str, documents: int) -> list[dict[str, Any]]:
    """So many documents from all over a demo corpus."""
    lines = (ROOT / "demo" / "corpora" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:: len(lines) // documents][:documents]]


def damaged(documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The documents with one whose text is blank and one without a reference among them."""
    blank = {**documents[0], "id": "blank", "text": " \n"}
    unlabelled = {**documents[1], "id": "unlabelled", "reference": None}
    return [documents[0], blank, *documents[1:-1], unlabelled, documents[-1]]


# --- classification


def single_label(rows: Sequence[Row]) -> dict[str, float]:
    """scikit-learn's figures of the exported labels."""
    true, predicted = [row["reference"] for row in rows], [row["label"] for row in rows]
    names = sorted({*true, *predicted})
    values = {"accuracy": accuracy_score(true, predicted), "mcc": matthews_corrcoef(true, predicted)}
    for average in ("macro", "micro", "weighted"):
        scores = precision_recall_fscore_support(true, predicted, average=average, zero_division=0)
        values |= {
            f"{name}_{average}": score for name, score in zip(("precision", "recall", "f1"), scores, strict=False)
        }
    columns = precision_recall_fscore_support(true, predicted, labels=names, zero_division=0)
    for name, column in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        values |= {f"{name}/{label}": value for label, value in zip(names, column, strict=True)}
    own = ("precision_micro", "recall_micro", "precision_weighted", "recall_weighted")  # equal to the accuracy, or odd
    return {name: float(value) for name, value in values.items() if name not in own}


@pytest.fixture(scope="module")
def reviews(stack: Stack) -> Ended:
    """Reviews labelled by the demo classifier; one gold label is none that it can give."""
    documents = damaged(corpus("reviews.jsonl", 150))
    documents[7] = {**documents[7], "reference": "mixed"}
    return ended(stack, documents, task="classification", model="demo/classifier")


@pytest.mark.parametrize("format", FORMATS)
def test_figures_of_labels_are_those_of_scikit_learn_on_the_export(reviews: Ended, format: str) -> None:
    rows = reviews.scored(format)
    expected = single_label(rows)
    assert {"precision/mixed", "recall/positive", "f1/negative", "support/negative"} <= set(expected)
    assert len(rows) == 150
    assert_metrics(reviews, expected, n=150, total=152)


@pytest.mark.parametrize("format", FORMATS)
def test_the_confusion_matrix_is_that_of_scikit_learn_on_the_export(reviews: Ended, format: str) -> None:
    rows = reviews.scored(format)
    names = ["mixed", "negative", "positive"]
    counts = confusion_matrix([row["reference"] for row in rows], [row["label"] for row in rows], labels=names)
    assert reviews.matrix == {"labels": names, "counts": counts.tolist()}


@pytest.mark.parametrize("format", FORMATS)
def test_shares_of_labels_and_the_mean_confidence_are_those_of_the_export(reviews: Ended, format: str) -> None:
    rows = [row for row in reviews.exports[format] if row["status"] == "succeeded"]
    expected = {"mean_confidence": sum(row["score"] for row in rows) / len(rows)}
    for label in ("negative", "positive"):
        expected[f"label_share/{label}"] = sum(row["label"] == label for row in rows) / len(rows)
    assert_metrics(reviews, expected, n=151, total=152)


def test_a_document_that_failed_is_in_the_counts_and_not_in_the_figures(reviews: Ended) -> None:
    assert reviews.job["status"] == "completed_with_errors"
    assert reviews.job["counts"] == {"total": 152, "succeeded": 151, "failed": 1, "cancelled": 0, "pending": 0}
    for format in FORMATS:
        blank = reviews.exports[format][1]
        assert (blank["id"], blank["status"], blank.get("label")) == ("blank", "failed", None)


def test_accuracy_of_a_real_model_has_an_interval_of_some_width(reviews: Ended) -> None:
    for name in ("accuracy", "f1_macro", "mcc", "recall/positive"):
        metric = reviews.metrics[name]
        assert metric["ci_low"] < metric["value"] < metric["ci_high"], name
        assert 0.01 < metric["ci_high"] - metric["ci_low"] < 0.6, name


@pytest.fixture(scope="module")
def topics(stack: Stack) -> Ended:
    """Documents with several gold labels each, or none, labelled by `echo`."""
    names = ["0", "1", "2", "3", "none of these"]
    chosen = [sorted({*names[: k % 4], *names[-(k % 3) :]}) if k % 5 else [] for k in range(90)]
    documents = [{"text": f"Text {k} of several topics.", "reference": labels} for k, labels in enumerate(chosen)]
    return ended(stack, damaged(documents), task="classification", model="echo", params={"multi_label": True})


@pytest.mark.parametrize("format", FORMATS)
def test_figures_of_several_labels_a_document_are_those_of_scikit_learn_on_the_export(
    topics: Ended, format: str
) -> None:
    rows = topics.scored(format)
    names = sorted({label for row in rows for label in (*row["reference"], *row["labels"])})
    binarizer = MultiLabelBinarizer(classes=names)
    true = binarizer.fit_transform([row["reference"] for row in rows])
    predicted = binarizer.transform([row["labels"] for row in rows])
    expected = {"accuracy": float(accuracy_score(true, predicted))}
    for average in ("macro", "micro", "weighted", "samples"):
        expected[f"f1_{average}"] = float(f1_score(true, predicted, average=average, zero_division=0))
    columns = precision_recall_fscore_support(true, predicted, average=None, zero_division=0)
    for name, column in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        expected |= {f"{name}/{label}": float(value) for label, value in zip(names, column, strict=True)}
    assert len(rows) == 90
    assert_metrics(topics, expected, n=90, total=92)


# --- translation


def sacrebleu_scores(
    rows: Sequence[Row], tokenize: str = "13a", *, asian: bool = False
) -> dict[str, tuple[float, str]]:
    """sacreBLEU's scores and signatures of the exported translations; references may differ in number."""
    outputs = [row["translation"] for row in rows]
    references = [row["reference"] if isinstance(row["reference"], list) else [row["reference"]] for row in rows]
    streams = [
        [texts[number] if number < len(texts) else None for texts in references]
        for number in range(max(map(len, references)))
    ]
    scores = {}
    metrics = {"bleu": BLEU(tokenize=tokenize), "chrf": CHRF(), "ter": TER(normalized=asian, asian_support=asian)}
    for name, metric in metrics.items():
        score = metric.corpus_score(outputs, streams).score
        scores[name] = (float(score), str(metric.get_signature()))
    return scores


def assert_scores(found: Ended, expected: Mapping[str, tuple[float, str]], *, n: int, total: int) -> None:
    assert_metrics(found, {name: value for name, (value, _) in expected.items()}, n=n, total=total)
    for name, (_, signature) in expected.items():
        assert found.metrics[name]["signature"] == signature


@pytest.fixture(scope="module")
def sentences(stack: Stack) -> Ended:
    documents = damaged(corpus("sentences.en-de.jsonl", 40))
    return ended(stack, documents, task="translation", model="demo/translator")


@pytest.mark.parametrize("format", FORMATS)
def test_figures_of_translations_are_those_of_sacrebleu_on_the_export(sentences: Ended, format: str) -> None:
    rows = sentences.scored(format)
    expected = sacrebleu_scores(rows)
    assert expected["bleu"][1].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert expected["bleu"][0] > 20  # the demo translator translates
    assert len(rows) == 40
    assert_scores(sentences, expected, n=40, total=42)


def test_translations_have_intervals_of_some_width(sentences: Ended) -> None:
    for name in ("bleu", "chrf", "ter"):
        metric = sentences.metrics[name]
        assert metric["ci_low"] < metric["value"] < metric["ci_high"], name


@pytest.mark.parametrize("format", FORMATS)
def test_the_ratio_of_lengths_is_that_of_the_exported_texts(sentences: Ended, format: str) -> None:
    rows = [row for row in sentences.exports[format] if row["status"] == "succeeded"]
    characters_in, characters_out = (sum(len(row[name]) for row in rows) for name in ("text", "translation"))
    assert_metrics(sentences, {"length_ratio": characters_out / characters_in}, n=41, total=42)


@pytest.mark.parametrize(
    ("target", "tokenizer", "texts"),
    [("de", "13a", ["ein kleines Haus", "der alte Baum"]), ("zh", "zh", ["我们 今天", "他在家里看书。"])],
)
def test_figures_follow_the_target_language_and_take_several_references(
    stack: Stack, target: str, tokenizer: str, texts: list[str]
) -> None:
    documents: list[dict[str, Any]] = []
    for k in range(45):
        said = f"{texts[k % 2]} {k % 7}, {texts[0]}."
        one, other = said, said.replace(texts[0], texts[1], 1)
        documents.append({"text": said[::-1], "reference": [one, other] if k % 3 else [other]})
    found = ended(stack, documents, task="translation", model="echo", params={"target_lang": target})
    for format in FORMATS:
        expected = sacrebleu_scores(found.scored(format), tokenizer, asian=target == "zh")
        assert "nrefs:var" in expected["bleu"][1]
        assert f"tok:{tokenizer}" in expected["bleu"][1]
        assert_scores(found, expected, n=45, total=45)


# --- summarization


def rouge(rows: Sequence[Row]) -> dict[str, float]:
    """rouge-score's mean F-measures of the exported summaries, the best reference's where there are several."""
    kinds = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    scorer = rouge_score.rouge_scorer.RougeScorer(kinds, use_stemmer=True)
    sums = dict.fromkeys(kinds, 0.0)
    for row in rows:
        references = row["reference"] if isinstance(row["reference"], list) else [row["reference"]]
        scores = scorer.score_multi(references, row["summary"])
        sums = {kind: sums[kind] + scores[kind].fmeasure for kind in kinds}
    return {kind: 100 * total / len(rows) for kind, total in sums.items()}


@pytest.fixture(scope="module")
def papers(stack: Stack) -> Ended:
    documents = [{**paper, "text": paper["text"][:3_000]} for paper in corpus("papers.jsonl", 16)]
    return ended(stack, damaged(documents), task="summarization", model="demo/summarizer")


@pytest.mark.parametrize("format", FORMATS)
def test_figures_of_summaries_are_those_of_rouge_score_on_the_export(papers: Ended, format: str) -> None:
    rows = papers.scored(format)
    expected = rouge(rows)
    assert expected["rougeLsum"] != pytest.approx(expected["rougeL"])  # their summaries have lines
    assert len(rows) == 16
    assert_metrics(papers, expected, n=16, total=18)


def test_summaries_have_intervals_of_some_width(papers: Ended) -> None:
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        metric = papers.metrics[name]
        assert metric["ci_low"] < metric["value"] < metric["ci_high"], name


def test_of_several_reference_summaries_the_best_one_counts(stack: Stack) -> None:
    first = ["A cat sat on the mat.", "The running dogs were houses, in 2024."]
    documents = [
        {
            "text": f"{first[k % 2]} And the rest of text {k}.",
            "reference": [f"The cats sitting {k}\non a mat", first[k % 3 % 2]][: 1 + k % 2],
        }
        for k in range(40)
    ]
    found = ended(stack, documents, task="summarization", model="echo")
    for format in FORMATS:
        assert_metrics(found, rouge(found.scored(format)), n=40, total=40)


# --- what holds for every task


def test_all_formats_export_the_same_values(reviews: Ended, sentences: Ended, papers: Ended, topics: Ended) -> None:
    for found in (reviews, sentences, papers, topics):
        lines, rows, table = (found.exports[format] for format in FORMATS)
        assert rows == table
        for line, row in zip(lines, table, strict=True):
            error = line["error"] or {"code": None, "message": None}
            expected = {**line, "error_code": error["code"], "error_message": error["message"]}
            assert row == {name: expected.get(name) for name in row}


def test_without_references_there_are_the_figures_that_need_none(stack: Stack) -> None:
    documents = [{"text": f"Without a reference {k}."} for k in range(40)]
    found = ended(stack, documents, task="classification", model="echo")
    assert "accuracy" not in found.metrics
    assert found.matrix is None
    for format in FORMATS:
        rows = found.exports[format]
        expected = {f"label_share/{row['label']}": 0.0 for row in rows}
        for row in rows:
            expected[f"label_share/{row['label']}"] += 1 / 40
        assert_metrics(found, {**expected, "mean_confidence": 1.0}, n=40, total=40)
