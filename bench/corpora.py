"""The texts that are measured on, the same in every run: real ones where they are on this machine, else drawn.

Knows files and random draws, each with its seed. Must not know models; lengths in tokens are the caller's to count.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

#: Data that may stand beside a checkout; nothing here needs it.
SHARED = Path(__file__).parents[1].parent / "shared" / "data"
MAILS = SHARED / "spam_assassin" / "emails.jsonl.gz"
SENTENCES = SHARED / "tatoeba_pairs" / "fra.txt.gz"

#: Shape of the drawn lengths: of documents cut from manuals, median 59 and 90th percentile 194 WordPiece tokens.
MEDIAN_WORDS, SIGMA = 45, 0.93
_SHORTEST_PARAGRAPH = 20
#: Characters of a paragraph or mail that are kept; a model of 512 tokens reads fewer.
_LONGEST = 6_000


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts with a name and a sentence on where they come from."""

    name: str
    origin: str
    texts: tuple[str, ...]


def paragraphs(count: int, seed: int = 0) -> Texts:
    """Paragraphs of mails, whose lengths have a long tail by themselves; else drawn words with lognormal lengths."""
    if not MAILS.exists():
        return drawn(count, seed)
    parts = [
        part.strip()[:_LONGEST]
        for mail in _mails()
        for part in re.split(r"\n\s*\n", mail)
        if len(part.strip()) > _SHORTEST_PARAGRAPH
    ]
    if count > len(parts):
        return drawn(count, seed)
    return Texts("paragraphs", "paragraphs of the SpamAssassin mails", tuple(random.Random(seed).sample(parts, count)))


def mails(count: int, seed: int = 0) -> Texts | None:
    """Whole mails, most of them long; None where there are none here."""
    if not MAILS.exists():
        return None
    texts = random.Random(seed).sample([mail[:_LONGEST] for mail in _mails()], count)
    return Texts("whole mails", "whole SpamAssassin mails, subject and body", tuple(texts))


@cache
def _mails() -> list[str]:
    with gzip.open(MAILS, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [f"{row['subject'] or ''}\n\n{row['body'] or ''}" for row in rows]


def drawn(count: int, seed: int = 0) -> Texts:
    """Drawn words, the number of each text's lognormal."""
    draw = np.random.default_rng(seed)
    lengths = lognormal(count, MEDIAN_WORDS, SIGMA, 3, 600, seed)
    vocabulary = words()
    # Zipf's law, so that a vocabulary meets frequent words more often than rare ones
    texts = (
        " ".join(vocabulary[min(int(rank), len(vocabulary)) - 1] for rank in draw.zipf(1.3, size)) for size in lengths
    )
    return Texts("drawn", "drawn words, lognormal lengths", tuple(texts))


def uniform(count: int, tokens: int, known: Sequence[str], seed: int = 0) -> Texts:
    """Texts of so many words each, of words that are one token each (`known`)."""
    draw = random.Random(seed)
    texts = (" ".join(draw.choices(known, k=tokens)) for _ in range(count))
    return Texts("uniform", f"drawn words, {tokens} in each text", tuple(texts))


def joined_sentences(count: int, median: float, sigma: float, low: int, high: int, seed: int = 0) -> Texts:
    """Sentences joined to texts of lognormal lengths in words; Tatoeba's English sentences where they are here."""
    lengths = lognormal(count, median, sigma, low, high, seed)
    sentences, origin = _sentences()
    draw = random.Random(seed)
    texts = []
    for length in lengths:
        taken: list[str] = []
        while len(taken) < length:
            taken += draw.choice(sentences).split()
        texts.append(" ".join(taken[:length]))
    return Texts("joined sentences", f"{origin}, joined to lognormal lengths", tuple(texts))


def lognormal(count: int, median: float, sigma: float, low: int, high: int, seed: int) -> list[int]:
    """Whole numbers drawn from a lognormal distribution and clipped to `low` … `high`."""
    drawn_ = np.random.default_rng(seed + 1).lognormal(np.log(median), sigma, count)
    return [int(value) for value in drawn_.clip(low, high)]


@cache
def _sentences() -> tuple[list[str], str]:
    if SENTENCES.exists():
        with gzip.open(SENTENCES, "rt", encoding="utf-8") as lines:
            return [line.split("\t")[0] for line in lines], "English sentences of Tatoeba"
    vocabulary, draw = words(), random.Random(0)
    return [" ".join(draw.choices(vocabulary, k=draw.randint(3, 12))) for _ in range(20_000)], "drawn sentences"


@cache
def source_words() -> tuple[str, ...]:
    """Every word of the sentences, the most frequent first."""
    counts: dict[str, int] = {}
    for sentence in _sentences()[0]:
        for word in sentence.split():
            counts[word] = counts.get(word, 0) + 1
    return tuple(sorted(counts, key=lambda word: (-counts[word], word)))


@cache
def words(count: int = 8_000) -> tuple[str, ...]:
    """Made-up words of two to four syllables, all different."""
    draw = random.Random(1)
    found: dict[str, None] = {}
    while len(found) < count:
        syllables = (draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(draw.randint(2, 4)))
        found["".join(syllables)] = None
    return tuple(found)


def plain_words() -> list[str]:
    """Words that a vocabulary may hold whole: English ones of the sentences in lower case, and the made-up ones."""
    return list(
        dict.fromkeys([*(word for word in source_words()[:3_000] if word.isalpha() and word.islower()), *words()])
    )
