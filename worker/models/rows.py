"""Segments of encoded texts, and how a batch of them becomes padded or packed arrays.

Knows token ids, frames of special tokens and a length limit. Must not know models, labels or documents beyond their
index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from worker.models.tokens import Frame, Ids, Tokens

Long = Literal["split", "truncate", "fail"]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Segments: row r is text `owner[r]`, of which it holds the ids `starts[k][r]` to `stops[k][r]` of `texts[k].flat`.

    `texts` are one collection of texts, or two of equal size for pairs; `starts`, `stops` are (texts, rows); `lengths`
    (rows,) counts tokens with the frame's. `n_tokens`, `n_segments`, `truncated` are (texts,), as a result reports
    them; a text that is too long for its mode has no row and n_segments 0.
    """

    texts: tuple[Tokens, ...]
    frame: Frame
    owner: Indices
    starts: Indices
    stops: Indices
    lengths: Indices
    n_tokens: Indices
    n_segments: Indices
    truncated: npt.NDArray[np.bool_]

    def padded(self, batch: Indices, *, pad: int, pad_type: int, left: bool) -> tuple[Indices, Indices, Indices]:
        """Ids, attention mask and token types of some rows, each (batch, longest), padded on the right or `left`."""
        lengths = self.lengths[batch]
        count, width = len(batch), int(lengths.max())
        ids = np.full(count * width, pad, dtype=np.int64)
        types = np.full(count * width, pad_type, dtype=np.int64)
        at = width - lengths if left else np.zeros(count, dtype=np.int64)
        columns = np.arange(width)
        mask = ((columns >= at[:, None]) & (columns < (at + lengths)[:, None])).astype(np.int64)
        self._write(batch, np.arange(count) * width + at, ids, types)
        return ids.reshape(count, width), mask, types.reshape(count, width)

    def packed(self, batch: Indices) -> tuple[Indices, Indices]:
        """Ids and token types of some rows end to end, each (tokens,)."""
        lengths = self.lengths[batch]
        total = int(lengths.sum())
        ids, types = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int64)
        self._write(batch, np.cumsum(lengths) - lengths, ids, types)
        return ids, types

    def _write(self, batch: Indices, at: Indices, ids: Indices, types: Indices) -> None:
        """Write each row's ids and types into flat arrays, from its place in `at` (batch,) on."""
        for part, special in enumerate(self.frame.ids):
            if len(special):
                place = at[:, None] + np.arange(len(special))
                ids[place] = special
                types[place] = self.frame.types[part]
                at = at + len(special)
            if part < len(self.texts):
                starts = self.starts[part][batch]
                sizes = self.stops[part][batch] - starts
                before = np.cumsum(sizes) - sizes
                token = np.arange(int(sizes.sum()))
                place = np.repeat(at - before, sizes) + token
                ids[place] = self.texts[part].flat[np.repeat(starts - before, sizes) + token]
                types[place] = self.frame.text_types[part]
                at = at + sizes


def plan_rows(texts: tuple[Tokens, ...], frame: Frame, limit: int | None, long: Long) -> Rows:
    """Cut texts, or pairs of texts, into rows of at most `limit` tokens with the frame's.

    `split` cuts the first text at token boundaries, without overlap, and repeats a second one whole beside each
    segment; where the second leaves the first less than an eighth of the room, the pair is too long. `truncate` keeps
    the beginning, of a pair shortening the longer text first as tokenizers do. `fail` makes every text above the limit
    too long.
    """
    sizes = np.stack([text.lengths for text in texts])
    total = sizes.sum(axis=0) + len(frame)
    above = np.flatnonzero(total > limit) if limit is not None else np.empty(0, np.int64)
    fitting = np.flatnonzero(total <= limit) if limit is not None else np.arange(len(total))
    cuts = [(text, cut) for text in above for cut in _cuts(sizes[:, text].tolist(), len(frame), limit or 0, long)]
    owner = np.concatenate([fitting, np.array([text for text, _ in cuts], dtype=np.int64)])
    begins = np.stack([text.offsets[:-1] for text in texts])[:, owner]
    starts, stops = begins.copy(), begins + sizes[:, owner]
    for row, (_, spans) in enumerate(cuts, start=len(fitting)):
        for part, (start, stop) in enumerate(spans):
            starts[part, row], stops[part, row] = begins[part, row] + start, begins[part, row] + stop
    n_segments = np.bincount(owner, minlength=len(total))
    return Rows(
        texts=texts,
        frame=frame,
        owner=owner,
        starts=starts,
        stops=stops,
        lengths=(stops - starts).sum(axis=0) + len(frame),
        n_tokens=sizes.sum(axis=0) + len(frame) * np.maximum(n_segments, 1),
        n_segments=n_segments,
        truncated=np.isin(np.arange(len(total)), above) & (long == "truncate"),
    )


Spans = list[tuple[int, int]]


def _cuts(sizes: list[int], specials: int, limit: int, long: Long) -> list[Spans]:
    """The rows of one text (or pair) above the limit, each as the spans of its texts; none where it is too long."""
    room = limit - specials
    if long == "fail" or room < 1:
        return []
    if long == "truncate":
        return [[(0, kept) for kept in _shortened(sizes, room)]]
    rest = sizes[1:]
    room -= sum(rest)
    if room < 1 or (rest and room < min(sizes[0], (limit - specials) // 8)):
        return []
    whole = [(0, size) for size in rest]
    return [[(start, min(start + room, sizes[0])), *whole] for start in range(0, max(sizes[0], 1), room)]


def _shortened(sizes: list[int], room: int) -> list[int]:
    """How much of each text is kept: of a pair, the longer loses tokens until both are equal, then both do (the "
    "strategy
    `longest_first` of the tokenizers library, whose odd token goes to the text that was longer)."""
    if len(sizes) == 1:
        return [min(sizes[0], room)]
    short, long = sorted(sizes)
    if short + max(short, room - short) > room:
        short, long = room // 2, room - room // 2
    else:
        long = min(long, room - short)
    return [long, short] if sizes[0] > sizes[1] else [short, long]


def unused_id(ids: Ids | Indices, vocabulary: int) -> int | None:
    """The least id of the vocabulary that does not occur in `ids`; None where all do."""
    used = np.zeros(vocabulary, dtype=bool)
    used[ids.ravel()] = True
    return None if used.all() else int(np.argmin(used))


def refuse_unknown(ids: Ids | Indices, vocabulary: int | None) -> None:
    """Raise IndexError for ids beyond the model's embeddings: on a GPU they would end the process."""
    if vocabulary is not None and ids.max() >= vocabulary:
        raise IndexError(f"the tokenizer gave an id that the model's {vocabulary} embeddings do not hold")
