"""Segments restore their text, fit their limit and keep their order, whatever the text and the way of counting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.segments import MOST_CHARACTERS, Cut, Segment, sentences, split_segments

Count = Callable[[Sequence[str]], list[int]]


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def characters(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


def pieces(texts: Sequence[str]) -> list[int]:
    """Like a subword tokenizer: a word counts once for each four characters begun."""
    return [sum(-(-len(word) // 4) for word in text.split()) for text in texts]


def more_than_its_parts(texts: Sequence[str]) -> list[int]:
    """A text counts more than its sentences do, as some joins of subwords do."""
    return [len(text) + text.count(" ") ** 2 // 50 for text in texts]


COUNTS = [words, characters, pieces, more_than_its_parts]
#: Texts of sentences, paragraphs and oddities.
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(
            ["Dr. Smith came at 3 p.m. yesterday. ", "Yes! ", "Is it? ", "\n", "\n\n", "\r\n", "   ", "\t", "\u2028",
             "これは文です。", "漢字、仮名、", "a" * 70, "\u200b" * 20, "e\u0301", "(see e.g. fig. 2)", "“Quoted.” ",
             "1. One\n", "… ", "a line that is wrapped in the middle of it\nand goes on. ", "\x00", "\x1c", "😀 "]
        ),
        st.text(max_size=12),
    ),
    max_size=30,
).map("".join)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    text=TEXTS,
    limit=st.integers(1, 60),
    count=st.sampled_from(COUNTS),
    across=st.booleans(),
    alone=st.booleans(),
)
def test_segments_restore_the_text_and_fit_the_limit(
    text: str, limit: int, count: Count, *, across: bool, alone: bool
) -> None:
    cut = split_segments(text, limit, count, across_paragraphs=across, by_sentence=alone)

    assert cut.source == text
    for segment, counted in zip(cut.segments, count([segment.text for segment in cut.segments]), strict=True):
        assert counted <= limit or len(segment.text) == 1
        assert segment.text == segment.text.strip() != ""
        assert segment.after.strip() == ""
        assert across or "\n\n" not in segment.text


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_sentences_restore_the_text(text: str) -> None:
    cut = sentences(text)

    assert cut.source == text
    assert all(segment.text for segment in cut.segments)


@settings(max_examples=50, deadline=None)
@given(text=TEXTS, limit=st.integers(1, 60))
def test_outputs_that_equal_their_segments_put_the_paragraphs_together_again(text: str, limit: int) -> None:
    cut = split_segments(text, limit, characters)

    joined = cut.joined([segment.text for segment in cut.segments])

    breaks = [segment.after for segment in cut.segments[:-1] if segment.ends_paragraph]
    place = 0
    for line_break in breaks:
        place = joined.index(line_break, place) + len(line_break)


def test_a_text_that_fits_is_one_segment_for_each_paragraph() -> None:
    cut = split_segments("  One two. Three.\n\nFour five.\n", 100, words)

    assert cut == Cut("  ", (Segment("One two. Three.", "\n\n"), Segment("Four five.", "\n")))
    assert cut.joined(["1", "2"]) == "1\n\n2"


def test_summaries_cross_paragraphs() -> None:
    cut = split_segments("One two. Three.\n\nFour five.\n", 100, words, across_paragraphs=True)

    assert [segment.text for segment in cut.segments] == ["One two. Three.\n\nFour five."]


def test_segments_of_a_paragraph_are_about_equally_long() -> None:
    text = " ".join(["One two three four five."] * 11)  # 55 words

    cut = split_segments(text, 50, words)

    assert [len(segment.text.split()) for segment in cut.segments] == [30, 25], "not 50 and 5"


def test_only_a_sentence_above_the_limit_is_cut_and_then_at_words() -> None:
    cut = split_segments("One two. A bb cc dd ee ff gg hh. Three.", 4, words)

    assert [segment.text for segment in cut.segments] == ["One two.", "A bb cc dd", "ee ff gg hh.", "Three."]


def test_a_word_above_the_limit_is_cut_at_characters() -> None:
    cut = split_segments("aaaaaaaaaa bb", 4, characters)

    assert [segment.text for segment in cut.segments] == ["aaa", "aa", "aaa", "aa", "bb"]
    assert cut.source == "aaaaaaaaaa bb"


def test_a_wrapped_line_is_no_paragraph_and_a_list_is() -> None:
    wrapped = "This sentence was wrapped by somebody's mail programme\nbefore it came to its end. Another one."
    assert [segment.text.count("\n") for segment in sentences(wrapped).segments] == [1, 0]
    assert len(sentences("apples\npears\nplums").segments) == 3


def test_space_between_sentences_is_that_of_the_output_script() -> None:
    out_of_chinese = split_segments("今天下雨。我們在家。", 5, characters, by_sentence=True, language="zh")
    into_chinese = split_segments("It rains. We stay.\nGood.", 5, words, by_sentence=True)

    assert out_of_chinese.joined(["It rains.", "We stay."]) == "It rains. We stay."
    assert into_chinese.joined(["今天下雨。", "我們在家。", "好。"]) == "今天下雨。我們在家。\n好。"
    assert into_chinese.joined(["", "Wir bleiben.", "Gut."]) == "Wir bleiben.\nGut."


def test_each_segment_has_its_output() -> None:
    with pytest.raises(ValueError, match="shorter"):
        split_segments("One. Two.", 1, words, by_sentence=True).joined(["Eins."])


@pytest.mark.parametrize(
    "unit",
    ["a", "\u200b", "ab ", "\n", "a\n", ". ", "漢，", '"(a. ', " ", "!?", "e\u0301", "\r\n\t", "1. "],
    ids=ascii,
)
def test_floods_take_time_in_proportion_to_their_length(unit: str) -> None:
    """Work is counted in characters given to `count`: at most so many times the text, however long it is."""
    counted = 0

    def count(texts: Sequence[str]) -> list[int]:
        nonlocal counted
        assert all(len(text) <= MOST_CHARACTERS for text in texts)
        counted += sum(map(len, texts))
        return pieces(texts)

    ratios = []
    for size in (10_000, 50_000):
        counted = 0
        text = (unit * size)[:size]
        cut = split_segments(text, 500, count)
        assert cut.source == text
        ratios.append(counted / size)
    assert max(ratios) <= 12
    assert ratios[1] <= ratios[0] * 1.5 + 0.5
