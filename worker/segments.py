"""How a long text is cut into segments, and how outputs are put back together with the text's own separators.

Knows paragraphs, sentences, words and a caller's way of counting tokens. Must not know tokenizers, models or tasks.

A text is cut at line breaks into paragraphs, paragraphs into sentences (the rules of `sentencex`), and segments are
runs of whole sentences. Only a sentence above the limit is cut, at words, and only a word above it at characters. Time
is linear in the text whatever it holds, as long as counting is: no more than `MOST_CHARACTERS` are counted at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

#: Tokens of each text, without special ones.
Count = Callable[[Sequence[str]], Sequence[int]]

#: No segment holds more characters, however few its tokens: zero-width characters may count as no token at all.
MOST_CHARACTERS = 200_000
#: No sentence holds more characters: longer ones are tables, lists or attacks, and some tokenizers slow down on them.
MOST_SENTENCE_CHARACTERS = 10_000
#: A line break after at least this many characters, in mid-sentence and before a lower-case letter, is a wrapped line.
_WRAPPED = 40

_WHITE_SPACE = re.compile(r"\s+")
_NEWLINE = re.compile(r"\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
_WORD = re.compile(r"(?:[^\s，、；：]+[，、；：]*|[，、；：]+)\s*")
_SENTENCE_END = frozenset(".!?…:;。！？؟।\"'”’»)]")
#: Scripts that put no space between sentences: Chinese and Japanese with their punctuation.
_UNSPACED = re.compile("[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff9f\U00020000-\U0003ffff]")


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a text: `text` begins and ends with no white space, `after` is the white space that follows it."""

    text: str
    after: str = ""

    @property
    def ends_paragraph(self) -> bool:
        """Whether a line break follows."""
        return _NEWLINE.search(self.after) is not None


@dataclass(frozen=True, slots=True)
class Cut:
    """A text as white space before it and segments in order."""

    lead: str
    segments: tuple[Segment, ...]

    @property
    def source(self) -> str:
        """The text that was cut, to the character."""
        return self.lead + "".join(segment.text + segment.after for segment in self.segments)

    def joined(self, outputs: Sequence[str]) -> str:
        """One output for each segment, put together with the separators that stood between the segments.

        Line breaks are kept as they are. Between sentences the output's script decides: a space is added where the
        source has none (out of Chinese), and left out between Chinese or Japanese sentences. White space around the
        whole is dropped. Raises ValueError where there is not one output for each segment.
        """
        parts: list[str] = []
        for index, (segment, output) in enumerate(zip(self.segments, outputs, strict=True)):
            following = outputs[index + 1] if index + 1 < len(outputs) else ""
            parts += [output, segment.after if segment.ends_paragraph else _between(segment.after, output, following)]
        return "".join(parts).strip()


def _between(separator: str, left: str, right: str) -> str:
    if not left or not right:
        return ""
    if _UNSPACED.match(left[-1]) and _UNSPACED.match(right[0]):
        return ""
    return separator or " "


def sentences(text: str, language: str = "en") -> Cut:
    """The sentences of a text; each ends its paragraph where a line break follows it.

    `language` is an ISO 639-1 code; an unknown one gets the general rules. A single line break that only wraps a line
    (after 40 characters or more, in mid-sentence, before a lower-case letter) does not end a sentence.
    """
    import sentencex  # loads its tables on import

    lead = text[: len(text) - len(text.lstrip())]
    units: list[Segment] = []
    for start, stop in _paragraphs(text, len(lead)):
        paragraph = text[start:stop]
        # A wrapped line's break must not look like the end of a sentence; a space of the same length keeps the offsets.
        pieces = sentencex.segment(language, _NEWLINE.sub(lambda found: " " * len(found[0]), paragraph))
        if sum(map(len, pieces)) != len(paragraph):
            pieces = [paragraph]
        units += _trimmed(paragraph, pieces)
    return Cut(lead, tuple(units))


def _paragraphs(text: str, start: int) -> Iterator[tuple[int, int]]:
    """Offsets of the paragraphs from `start` on, each with the white space that follows it."""
    line = start
    for gap in _WHITE_SPACE.finditer(text, start):
        breaks = _NEWLINE.findall(gap[0])
        if not breaks:
            continue
        before, after = text[gap.start() - 1], text[gap.end() : gap.end() + 1]
        long_line, line = gap.start() - line >= _WRAPPED, gap.end()
        if not (len(breaks) == 1 and long_line and before not in _SENTENCE_END and after.islower()):
            yield start, gap.end()
            start = gap.end()
    if start < len(text):
        yield start, len(text)


def _trimmed(paragraph: str, pieces: Sequence[str]) -> Iterator[Segment]:
    """Segments at the offsets that the pieces' lengths give, white space moved behind the segment before it."""
    start = offset = 0
    for piece in pieces:
        offset += len(piece)
        gap = _WHITE_SPACE.match(paragraph, offset)
        stop = gap.end() if gap else offset
        text = paragraph[start:stop].rstrip()
        if text:
            yield Segment(text, paragraph[start + len(text) : stop])
            start = stop


def split_segments(
    text: str,
    limit: int,
    count: Count,
    *,
    language: str = "en",
    across_paragraphs: bool = False,
    by_sentence: bool = False,
) -> Cut:
    """Cut a text into segments of at most `limit` tokens as `count` counts them, about equally long in each paragraph.

    A segment is a run of whole sentences of one paragraph; with `across_paragraphs` of the whole text; with
    `by_sentence` it is one sentence. A single character is never cut, even where it counts above the limit.
    """
    cut = sentences(text, language)
    paragraphs: list[list[Segment]] = [[]]
    for unit in cut.segments:
        paragraphs[-1] += _bounded(unit)
        if unit.ends_paragraph and not across_paragraphs:
            paragraphs.append([])
    units = [unit for paragraph in paragraphs for unit in paragraph]
    lengths = iter(count([unit.text for unit in units]))
    segments: list[Segment] = []
    for paragraph in paragraphs:
        own = [next(lengths) for _ in paragraph]
        segments += _fitted(paragraph, own, limit, count, _words, merge=not by_sentence)
    return Cut(cut.lead, tuple(segments))


def _bounded(unit: Segment) -> list[Segment]:
    """The unit, or where it has too many characters runs of its words, or pieces of a word."""
    if len(unit.text) <= MOST_SENTENCE_CHARACTERS:
        return [unit]
    words = _words(unit)
    runs = _runs(words, [len(word.text) + len(word.after) for word in words], MOST_SENTENCE_CHARACTERS)
    merged = [_merged([words[index] for index in run]) for run in runs]
    return [piece for part in merged for piece in _pieces(part, MOST_SENTENCE_CHARACTERS)]


Finer = Callable[[Segment], list[Segment]]


def _fitted(
    units: Sequence[Segment], lengths: Sequence[int], limit: int, count: Count, finer: Finer, *, merge: bool = True
) -> list[Segment]:
    """Runs of units within the limit; a unit above it is cut by `finer`, and its parts are fitted in turn."""
    fitted: list[Segment] = []
    for run in _runs(units, lengths, limit, merge):
        if len(run) == 1 and lengths[run[0]] > limit:
            parts = finer(units[run[0]])
            if len(parts) > 1:
                fitted += _fitted(parts, count([part.text for part in parts]), limit, count, _halves)
            else:
                fitted += parts if finer is _halves else _fitted(parts, [lengths[run[0]]], limit, count, _halves)
        else:
            fitted += _within([units[index] for index in run], limit, count)
    return fitted


def _runs(units: Sequence[Segment], lengths: Sequence[int], limit: int, merge: bool = True) -> Iterator[range]:
    """Ranges of units whose lengths add up to about the same, the limit at most; a unit above the limit is alone."""
    whole = sum(length for length in lengths if length <= limit)
    aim = max(1, -(-whole // max(1, -(-whole // limit)))) if merge else 0
    start = held = characters = 0
    for index, length in enumerate(lengths):
        full = held >= aim or held + length > limit or characters + len(units[index].text) > MOST_CHARACTERS
        if index > start and (full or length > limit):
            yield range(start, index)
            start, held, characters = index, 0, 0
        held += length
        characters += len(units[index].text) + len(units[index].after)
        if length > limit:
            yield range(start, index + 1)
            start, held, characters = index + 1, 0, 0
    if start < len(units):
        yield range(start, len(units))


def _within(units: list[Segment], limit: int, count: Count) -> list[Segment]:
    """The units as one segment; where their whole counts more than their sum and so above the limit, as two or more."""
    merged = _merged(units)
    if len(units) == 1 or count([merged.text])[0] <= limit:
        return [merged]
    middle = len(units) // 2
    return _within(units[:middle], limit, count) + _within(units[middle:], limit, count)


def _merged(units: Sequence[Segment]) -> Segment:
    inner = "".join(unit.text + unit.after for unit in units[:-1])
    return Segment(inner + units[-1].text, units[-1].after)


def _words(unit: Segment) -> list[Segment]:
    found = [match[0] for match in _WORD.finditer(unit.text)]
    words = [Segment(word.rstrip(), word[len(word.rstrip()) :]) for word in found]
    return [*words[:-1], Segment(words[-1].text, unit.after)]


def _halves(unit: Segment) -> list[Segment]:
    return _pieces(unit, max(1, -(-len(unit.text) // 2)))


def _pieces(unit: Segment, characters: int) -> list[Segment]:
    """The unit in pieces of so many characters, wherever that cuts it."""
    texts = [unit.text[start : start + characters] for start in range(0, len(unit.text), characters)]
    return [*(Segment(text) for text in texts[:-1]), Segment(texts[-1], unit.after)]
