"""Texts become the ids that the tokenizer gives them, however they are cut on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_models import CLASSIFIERS, texts_of, tokenizer_for
from worker.models import tokens
from worker.models.rows import Rows, plan_rows, refuse_unknown, unused_id
from worker.models.tokens import Frame, TextEncoder, Tokens

TEXTS = [*texts_of([3, 40, 1]), "", "  two  spaces \n\n and\ta tab ", "ünïcödé 🙂 漢字"]


def ids_of(encoded: Tokens) -> list[list[int]]:
    return [part.tolist() for part in np.split(encoded.flat, encoded.offsets[1:-1])]


def row_ids(rows: Rows, row: int, *, left: bool = False) -> list[int]:
    ids, mask, _ = rows.padded(np.array([row]), pad=999, pad_type=0, left=left)
    return list(ids[0][mask[0] == 1].tolist())


@pytest.mark.parametrize("model_type", [*CLASSIFIERS, "t5"])
def test_ids_with_their_frame_are_what_the_tokenizer_gives(model_type: str) -> None:
    tokenizer = tokenizer_for(model_type)
    encoder = TextEncoder(tokenizer)
    encoded, second = encoder.encode(TEXTS), encoder.encode(TEXTS[::-1])
    single = plan_rows((encoded,), encoder.single, None, "split")
    pairs = plan_rows((encoded, second), encoder.pair, None, "split")
    for index, (text, other) in enumerate(zip(TEXTS, TEXTS[::-1], strict=True)):
        assert row_ids(single, index) == tokenizer(text)["input_ids"]
        if other:  # the tokenizers' own call takes an empty second text for none
            assert row_ids(pairs, index) == tokenizer(text, other)["input_ids"]


@pytest.mark.parametrize("left", [False, True])
def test_padding_stands_on_one_side_and_nothing_else_moves(left: bool) -> None:
    tokenizer = tokenizer_for("bert")
    tokenizer.padding_side = "left" if left else "right"
    encoder = TextEncoder(tokenizer)
    rows = plan_rows((encoder.encode(TEXTS), encoder.encode(TEXTS[::-1])), encoder.pair, None, "split")
    ids, mask, types = rows.padded(np.arange(len(TEXTS)), pad=0, pad_type=0, left=left)
    expected = tokenizer(TEXTS, TEXTS[::-1], padding=True, return_tensors="np")
    assert (ids == expected["input_ids"]).all()
    assert (mask == expected["attention_mask"]).all()
    assert (types == expected["token_type_ids"]).all()


@pytest.mark.parametrize("model_type", CLASSIFIERS)
def test_packed_rows_are_the_rows_end_to_end(model_type: str) -> None:
    tokenizer = tokenizer_for(model_type)
    encoder = TextEncoder(tokenizer)
    rows = plan_rows((encoder.encode(TEXTS), encoder.encode(TEXTS[::-1])), encoder.pair, None, "split")
    batch = np.array([4, 0, 5, 0, 2])
    ids, types = rows.packed(batch)
    alone = [rows.padded(np.array([row]), pad=999, pad_type=9, left=False) for row in batch]
    assert ids.tolist() == [token for row, _, _ in alone for token in row[0]]
    assert types.tolist() == [kind for _, _, row in alone for kind in row[0]]
    assert len(ids) == rows.lengths[batch].sum()


def test_ids_beyond_the_embeddings_are_refused() -> None:
    refuse_unknown(np.array([0, 4]), 5)
    refuse_unknown(np.array([9]), None)
    with pytest.raises(IndexError, match="5 embeddings"):
        refuse_unknown(np.array([0, 5]), 5)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlnet", "gpt2"])
def test_a_very_long_string_is_cut_where_it_makes_no_difference(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "PIECE", 50)
    monkeypatch.setattr(tokens, "_GROUP", 70)
    tokenizer = tokenizer_for(model_type)
    texts = [*texts_of([200, 3]), "The  room \n\n was   clean. " * 20, ""]
    for text, ids in zip(texts, ids_of(TextEncoder(tokenizer).encode(texts)), strict=True):
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]


@given(st.text(alphabet="ab \n", max_size=400))
def test_pieces_of_a_string_are_the_string(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "PIECE", 20)
        pieces = tokens._pieces(text)
    assert "".join(pieces) == text
    assert all(len(piece) <= 20 for piece in pieces)
    assert all(pieces[1:])


def test_a_word_of_any_length_is_tokenized() -> None:
    encoded = TextEncoder(tokenizer_for("gpt2")).encode(["x" * 250_000, "a b"])
    assert encoded.lengths.tolist()[0] > 50_000


def frame(*sizes: int) -> Frame:
    parts = tuple(np.arange(900, 900 + size, dtype=np.int32) for size in sizes)
    return Frame(parts, parts, tuple(range(len(sizes) - 1)))


def collection(sizes: list[int]) -> Tokens:
    return Tokens(np.arange(sum(sizes), dtype=np.int32), np.cumsum([0, *sizes]))


@settings(max_examples=200)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    limit=st.integers(4, 20),
    long=st.sampled_from(["split", "truncate", "fail"]),
)
def test_rows_keep_within_the_limit_and_a_split_text_is_whole(sizes: list[int], limit: int, long: Any) -> None:
    texts = collection(sizes)
    rows = plan_rows((texts,), frame(1, 1), limit, long)
    assert (rows.lengths <= limit).all()
    for index, size in enumerate(sizes):
        own = np.flatnonzero(rows.owner == index)
        spans = sorted((int(rows.starts[0][row]), int(rows.stops[0][row])) for row in own)
        covered = [token for start, stop in spans for token in range(start, stop)]
        whole = list(range(int(texts.offsets[index]), int(texts.offsets[index + 1])))
        over = size + 2 > limit
        assert covered == {"split": whole, "truncate": whole[: limit - 2], "fail": [] if over else whole}[long]
        assert rows.n_segments[index] == len(own)
        assert rows.n_tokens[index] == size + 2 * max(1, len(own))
        assert rows.truncated[index] == (over and long == "truncate")


def test_a_text_without_tokens_still_has_a_row() -> None:
    assert plan_rows((collection([0]),), frame(1, 1), 8, "split").n_segments.tolist() == [1]


def test_a_limit_that_leaves_no_room_makes_texts_too_long() -> None:
    for long in ("split", "truncate", "fail"):
        assert plan_rows((collection([5]),), frame(2, 2), 4, long).n_segments.tolist() == [0]


def test_an_id_that_is_not_used_is_found_where_there_is_one() -> None:
    assert unused_id(np.array([0, 1, 3]), 5) == 2
    assert unused_id(np.array([0, 1, 2]), 3) is None
