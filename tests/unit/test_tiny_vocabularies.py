"""The tests' tiny tokenizers have the same vocabularies in every process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.tiny_vocabularies import (
    GOES_ON,
    byte_pair_vocabulary,
    byte_pairs,
    unigram_vocabulary,
    wordpiece_vocabulary,
)

WORDS = ["the", "cat", "and", "the", "hat", "that", "the", "bat", "has", "had", "and", "the", "cats", "hate", "hats"]
MADE = """
import json
from tests import tiny_vocabularies as made
from tests.unit.test_tiny_vocabularies import WORDS
print(json.dumps([
    made.byte_pair_vocabulary(WORDS, 40, ["<s>"], set("xyz")), made.wordpiece_vocabulary(WORDS, 40, ["[UNK]"]),
    made.unigram_vocabulary(WORDS, 40, ["<unk>"]),
]))
"""


def test_vocabularies_do_not_depend_on_the_order_of_hashes() -> None:
    made = {
        subprocess.run(
            [sys.executable, "-c", MADE], capture_output=True, check=True, text=True, cwd=Path(__file__).parents[2],
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(made) == 1
    bpe, wordpiece, unigram = json.loads(made.pop())
    assert bpe == json.loads(json.dumps(byte_pair_vocabulary(WORDS, 40, ["<s>"], "zyx")))
    assert len(bpe[0]) <= 40
    assert len(wordpiece) <= 40
    assert len(unigram) <= 40
    assert unigram == json.loads(json.dumps(unigram_vocabulary(WORDS, 40, ["<unk>"])))


def test_the_most_frequent_pair_is_merged_first_and_ties_go_to_the_first_in_order() -> None:
    assert byte_pairs(["abab", "cd", "cd", "ab", "xy", "xy"], 4) == [("a", "b"), ("c", "d"), ("x", "y"), ("ab", "ab")]
    assert byte_pairs(["aaa"], 5) == [("a", "a"), ("aa", "a")]


def test_ids_follow_one_another_and_special_pieces_come_first() -> None:
    vocabulary, merges = byte_pair_vocabulary(WORDS, 30, ["<s>", "</s>"])
    assert list(vocabulary.values()) == list(range(len(vocabulary)))
    assert list(vocabulary)[:2] == ["<s>", "</s>"]
    assert all(left + right in vocabulary for left, right in merges)


def test_wordpieces_say_whether_they_begin_a_word() -> None:
    vocabulary = wordpiece_vocabulary(["hat", "hat", "that"], 20, ["[UNK]"])
    assert {"h", "t", GOES_ON + "h", GOES_ON + "at", "hat"} <= vocabulary.keys()
    assert not any(GOES_ON in piece.removeprefix(GOES_ON) for piece in vocabulary)


def test_unigram_pieces_hold_every_character_and_shares_of_one() -> None:
    pieces = dict(unigram_vocabulary(WORDS, 25, ["<unk>"]))
    assert set("".join(WORDS)) <= pieces.keys()
    assert pieces["<unk>"] == 0
    assert all(score < 0 for piece, score in pieces.items() if piece != "<unk>")
