"""The morning report: its measures against independent computations, its figures, its rules, and how it reads."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from scipy.stats import binomtest, chi2

from corpusmill.schedules import ReportDefinition, Rule
from evaluation.proportions import wilson
from pipeline.report import SCORE_BINS, Audit, Distribution, Facts, broken, faulty_rules, report_of
from pipeline.report_text import markdown, plain
from pipeline.shift import chance, js_distance, psi, shift_of

COUNTS = st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 5_000)), min_size=1, max_size=30)


def columns(cells: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    left, right = [a for a, _ in cells], [b for _, b in cells]
    assume(sum(left) and sum(right))
    return left, right


@given(COUNTS)
def test_the_distance_is_that_of_scipy(cells: list[tuple[int, int]]) -> None:
    now, before = columns(cells)
    assert js_distance(now, before) == pytest.approx(jensenshannon(now, before, base=2), rel=1e-6, abs=1e-7)


@given(COUNTS)
def test_the_index_is_the_sum_of_both_relative_entropies(cells: list[tuple[int, int]]) -> None:
    now, before = columns(cells)
    added = 0.5 if 0 in now or 0 in before else 0.0
    p, q = (np.array(each) + added for each in (now, before))
    p, q = p / p.sum(), q / q.sum()
    expected = float(rel_entr(p, q).sum() + rel_entr(q, p).sum())
    assert psi(now, before) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(COUNTS)
def test_both_measures_are_symmetric_finite_and_nothing_between_equals(cells: list[tuple[int, int]]) -> None:
    now, before = columns(cells)
    assert psi(now, before) == pytest.approx(psi(before, now))
    assert math.isfinite(psi(now, before))
    assert 0 <= js_distance(now, before) <= 1
    assert js_distance(now, before) == pytest.approx(js_distance(before, now))
    assert psi(now, now) == js_distance(now, now) == 0
    shift = shift_of(now, [10 * count for count in now])
    assert shift is not None
    assert shift.verdict == "stable"


def test_a_worked_example_of_the_index() -> None:
    # (0.6 - 0.5) ln(0.6/0.5) + (0.4 - 0.5) ln(0.4/0.5)
    assert psi([60, 40], [50, 50]) == pytest.approx(0.1 * math.log(1.2) - 0.1 * math.log(0.8))
    assert js_distance([1, 0], [0, 1]) == 1.0


def test_a_label_that_is_new_moves_the_index_by_a_finite_amount_that_grows_with_it() -> None:
    rare, common = psi([999, 1], [1000, 0]), psi([500, 500], [1000, 0])
    assert 0 < rare < 0.1 < common < math.inf


@pytest.mark.parametrize("cells", [2, 3, 5, 20, 100])
def test_what_chance_gives_is_the_percentile_of_chi_square(cells: int) -> None:
    expected = chi2.ppf(0.95, cells - 1) * (1 / 300 + 1 / 2_100)
    assert chance(300, 2_100, cells) == pytest.approx(expected, rel=0.03)


def test_few_documents_that_chance_could_have_dealt_are_no_shift() -> None:
    few, many = shift_of([6, 4], [500, 500]), shift_of([6_000, 2_500], [500_000, 500_000])
    assert few is not None
    assert many is not None
    assert (few.verdict, many.verdict) == ("stable", "moderate")
    major = shift_of([900, 100], [500, 500])
    assert major is not None
    assert major.verdict == "major"


def test_no_documents_on_one_side_are_nothing_to_compare() -> None:
    assert shift_of([], []) is None
    assert shift_of([1], [0]) is None


@given(st.integers(0, 400), st.integers(0, 400))
def test_the_interval_of_a_share_is_that_of_scipy(hits: int, misses: int) -> None:
    assume(hits + misses)
    expected = binomtest(hits, hits + misses).proportion_ci(method="wilson")
    assert wilson(hits, hits + misses) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_trials_have_no_interval_and_more_hits_than_trials_are_refused() -> None:
    assert wilson(0, 0) == (None, None)
    with pytest.raises(ValueError, match="3 hits of 2"):
        wilson(3, 2)


def night(number: int = 0, **more: Any) -> Facts:
    """A night of a hundred documents: 60 positive with scores of 0.9, 38 negative with scores of 0.6, two failed."""
    scores = [0] * SCORE_BINS
    scores[18], scores[12] = 60, 38
    values: dict[str, Any] = {
        "schedule": "reviews", "run": f"run_{number}", "fire_time": 1_700_000_000.0 + 86_400 * number,
        "started_at": 1_700_000_000.0, "finished_at": 1_700_000_050.0, "model_id": "demo/classifier",
        "model_revision": "abc",
        "counts": {"read": 1_000, "new": 80, "changed": 20, "unchanged": 890, "repeated": 6, "unusable": 4, "gone": 3,
                   "ran": 30, "reused": 70, "succeeded": 98, "failed": 2, "reviewed": 7},
        "failures": {"too_long": 2}, "seconds": {"read": 5.0, "label": 40.0},
        "distribution": Distribution(labels={"positive": 60, "negative": 38}, scores=scores),
    }  # fmt: skip
    return Facts(**values | more)


def test_a_report_adds_up() -> None:
    report = report_of(
        night(8, audit=Audit(answered=20, agreed=19)), [night(n) for n in range(7, 0, -1)], ReportDefinition()
    )
    figures = report.figures
    assert (figures["reused_share"], figures["failed_share"]) == (0.7, 0.02)
    assert figures["reviewed_share"] == 7 / 98
    assert figures["unusable_share"] == 4 / 1_004
    assert figures["documents_per_second"] == 2.0
    assert (figures["failures/too_long"], figures["seconds/label"]) == (2, 40.0)
    assert (figures["label_psi"], figures["label_js"], figures["confidence_psi"]) == (0, 0, 0)
    assert figures["confidence_mean"] == pytest.approx((60 * 0.925 + 38 * 0.625) / 98)
    assert figures["confidence_change"] == pytest.approx(0)
    assert figures["audit_accuracy"] == 0.95
    assert figures["audit_low"] < 0.95 < figures["audit_high"]
    assert report.body["compared"] == {"nights": 7, "documents": 7 * 98, "revisions": ["abc"]}
    assert sum(each["documents"] for each in report.body["labels"]) == 98
    json.dumps(report.body, allow_nan=False)


def test_the_counts_of_a_night_on_which_a_new_revision_labels_what_was_labelled_before_add_up() -> None:
    counts = {"read": 1_000, "new": 3, "changed": 2, "relabelled": 995, "unchanged": 0, "repeated": 0, "unusable": 0,
              "ran": 990, "reused": 10, "succeeded": 999, "failed": 1}  # fmt: skip
    report = report_of(night(counts=counts), [], ReportDefinition())
    shown = report.body["counts"]
    for said in (shown, report.figures):
        taken = said["new"] + said["changed"] + said["relabelled"]
        assert taken == said["ran"] + said["reused"] == said["succeeded"] + said["failed"] == 1_000
        assert said["read"] == taken + said["unchanged"] + said["repeated"] + said["unusable"]
    assert "| relabelled | 995 |" in markdown(report)
    rules = [Rule(figure="relabelled", above=900)]
    assert faulty_rules(rules) == []
    assert broken(report, rules) == ["relabelled is 995, above 900."]


def test_only_so_many_earlier_nights_count_and_none_without_labels() -> None:
    empty = night(5, distribution=Distribution())
    moved = night(4, distribution=Distribution(labels={"positive": 1, "negative": 97}))
    near = report_of(night(9), [night(8), night(7), empty, moved], ReportDefinition(nights=2))
    assert (near.body["compared"]["nights"], near.figures["label_psi"]) == (2, 0)
    far = report_of(night(9), [night(8), night(7), empty, moved], ReportDefinition(nights=3))
    assert far.body["compared"]["nights"] == 3
    assert far.figures["label_psi"] > 0.1


def test_a_first_night_has_nothing_to_be_compared_with() -> None:
    report = report_of(night(), [], ReportDefinition())
    assert not {"label_psi", "confidence_psi", "confidence_change", "audit_accuracy"} & set(report.figures)
    assert "nothing to be compared with yet" in markdown(report)


def test_a_night_on_which_nothing_was_new_has_a_report_too() -> None:
    quiet = night(counts={"read": 900, "unchanged": 900}, distribution=Distribution(), failures={}, seconds={})
    report = report_of(quiet, [night(1)], ReportDefinition())
    assert report.figures["read"] == 900
    assert not {"reused_share", "failed_share", "label_psi"} & set(report.figures)
    assert "900" in markdown(report)


def test_rules_name_figures_and_say_in_a_sentence_how_they_are_broken() -> None:
    report = report_of(night(), [], ReportDefinition())
    rules = [
        Rule(figure="failed_share", above=0.01), Rule(figure="failed_share", above=0.02),
        Rule(figure="succeeded", below=100), Rule(figure="label_psi", above=0.0), Rule(figure="seconds/label", above=30),
    ]  # fmt: skip
    assert broken(report, rules) == [
        "failed_share is 0.02, above 0.01.", "succeeded is 98, below 100.", "seconds/label is 40, above 30.",
    ]  # fmt: skip


def test_a_rule_about_what_is_no_figure_is_refused_with_the_nearest() -> None:
    rules = [
        Rule(figure="label_psi", above=0.2),
        Rule(figure="failures/timeout", above=0),
        Rule(figure="lable_psi", above=1),
    ]
    faults = faulty_rules(rules)
    assert [(fault.pointer, "Did you mean label_psi?" in fault.message) for fault in faults] == [
        ("/report/fail_if/2/figure", True)
    ]


def test_every_figure_that_a_night_can_have_may_be_named_in_a_rule() -> None:
    full = report_of(night(8, audit=Audit(answered=2, agreed=1)), [night(7)], ReportDefinition())
    assert faulty_rules([Rule(figure=name, above=1) for name in full.figures]) == []


def test_the_markdown_says_what_happened_and_lets_nobody_write_markup() -> None:
    labels = {"<script>alert(1)</script>": 5, "a|b\n# c": 3}
    report = report_of(
        night(9, distribution=Distribution(labels=labels), audit=Audit(answered=4, agreed=4)),
        [night(8)],
        ReportDefinition(),
    )
    text = markdown(report, ["failed_share is 0.02, above 0.01."])
    assert "Labels have moved much against the last night (98 documents)" in text
    assert "people agree on 100.0% (51.0% to 100.0%)" in text
    assert "- failed\\_share is 0.02, above 0.01." in text
    assert "<script>" not in text
    assert "\n# c" not in text
    assert "a\\|b \\# c" in text


def test_plain_text_is_one_line() -> None:
    assert plain("a\nb  *c*") == "a b \\*c\\*"
    assert plain(None) == "none"
