"""ROUGE of summaries: tokens, and the counts whose quotients are F-measures.

Knows rouge-score's definitions, which tests hold it to. Must not know documents or jobs.

rouge-score's tokenizer drops everything but a–z and 0–9, so that a Russian or Chinese summary scores 0 whatever it
says. A document whose references are mainly in other scripts is therefore tokenized by `other_tokens`. All other
documents, those with accented Latin letters or the odd Greek symbol among them, are tokenized by rouge-score itself, so
that their figures are those that anybody else computes.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain

import regex
from rouge_score.tokenize import tokenize

from evaluation.lcs import lcs_length, summary_hits

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

#: Longer texts have no ROUGE: a pair of this length costs 0.2 s, but the cost rises with the square.
MOST_TOKENS = 20_000
MOST_CHARACTERS = 20 * MOST_TOKENS
#: Tokens of either side × sentences of the other, added: a million takes about half a second in rougeLsum.
MOST_SENTENCE_WORK = 1_000_000

#: Written without spaces between words, or (Hangul) with particles joined to them: each character is a token, as BLEU's
#: tokenizers for these languages have it. With the full-width forms and the two length marks that have no script.
_CHARACTERS = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\u30fc\uff70\uff10-\uff19\uff41-\uff5a"
)
#: Letters and digits of the scripts that put spaces between words. Arabic-Indic digits have no script of their own.
_LETTERS = rf"[[\p{{L}}\p{{Nd}}--[\p{{Latin}}\p{{Common}}\p{{Inherited}}{_CHARACTERS}]]\u0660-\u0669]"
#: Vowel signs, joiners and the tatweel stay inside a word.
_OTHER = rf"[{_CHARACTERS}]\p{{M}}*|{_LETTERS}(?:{_LETTERS}|[\p{{M}}\u200c\u200d\u0640])*"
_ANY_OTHER = regex.compile(rf"[{_CHARACTERS}]|{_LETTERS}", regex.V1)
_TOKENS = regex.compile(rf"[a-z0-9]+|{_OTHER}", regex.V1)

Sentences = list[list[str]]


class _Stemmer:
    """NLTK's Porter stemmer, as rouge-score uses it, with a memory for words."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer  # takes a second or two, and only summaries need it

        self._stem = PorterStemmer().stem
        self._remembered = lru_cache(maxsize=1 << 16)(self._stem)

    def stem(self, word: str) -> str:
        stemmed: str = self._remembered(word) if len(word) <= 32 else self._stem(word)
        return stemmed


@lru_cache(maxsize=1)
def _stemmer() -> _Stemmer:
    return _Stemmer()


def statistics(references: Sequence[str], output: str) -> list[int] | None:
    """For each of TYPES: hits, and how many n-grams (for L and Lsum: tokens) the reference and the output have.

    Of several references, each type's is the one with the greatest F-measure, as `RougeScorer.score_multi` has it. None
    where a text is beyond the bounds above. The F-measure 2PR / (P + R) is 2·hits / (reference + output).
    """
    if max(map(len, (output, *references))) > MOST_CHARACTERS:
        return None
    tokens = other_tokens if mainly_other(references) else latin_tokens
    mine = _sentences(output, tokens)
    pairs = [(_sentences(reference, tokens), mine) for reference in references]
    if not all(_within_bounds(*pair) for pair in pairs):
        return None
    scored = [_counts(*pair) for pair in pairs]
    best = (max((counts[index] for counts in scored), key=f_measure) for index in range(len(TYPES)))
    return list(chain.from_iterable(best))


def f_measure(counts: Sequence[int]) -> float:
    """F of (hits, reference, output), 0 to 1."""
    hits, reference, output = counts
    return 2 * hits / (reference + output) if hits else 0.0


def latin_tokens(text: str) -> list[str]:
    """rouge-score's own tokens, stemmed."""
    tokens: list[str] = tokenize(text, _stemmer())
    return tokens


def other_tokens(text: str) -> list[str]:
    """Tokens of a text in any script: stemmed a–z and 0–9 as in `latin_tokens`, words, or characters."""
    found = _TOKENS.findall(unicodedata.normalize("NFC", text.lower()))
    return [_stemmer().stem(token) if token.isascii() and len(token) > 3 else token for token in found]


def mainly_other(references: Sequence[str]) -> bool:
    """Whether more of the references' words are in other scripts than in Latin letters."""
    if not any(_ANY_OTHER.search(text) for text in references if not text.isascii()):
        return False
    found = [token for text in references for token in _TOKENS.findall(text.lower())]
    other = sum(not token.isascii() for token in found)
    return bool(other > sum(token.isascii() and not token.isdigit() for token in found))


def _sentences(text: str, tokens: Callable[[str], list[str]]) -> Sentences:
    return [tokens(line) for line in text.split("\n") if line]


def _within_bounds(reference: Sentences, output: Sentences) -> bool:
    theirs, mine = sum(map(len, reference)), sum(map(len, output))
    return max(theirs, mine) <= MOST_TOKENS and theirs * len(output) + mine * len(reference) <= MOST_SENTENCE_WORK


def _counts(reference: Sentences, output: Sentences) -> list[tuple[int, int, int]]:
    theirs, mine = list(chain.from_iterable(reference)), list(chain.from_iterable(output))
    size = (len(theirs), len(mine))
    longest = lcs_length(theirs, mine)
    # With one sentence each the summary-level LCS is the plain one.
    hits = longest if len(reference) == len(output) == 1 else summary_hits(reference, output)
    return [_overlap(theirs, mine, 1), _overlap(theirs, mine, 2), (longest, *size), (hits, *size)]


def _overlap(theirs: list[str], mine: list[str], order: int) -> tuple[int, int, int]:
    left, right = (Counter(zip(*(tokens[start:] for start in range(order)), strict=False)) for tokens in (theirs, mine))
    hits = sum(min(count, right[ngram]) for ngram, count in left.items() if ngram in right)
    return hits, left.total(), right.total()
