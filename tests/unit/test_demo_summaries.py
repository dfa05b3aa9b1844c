"""The comparison with LEAD-3 compares what it says."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the comparison needs the extra `worker`")

from corpusmill.documents import Document
from demo.compare_summaries import compared, lead, rouge, words
from evaluation.rouge import TYPES


def test_lead_takes_the_first_three_sentences_a_line_each() -> None:
    document = Document(position=0, id="a", text="One is here. Two follows it.\n\nThree is next. Four is left out.")
    assert lead(document) == "One is here.\nTwo follows it.\nThree is next."


def test_rouge_of_a_reference_with_itself_is_100_by_every_type() -> None:
    text = "The model is small.\nIt works well."
    assert rouge([text], [text]) == pytest.approx(np.full((1, len(TYPES)), 100.0))


def test_the_difference_is_paired_so_that_a_constant_gain_has_no_spread() -> None:
    theirs = np.random.default_rng(1).uniform(0, 50, size=(40, len(TYPES)))
    for row in compared(theirs + 2.0, theirs).values():
        assert row["difference"] == row["ci_low"] == row["ci_high"] == pytest.approx(2.0)
        assert row["extractive"] - row["lead"] == pytest.approx(2.0, abs=1e-3)


def test_the_interval_of_the_difference_is_that_of_a_mean() -> None:
    gains = np.random.default_rng(2).normal(1.0, 5.0, size=(400, len(TYPES)))
    row = compared(gains, np.zeros_like(gains))["rouge1"]
    half = 1.96 * gains[:, 0].std() / 400**0.5
    assert row["ci_low"] == pytest.approx(gains[:, 0].mean() - half, abs=0.1)
    assert row["ci_high"] == pytest.approx(gains[:, 0].mean() + half, abs=0.1)


def test_words_are_the_mean_over_texts() -> None:
    assert words(["one two", "one two three four"]) == 3.0
