"""Texts as arrays of token ids, and the special tokens that a tokenizer puts around one text or two.

Knows tokenizers, fast and slow. Must not know models or tasks. A tokenizer is not changed after it is loaded, so that
one thread may encode while another runs the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from corpusmill.errors import ModelFault

Ids = npt.NDArray[np.int32]

#: Characters of one string that go to the tokenizer at once; a longer one is cut at white space first, since the time
#: and memory of tokenizing grow with the longest string, and one thread does each.
PIECE = 100_000
#: Characters encoded at once: an encoding holds some hundred bytes for each of its tokens until its ids are taken.
_GROUP = 1_000_000
_SPACE = re.compile(r"\s(?=\S)")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Texts without special tokens: the ids of all of them one after another, and where each begins and ends.

    `flat` is (total,), `offsets` is (texts + 1,).
    """

    flat: Ids
    offsets: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self.offsets)


@dataclass(frozen=True, slots=True)
class Frame:
    """Special tokens around a text, or around and between two: ids and token types before, between and after."""

    ids: tuple[Ids, ...]
    types: tuple[Ids, ...]
    text_types: tuple[int, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.ids)


class TextEncoder:
    """Encodes texts without special tokens, and knows the frames that the tokenizer would put around them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self.has_types = "token_type_ids" in tokenizer.model_input_names
        self.single = self._frame("one two", None)
        self._pair: Frame | None = None

    @property
    def pair(self) -> Frame:
        """The frame around and between two texts. Raises ModelFault where the tokenizer joins them in another way."""
        if self._pair is None:
            self._pair = self._frame("one two", "three four")
        return self._pair

    def encode(self, texts: Sequence[str]) -> Tokens:
        """The ids of each text in order. Strings of more than 100,000 characters are encoded piece by piece."""
        if all(len(text) <= PIECE for text in texts):
            return self._encode(texts)
        pieces = [_pieces(text) for text in texts]
        whole = self._encode(list(chain.from_iterable(pieces)))
        last = np.cumsum([0, *(len(parts) for parts in pieces)])
        return Tokens(whole.flat, whole.offsets[last])

    def _encode(self, texts: Sequence[str]) -> Tokens:
        parts, lengths = [], [0]
        for group in _groups(texts):
            ids = self._ids(group)
            counts = [len(one) for one in ids]
            lengths += counts
            parts.append(np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=sum(counts)))
        flat = np.concatenate(parts) if parts else np.empty(0, np.int32)
        return Tokens(flat, np.cumsum(lengths, dtype=np.int64))

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if self._backend is not None:
            encoded = self._backend.encode_batch_fast(texts, add_special_tokens=False)
            return [one.ids for one in encoded]
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _frame(self, first: str, second: str | None) -> Frame:
        """Read off what the tokenizer makes of a known text, or two."""
        framed = self._tokenizer(first, second) if second else self._tokenizer(first)
        ids = np.array(framed["input_ids"], dtype=np.int32)
        types = np.array(framed.get("token_type_ids", np.zeros_like(ids)), dtype=np.int32)
        id_parts, type_parts, text_types, end = [], [], [], 0
        for text in (first, second) if second else (first,):
            body = self._ids([text])[0]
            start = _find(body, ids, end)
            if start is None:
                raise ModelFault(
                    f"The tokenizer {type(self._tokenizer).__name__} does not put its special tokens around a text"
                    f"{' and between two' if second else ''}, so that long texts cannot be cut for it."
                )
            id_parts.append(ids[end:start])
            type_parts.append(types[end:start])
            text_types.append(int(types[start]))
            end = start + len(body)
        return Frame((*id_parts, ids[end:]), (*type_parts, types[end:]), tuple(text_types))


def _find(body: list[int], ids: Ids, start: int) -> int | None:
    """Where `body` stands in `ids`, at `start` or after."""
    width = len(body)
    places = (at for at in range(start, len(ids) - width + 1) if ids[at : at + width].tolist() == body)
    return next(places, None)


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    group: list[str] = []
    characters = 0
    for text in texts:
        if group and characters + len(text) > _GROUP:
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    if group:
        yield group


def _pieces(text: str) -> list[str]:
    """A string cut into pieces of at most `PIECE` characters, each but the first beginning with the white space before
    its first word, as words inside a text do; a word longer than a piece is cut where the piece ends."""
    pieces, start = [], 0
    while len(text) - start > PIECE:
        window = text[start + PIECE // 2 : start + PIECE]
        spaces = [match.start() for match in _SPACE.finditer(window)]
        end = start + (PIECE // 2 + spaces[-1] if spaces else PIECE)
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]
