"""Which documents people look at: rules, an audit sample that favours none, and a bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from math import log
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from corpusmill.schedules import Review
from pipeline.review import Chosen
from pipeline.review.choosing import choose, drawn, entropy_of, margin_of
from pipeline.sinks import Delivered


def row(id: str = "d", label: str = "positive", score: float = 0.6, run: str = "run_1", **more: Any) -> Delivered:
    rest = "negative" if label == "positive" else "positive"
    values: dict[str, Any] = {
        "document_id": id, "text": "t", "status": "succeeded", "error": None, "score": score, "label": label,
        "output": {"label": label, "score": score, "scores": {label: score, rest: 1 - score}},
        "model_id": "m", "model_revision": "abc", "run_id": run, "labelled_at": 1.0,
    }  # fmt: skip
    return Delivered(**values | more)


def review(**rules: Any) -> Review:
    return Review.model_validate({"to": {"type": "file", "place": "p", "path": "f", "format": "argilla"}, **rules})


def ids(chosen: Iterable[Chosen]) -> list[tuple[str, str]]:
    return [(each.row.document_id, each.why) for each in chosen]


def test_each_label_has_its_threshold_and_the_others_the_default() -> None:
    rows = [
        row("a", "positive", 0.75),
        row("b", "negative", 0.75),
        row("c", "positive", 0.8),
        row("d", "negative", 0.69),
    ]
    assert ids(choose(rows, review(thresholds={"positive": 0.8}, default=0.7))) == [
        ("a", "threshold"),
        ("d", "threshold"),
    ]
    assert ids(choose(rows, review(thresholds={"positive": 0.8}))) == [("a", "threshold")]


def test_a_small_lead_and_a_high_entropy_send_what_no_threshold_does() -> None:
    rows = [row("a", score=0.55), row("b", score=0.7), row("c", score=0.99)]
    assert ids(choose(rows, review(margin=0.2))) == [("a", "margin")]
    assert ids(choose(rows, review(entropy=0.5))) == [("a", "entropy"), ("b", "entropy")]
    assert ids(choose(rows, review(default=0.6, margin=0.5, entropy=0.01))) == [
        ("a", "threshold"), ("b", "margin"), ("c", "entropy"),
    ]  # fmt: skip


def test_entropy_is_a_share_of_the_greatest_and_counts_what_the_best_labels_leave() -> None:
    assert entropy_of({"scores": {"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}}) == pytest.approx(1.0)
    assert entropy_of({"scores": {"a": 1.0, "b": 0.0}}) == 0.0
    cut = -(0.5 * log(0.5) + 0.3 * log(0.3) + 0.2 * log(0.2)) / log(3)
    assert entropy_of({"scores": {"a": 0.5, "b": 0.3}}) == pytest.approx(cut)
    assert entropy_of({"scores": {"a": 0.9, "b": 0.8}, "labels": ["a", "b"]}) is None
    assert entropy_of({"scores": {"a": 1.0}}) is None
    assert margin_of({"scores": {"a": 0.2, "b": 0.7, "c": 0.1}}) == pytest.approx(0.5)
    assert margin_of({"scores": {"a": 1.0}}) is None


def test_a_failed_document_is_never_sent_and_one_without_a_score_only_by_chance() -> None:
    failed = replace(row("a"), status="failed", output=None, score=None, label=None)
    summary = replace(row("b"), output={"summary": "s"}, score=None, label=None)
    assert ids(choose([failed, summary], review(default=1.0, margin=1.0, audit=1.0))) == [("b", "audit")]


@pytest.mark.parametrize("labels", range(2, 40))
def test_the_greatest_entropy_is_one_whatever_rounding_does_and_nothing_is_above_it(labels: int) -> None:
    output = {"label": "0", "score": 1 / labels, "scores": {str(label): 1 / labels for label in range(labels)}}
    assert entropy_of(output) == pytest.approx(1.0)
    assert ids(choose([row(output=output)], review(entropy=1.0))) == []


@given(st.lists(st.floats(0, 1), max_size=60), st.floats(0, 1), st.floats(0, 1))
def test_the_same_rows_of_the_same_run_give_the_same_whatever_stands_beside_them(
    scores: list[float], default: float, audit: float
) -> None:
    rules = review(default=default, audit=audit)
    rows = [row(f"d{number}", score=score) for number, score in enumerate(scores)]
    together = ids(choose(rows, rules))
    assert together == ids(choose(iter(rows), rules))
    assert together == [each for one in rows for each in ids(choose([one], rules))]


def test_the_audit_sample_is_of_those_that_no_rule_sends_and_of_the_size_that_was_asked() -> None:
    rows = [row(f"d{number}", score=0.5 if number % 10 == 0 else 0.9) for number in range(20_000)]
    chosen = list(choose(rows, review(default=0.7, audit=0.05)))
    audited = [each for each in chosen if each.why == "audit"]
    assert len(chosen) - len(audited) == 2_000
    assert all(each.row.score == 0.9 for each in audited)
    # 18,000 draws of 0.05: 900 expected, 29 the standard deviation
    assert abs(len(audited) - 900) < 5 * 29


def test_the_draw_is_uniform_and_another_in_each_run() -> None:
    draws = [drawn("run_1", f"document {number}") for number in range(5_000)]
    assert kstest(draws, "uniform").pvalue > 0.001
    other = [drawn("run_2", f"document {number}") for number in range(5_000)]
    both = Counter((int(a * 4), int(b * 4)) for a, b in zip(draws, other, strict=True))
    assert chisquare([both[a, b] for a in range(4) for b in range(4)]).pvalue > 0.001


@pytest.mark.parametrize("sort", [lambda n: n, lambda n: -n, str])
def test_neither_order_nor_label_nor_score_favours_a_document_in_the_audit(sort: Any) -> None:
    numbers = sorted(range(8_000), key=sort)
    rows = [row(f"d{n}", "positive" if n % 4 else "negative", 0.8 + 0.02 * (n % 10)) for n in numbers]
    for most in (None, 300):
        rules = review(audit=0.1, **({"most": most} if most else {}))
        picked = [each.row for each in choose(rows, rules)]
        assert len(picked) == (most or len(picked))
        by_label = Counter(each.label for each in picked)
        expected = [len(picked) * 0.25, len(picked) * 0.75]
        assert chisquare([by_label["negative"], by_label["positive"]], expected).pvalue > 0.001
        by_score = Counter(each.score for each in picked)
        assert chisquare(list(by_score.values())).pvalue > 0.001
    assert {each.document_id for each in picked} == {
        each.row.document_id for each in choose(reversed(rows), review(audit=0.1, most=300))
    }


def test_a_bound_keeps_the_audit_and_then_the_most_doubtful_in_the_order_of_the_rows() -> None:
    rows = [row(f"d{number}", score=0.5 + number / 1_000) for number in range(100)]
    assert ids(choose(rows, review(default=0.6, most=3))) == [(f"d{n}", "threshold") for n in (0, 1, 2)]
    mixed = [*rows, *(row(f"sure{number}", score=0.99) for number in range(100))]
    chosen = ids(choose(mixed, review(default=0.6, audit=0.05, most=12)))
    audited = [id for id, why in chosen if why == "audit"]
    assert audited == [id for id, why in ids(choose(mixed, review(default=0.6, audit=0.05))) if why == "audit"]
    assert [id for id, why in chosen if why == "threshold"] == [f"d{n}" for n in range(12 - len(audited))]


@given(st.lists(st.floats(0, 1), max_size=40), st.integers(1, 50))
def test_a_bound_is_never_exceeded_nor_left_unused(scores: list[float], most: int) -> None:
    rows = [row(f"d{number}", score=score) for number, score in enumerate(scores)]
    unbounded = list(choose(rows, review(default=0.5, audit=0.3)))
    bounded = list(choose(rows, review(default=0.5, audit=0.3, most=most)))
    assert len(bounded) == min(most, len(unbounded))
    assert [each for each in unbounded if each in bounded] == bounded
