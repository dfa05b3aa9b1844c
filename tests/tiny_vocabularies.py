"""Vocabularies for tiny tokenizers, worked out from a few sentences: the same in every process and on every machine.

Knows words and counts only, and no library of tokenizers: the trainers of `tokenizers` break ties by the order of a hash
table that is seeded anew in each process, so what they make differs from run to run, and with it what a test sees.
Here ties go to what stands first in the order of the characters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

#: How a WordPiece vocabulary marks what goes on with a word.
GOES_ON = "##"
#: The longest piece of a unigram vocabulary, in characters.
LONGEST = 8


def byte_pairs(
    words: Iterable[Sequence[str]], merges: int, join: Callable[[str, str], str] = lambda left, right: left + right
) -> list[tuple[str, str]]:
    """At most so many merges, the most frequent pair of neighbours first, as byte-pair encoding finds them.

    `words` are sequences of symbols, repeated as often as they occur; `join` says what two symbols become.
    From R. Sennrich, B. Haddow, A. Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016.
    """
    counted = Counter(tuple(word) for word in words)
    found: list[tuple[str, str]] = []
    while len(found) < merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in counted.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        found.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, count in counted.items():
            merged[_merged(word, best, join)] += count
        counted = merged
    return found


def _merged(word: Sequence[str], pair: tuple[str, str], join: Callable[[str, str], str]) -> tuple[str, ...]:
    symbols: list[str] = []
    for symbol in word:
        if symbols and (symbols[-1], symbol) == pair:
            symbols[-1] = join(*pair)
        else:
            symbols.append(symbol)
    return tuple(symbols)


def byte_pair_vocabulary(
    words: Sequence[str], size: int, special: Sequence[str], alphabet: Iterable[str] = ()
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary of at most so many pieces and its merges: the special pieces, the characters, what is merged."""
    characters = sorted({character for word in words for character in word} | set(alphabet))
    first = [*special, *(character for character in characters if character not in special)]
    merges = byte_pairs(words, size - len(first))
    return _numbered([*first, *(left + right for left, right in merges)]), merges


def wordpiece_vocabulary(words: Sequence[str], size: int, special: Sequence[str]) -> dict[str, int]:
    """Vocabulary of at most so many pieces: the special ones, characters at the start of a word and within, what is
    merged of them."""
    split = [[word[0], *(GOES_ON + character for character in word[1:])] for word in words]
    characters = sorted({symbol for word in split for symbol in word})

    def join(left: str, right: str) -> str:
        return left + right.removeprefix(GOES_ON)

    merges = byte_pairs(split, size - len(special) - len(characters), join)
    return _numbered([*special, *characters, *(join(*pair) for pair in merges)])


def unigram_vocabulary(words: Sequence[str], size: int, special: Sequence[str]) -> list[tuple[str, float]]:
    """Pieces with the logarithm of their share: the special ones (0), every character, and of the longer pieces those
    that stand for the most text."""
    counts = Counter(
        word[start:stop]
        for word in words
        for start in range(len(word))
        for stop in range(start + 1, min(len(word), start + LONGEST) + 1)
    )
    characters = [piece for piece in counts if len(piece) == 1]
    longer = sorted(
        (piece for piece in counts if len(piece) > 1), key=lambda piece: (-counts[piece] * len(piece), piece)
    )
    chosen = sorted(
        characters + longer[: max(0, size - len(special) - len(characters))], key=lambda piece: (-counts[piece], piece)
    )
    total = sum(counts[piece] for piece in chosen)
    return [(piece, 0.0) for piece in special] + [(piece, math.log(counts[piece] / total)) for piece in chosen]


def _numbered(pieces: Iterable[str]) -> dict[str, int]:
    """Each piece once, with its number. Two merges may make one piece, as `a`+`bc` and `ab`+`c` do."""
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
