"""Texts as token ids, framed with the special tokens that a tokenizer puts around a source.

Knows tokenizers. Must not know models, tasks or documents.

A tokenizer is never changed here after `SourceEncoder` is made: shards are tokenized in one thread while another thread
decodes, and changing a tokenizer's padding, truncation or language from one is an error ("Already borrowed") or a wrong
result in the other. Padding and truncation are done on ids, and a language is chosen by its id in the frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: One source as the model gets it.
Ids = npt.NDArray[np.int32]

#: Characters tokenized at once: what the tokenizers library returns takes some hundred bytes a token while it is held.
_CHARACTERS_AT_ONCE = 500_000


@dataclass(frozen=True, slots=True)
class Frame:
    """The special tokens before and after a source."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def around(self, body: Sequence[int]) -> list[int]:
        """The body's tokens as the model gets them."""
        return [*self.before, *body, *self.after]

    def with_language(self, usual: int, chosen: int) -> Frame:
        """The frame with one language's token in another's place."""
        swapped = [tuple(chosen if token == usual else token for token in side) for side in (self.before, self.after)]
        return Frame(*swapped)


def padded(sources: Sequence[Ids], pad: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ids and mask (sources, longest source), each source from the left on."""
    width = max(map(len, sources))
    ids = np.full((len(sources), width), pad, dtype=np.int64)
    mask = np.zeros((len(sources), width), dtype=np.int64)
    for row, source in enumerate(sources):
        ids[row, : len(source)] = source
        mask[row, : len(source)] = 1
    return ids, mask


class SourceEncoder:
    """Token ids of texts without special tokens, by a tokenizer that is left as it is. Safe to use from any thread."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None) if tokenizer.is_fast else None
        if self._backend is not None:
            self._backend.no_padding()
            self._backend.no_truncation()
        self.frame = _frame_of(tokenizer)

    def encode(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Ids of each text in order."""
        for group in _grouped(texts):
            yield from self._encoded(group)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones."""
        return [len(ids) for ids in self.encode(texts)]

    def measured(self, texts: Sequence[str], room: int) -> Iterator[tuple[list[int], int]]:
        """For each text its first `room` ids and how many it has. A text above 500,000 characters is read in pieces."""
        short = self.encode([text for text in texts if len(text) <= _CHARACTERS_AT_ONCE])
        for text in texts:
            if len(text) <= _CHARACTERS_AT_ONCE:
                ids = next(short)
                yield ids[:room], len(ids)
            else:
                yield self._measured_in_pieces(text, room)

    def _measured_in_pieces(self, text: str, room: int) -> tuple[list[int], int]:
        first: list[int] = []
        count = 0
        for start in range(0, len(text), _CHARACTERS_AT_ONCE):
            for ids in self._encoded([text[start : start + _CHARACTERS_AT_ONCE]]):
                first += ids[: room - len(first)]
                count += len(ids)
        return first, count

    def _encoded(self, texts: list[str]) -> Iterator[list[int]]:
        if self._backend is not None:
            for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False):
                yield encoding.ids
        else:
            yield from self._tokenizer(
                texts, add_special_tokens=False, return_attention_mask=False, verbose=False
            )["input_ids"]  # fmt: skip


def _grouped(texts: Sequence[str]) -> Iterator[list[str]]:
    group: list[str] = []
    characters = 0
    for text in texts:
        if group and characters + len(text) > _CHARACTERS_AT_ONCE:
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    if group:
        yield group


def _frame_of(tokenizer: Any) -> Frame:
    """The frame, read off one short text with and without special tokens."""
    probe = "a"
    body = tokenizer(probe, add_special_tokens=False)["input_ids"]
    whole = tokenizer(probe)["input_ids"]
    for start in range(len(whole) - len(body) + 1):
        if whole[start : start + len(body)] == body:
            return Frame(tuple(whole[:start]), tuple(whole[start + len(body) :]))
    raise ValueError(f"{type(tokenizer).__name__} does not put its special tokens around the text")
