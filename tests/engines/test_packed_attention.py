"""Attention within the documents of a pack is the attention of each document alone."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.models import attention
from worker.models.attention import SDPA, VARLEN, attention_for, sdpa_attention, varlen_attention
from worker.models.layouts import Associated, Keys, KeysOnly, Layout, Reading, layout_of, runs_of

HEADS, WIDTH = 4, 8
ENCODER, DECODER = SimpleNamespace(is_causal=False), SimpleNamespace(is_causal=True)


def laid_out(lengths: list[int]) -> Layout:
    return layout_of(np.array(lengths), torch.device("cpu"))


def drawn(tokens: int, seed: int, heads: int = HEADS) -> torch.Tensor:
    return torch.randn(1, heads, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


def seen(length: int, causal: bool, window: int | None) -> torch.Tensor:
    """Which keys a query sees, said one by one."""
    return torch.tensor([
        [(not causal or key <= query) and (not window or abs(query - key) < window) for key in range(length)]
        for query in range(length)
    ])  # fmt: skip


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    lengths=LENGTHS,
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 3, 20]),
    groups=st.sampled_from([1, 2, 4]),
    block=st.sampled_from([1, 4, 128]),
)
def test_each_document_attends_to_itself_alone(
    lengths: list[int], causal: bool, window: int | None, groups: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_BLOCK", block)
    total = sum(lengths)
    query = drawn(total, 0)
    key, value = (drawn(total, seed, HEADS // groups) for seed in (1, 2))
    module: Any = DECODER if causal else ENCODER
    found, _ = sdpa_attention(
        module, query, key, value, scaling=0.3, sliding_window=window, packed_layout=laid_out(lengths)
    )
    assert found.shape == (1, total, HEADS, WIDTH)
    for start, stop in pairwise([0, *np.cumsum(lengths).tolist()]):
        q, k, v = (part[0, :, start:stop] for part in (query, key, value))
        k, v = (part.repeat_interleave(groups, dim=0) for part in (k, v))
        weights = (q @ k.transpose(1, 2) * 0.3).masked_fill(~seen(stop - start, causal, window), float("-inf"))
        expected = (weights.softmax(-1) @ v).transpose(0, 1)
        assert (found[0, start:stop] - expected).abs().max() < 1e-5


@given(LENGTHS)
def test_runs_are_neighbours_of_equal_length_and_hold_every_document(lengths: list[int]) -> None:
    runs = runs_of(np.array(lengths))
    assert [length for _, count, length in runs for _ in range(count)] == lengths
    assert [start for start, _, _ in runs] == np.cumsum([0, *(count * length for _, count, length in runs)])[
        :-1
    ].tolist()
    assert all(left[2] != right[2] for left, right in pairwise(runs))


@pytest.mark.parametrize("function", [sdpa_attention, varlen_attention])
@pytest.mark.parametrize(
    ("given_too", "message"),
    [
        ({"packed_layout": None}, "without a layout"),
        ({"attention_mask": torch.ones(1, 1, 5, 5, dtype=torch.bool)}, "takes no mask"),
        ({"position_bias": torch.zeros(1, HEADS, 5, 5)}, "does not know position_bias"),
        ({"softcap": 50.0}, "does not know softcap"),
        ({"s_aux": torch.zeros(HEADS)}, "does not know s_aux"),
    ],
)
def test_what_is_not_done_here_is_refused(function: Any, given_too: dict[str, Any], message: str) -> None:
    parts = [drawn(5, seed) for seed in range(3)]
    with pytest.raises(ValueError, match=message):
        function(ENCODER, *parts, **{"packed_layout": laid_out([2, 3]), **given_too})


def test_half_precision_on_a_gpu_takes_the_variable_length_kernel_and_all_else_does_not() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert [attention_for(cuda, dtype) for dtype in (torch.bfloat16, torch.float16)] == [VARLEN, VARLEN]
    assert attention_for(cuda, torch.float32) == attention_for(cpu, torch.bfloat16) == SDPA


@pytest.mark.parametrize(
    ("module", "window", "expected"),
    [(ENCODER, None, (-1, -1)), (ENCODER, 65, (64, 64)), (DECODER, None, (-1, 0)), (DECODER, 8, (7, 0))],
)
def test_the_variable_length_kernel_is_given_tokens_first_and_the_documents_bounds(
    module: Any, window: int | None, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel itself runs on CUDA only: what it is asked for is compared with attention by the other way."""
    layout, calls = laid_out([2, 3, 3]), []

    def kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append((args, kwargs))
        tokens = (part.transpose(0, 1).unsqueeze(0) for part in (q, k, v))
        out, _ = sdpa_attention(module, *tokens, scaling=kwargs["scale"], sliding_window=window, packed_layout=layout)
        return out[0]

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    query, key, value = drawn(8, 0), drawn(8, 1, 2), drawn(8, 2, 2)
    found, _ = varlen_attention(module, query, key, value, scaling=0.3, sliding_window=window, packed_layout=layout)
    ((args, kwargs),) = calls
    assert [value if isinstance(value, int) else value.tolist() for value in args] == [[0, 2, 5, 8]] * 2 + [3, 3]
    assert kwargs["window_size"] == expected
    other, _ = sdpa_attention(module, query, key, value, scaling=0.3, sliding_window=window, packed_layout=layout)
    assert torch.equal(found, other)


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.booleans(), st.sampled_from([1, 2, 4]))
def test_a_single_query_of_each_document_sees_the_whole_of_it(lengths: list[int], causal: bool, groups: int) -> None:
    """Whatever the layer makes of its few tokens for keys and values; where it ends, the given ones end."""
    module: Any = DECODER if causal else ENCODER
    key, value = (drawn(sum(lengths), seed, HEADS // groups) for seed in (1, 2))
    query, unseen = drawn(len(lengths), 0), drawn(len(lengths), 3, HEADS // groups)
    reading = Reading(key=key, value=value, layout=laid_out(lengths))
    found, _ = sdpa_attention(module, query, unseen, unseen, scaling=0.3, packed_layout=reading)
    assert found.shape == (1, len(lengths), HEADS, WIDTH)
    for number, (start, stop) in enumerate(pairwise([0, *np.cumsum(lengths).tolist()])):
        k, v = (part[0, :, start:stop].repeat_interleave(groups, dim=0) for part in (key, value))
        weights = (query[0, :, number, None] @ k.transpose(1, 2) * 0.3).softmax(-1)
        assert (found[0, number] - (weights @ v)[:, 0]).abs().max() < 1e-5


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.booleans())
def test_a_single_query_needs_no_keys_and_values_where_their_weights_are_known(
    lengths: list[int], biased: bool
) -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = 20
    states = torch.randn(1, sum(lengths), inputs, generator=draw)
    key, value = (torch.randn(HEADS * WIDTH, inputs, generator=draw) for _ in range(2))
    shifts = torch.randn(2, HEADS * WIDTH, generator=draw) if biased else torch.zeros(2, HEADS * WIDTH)
    query, unseen = drawn(len(lengths), 0), drawn(len(lengths), 3)
    layout = laid_out(lengths)
    asked = Associated(states=states, key=key, value=value, bias=shifts[1] if biased else None, layout=layout)
    made = [
        (states @ weight.t() + shift).view(1, -1, HEADS, WIDTH).transpose(1, 2)
        for weight, shift in zip((key, value), shifts, strict=True)
    ]
    module: Any = ENCODER
    expected, _ = sdpa_attention(
        module, query, unseen, unseen, scaling=0.1, packed_layout=Reading(key=made[0], value=made[1], layout=layout)
    )
    found, _ = sdpa_attention(module, query, unseen, unseen, scaling=0.1, packed_layout=asked)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2e-5
    for unfit in ({"is_causal": True}, {"sliding_window": 4}):
        with pytest.raises(ValueError, match="needs its keys"):
            sdpa_attention(module, query, unseen, unseen, packed_layout=asked, **unfit)


def test_the_variable_length_kernel_is_given_one_query_of_each_document(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append((q.shape, k.shape, v.shape, *args, kwargs["window_size"]))
        return q

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    reading = Reading(key=drawn(8, 1, 2), value=drawn(8, 2, 2), layout=laid_out([2, 3, 3]))
    query = drawn(3, 0)
    found, _ = varlen_attention(DECODER, query, query, query, sliding_window=2, packed_layout=reading)  # type: ignore[arg-type]
    assert torch.equal(found[0], query[0].transpose(0, 1))
    ((q, k, v, queries, keys, most, longest, window),) = calls
    assert (q, k, v) == ((3, HEADS, WIDTH), (8, HEADS, WIDTH), (8, HEADS, WIDTH))
    assert (queries.tolist(), keys.tolist(), most, longest, window) == ([0, 1, 2, 3], [0, 2, 5, 8], 1, 3, (-1, -1))
    assert queries.dtype == keys.dtype == torch.int32


@pytest.mark.parametrize("function", [sdpa_attention, varlen_attention])
def test_a_layer_that_is_asked_for_its_keys_is_left_with_them(function: Any) -> None:
    query, key, value = (drawn(5, seed) for seed in range(3))
    with pytest.raises(Keys) as left:
        function(DECODER, query, key, value, sliding_window=7, packed_layout=KeysOnly())
    assert (left.value.key is key, left.value.value is value) == (True, True)
    assert (left.value.causal, left.value.window) == (True, 7)
