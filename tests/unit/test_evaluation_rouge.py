"""ROUGE: rouge-score's figures for what rouge-score can read, and sensible ones for what it cannot."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from rouge_score.rouge_scorer import RougeScorer

from evaluation import lcs, rouge

SHARED = Path(__file__).parents[2].parent / "shared"
FIXTURE = SHARED / "data" / "xsum_hallucination" / "rouge_fixture.jsonl.gz"

tokens = st.lists(st.sampled_from("abcde"), max_size=12)
#: ASCII, accented Latin, typographic and mathematical characters: everything that has no script but the Latin one.
latin = st.text(
    st.one_of(
        st.characters(min_codepoint=32, max_codepoint=126),
        st.sampled_from("\n\n    éßÅñİſﬁªµ²½①€’“—…×√\u0301\u200b\u00a0\u2028\t\r\x0b\x1fK😀"),
    ),
    max_size=60,
)


def scored(references: list[str], output: str) -> dict[str, float]:
    counts = rouge.statistics(references, output)
    assert counts is not None
    measures = [rouge.f_measure(counts[start : start + 3]) for start in range(0, 12, 3)]
    return dict(zip(rouge.TYPES, measures, strict=True))


@given(references=st.lists(latin, min_size=1, max_size=3), output=latin)
@settings(max_examples=150, deadline=None)
def test_text_without_other_scripts_has_the_figures_of_rouge_score(references: list[str], output: str) -> None:
    theirs = RougeScorer(list(rouge.TYPES), use_stemmer=True).score_multi(references, output)
    for name, value in scored(references, output).items():
        assert value == pytest.approx(theirs[name].fmeasure, abs=1e-12)


@given(rows=tokens, columns=tokens)
def test_the_longest_common_subsequence_is_that_of_rouge_score(rows: list[str], columns: list[str]) -> None:
    table = rouge_scorer._lcs_table(rows, columns)
    assert lcs.lcs_length(rows, columns) == table[-1][-1]
    assert lcs._lcs_rows(rows, columns)[::-1] == rouge_scorer._backtrack_norec(table, rows, columns)


@given(reference=st.lists(tokens, max_size=5), output=st.lists(tokens, max_size=5))
def test_summary_level_hits_are_those_of_rouge_score(reference: list[list[str]], output: list[list[str]]) -> None:
    theirs = rouge_scorer._summary_level_lcs(reference, output)
    size = sum(map(len, reference))
    assert lcs.summary_hits(reference, output) == round(theirs.recall * size)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Привет, мир!", ["привет", "мир"]),
        ("中国人民 2024年", ["中", "国", "人", "民", "2024", "年"]),
        ("ラーメンを食べる", list("ラーメンを食べる")),
        ("한국어 문장", list("한국어문장")),
        ("हिन्दी में लिखा", ["हिन्दी", "में", "लिखा"]),
        ("العربيّة ١٢٣", ["العربيّة", "١٢٣"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("Η Αθήνα", ["η", "αθήνα"]),
        ("ＮＨＫ放送", list("ｎｈｋ放送")),
        ("пользуюсь running GPUs", ["пользуюсь", "run", "gpu"]),
    ],
)
def test_other_scripts_are_words_or_characters(text: str, expected: list[str]) -> None:
    assert rouge.other_tokens(text) == expected


@pytest.mark.parametrize(
    "text", ["Привет мир", "你好世界", "안녕하세요 세계", "مرحبا بالعالم", "สวัสดีชาวโลก", "हैलो दुनिया"]
)
def test_a_perfect_summary_in_another_script_scores_one(text: str) -> None:
    assert set(scored([text], text).values()) == {1.0}
    assert set(scored([text], "something else").values()) == {0.0}


def test_a_symbol_of_another_script_does_not_change_the_figures_of_an_english_text() -> None:
    reference, output = "α-synuclein binds 中 membranes", "the α protein binds membranes"
    theirs = RougeScorer(["rouge1"], use_stemmer=True).score(reference, output)["rouge1"].fmeasure
    assert scored([reference], output)["rouge1"] == pytest.approx(theirs, abs=1e-12)


def test_each_type_takes_the_reference_that_suits_it_best() -> None:
    references = ["b a d c", "a b x y z"]
    found = scored(references, "a b c d")
    assert found["rouge1"] == scored(references[:1], "a b c d")["rouge1"] == 1.0
    assert found["rouge2"] == scored(references[1:], "a b c d")["rouge2"] > 0.0


def test_texts_beyond_the_bounds_have_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rouge, "MOST_TOKENS", 5)
    assert rouge.statistics(["a b c d e"], "a b c d e") is not None
    assert rouge.statistics(["a b c d e f"], "a") is None
    assert rouge.statistics(["a"], "a b c d e f") is None
    monkeypatch.setattr(rouge, "MOST_SENTENCE_WORK", 8)
    assert rouge.statistics(["a\nb\nc"], "a\nb\nc") is None
    monkeypatch.setattr(rouge, "MOST_CHARACTERS", 2)
    assert rouge.statistics(["a"], "  a") is None


def test_figures_published_with_the_xsum_annotations_are_reproduced() -> None:
    if not FIXTURE.exists():
        pytest.skip("shared/data/xsum_hallucination is not beside the checkout")
    with gzip.open(FIXTURE, "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["rouge_score_reproduces"]]
    assert len(rows) > 1_500
    for row in rows[::3]:
        found = scored([row["reference"]], row["summary"])
        for ours, theirs in (("rouge1", "R1"), ("rouge2", "R2"), ("rougeL", "RL")):
            assert found[ours] == pytest.approx(row[theirs], abs=1.01e-4)
