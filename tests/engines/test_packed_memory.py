"""What goes through a device together is bounded by a budget of tokens, which is learned."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from tests.loaded_classifiers import Plain, classify, documents_of, engine_of, same
from tests.tiny_models import make_classifier, texts_of
from worker.device import Device
from worker.engines import sizing
from worker.engines.base import Usage
from worker.engines.budget import Budget
from worker.engines.probes import probes_of
from worker.engines.sizing import tokens_that_fit
from worker.models.rows import Rows
from worker.models.tokens import TextEncoder

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT whose layers are wide against its vocabulary, so that activations are what it allocates."""
    folder = tmp_path_factory.mktemp("memory") / "bert"
    return make_classifier(folder, "bert", hidden_size=64, intermediate_size=256)


def peak(path: Path, lengths: Sequence[int], budget: int) -> int:
    """Most bytes that torch held above what it held before, while texts of so many words ran."""
    engine, params = engine_of(path, batch_tokens=budget)
    documents = documents_of(texts_of(lengths))
    gc.collect()  # an engine that is let go of meanwhile would look like memory given back
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        classify(engine, params, documents)
    events = profiled.profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    held = most = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        most = max(most, held)
    assert most > 0
    return most


def test_the_memory_of_a_batch_is_bounded_by_the_budget_whatever_the_corpus(path: Path) -> None:
    bound = 1.5 * peak(path, [20] * 30, 256)
    corpora = {
        "many": [20] * 300,
        "tiny": [1] * 300,
        "long": [40] * 60,
        "tailed": [40, 30, *([1, 2, 3, 5, 8, 13] * 25)],
    }
    assert {name: peak(path, lengths, 256) < bound for name, lengths in corpora.items()} == dict.fromkeys(corpora, True)


def test_the_memory_of_a_batch_follows_the_budget(path: Path) -> None:
    small, large = (peak(path, [20] * 200, budget) for budget in (256, 1_024))
    assert 2.5 < large / small < 4.5


def test_a_pack_that_does_not_fit_is_halved_and_grows_again_once_others_fitted(path: Path) -> None:
    engine, params = engine_of(path, batch_tokens=400)
    plain, texts, room = Plain(path), texts_of([9, 1, 4, 12] * 12), [150]
    packs: list[int] = []

    def full(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        packs.append(int(kwargs["attention_mask"].sum()))
        if packs[-1] > room[0]:
            raise FULL

    model: Any = engine._forward._model  # type: ignore[attr-defined]
    model.register_forward_pre_hook(full, with_kwargs=True)
    for attempt in range(2):
        packs.clear()
        for text, result in zip(texts, classify(engine, params, documents_of(texts)), strict=True):
            assert same(result, plain.logits(text).softmax(-1))
        assert any(tokens > 150 for tokens in packs) == (attempt == 0), "the second shard starts within what fits"
    room[0] = 1_000
    for _ in range(40):
        classify(engine, params, documents_of(texts))
    assert 150 < max(packs) <= engine._budget.tokens <= 400


def test_a_text_that_does_not_fit_alone_fails_alone(path: Path) -> None:
    engine, params = engine_of(path)

    def full(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["attention_mask"].sum() > 40:
            raise FULL

    model: Any = engine._forward._model  # type: ignore[attr-defined]
    model.register_forward_pre_hook(full, with_kwargs=True)
    *good, long = classify(engine, params, documents_of(texts_of([3, 5, 2, 50])))
    assert [result.status for result in good] == ["succeeded"] * 3
    assert long.error is not None
    assert long.error.code == "out_of_memory"


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), max_size=120), budget=st.integers(1, 300), room=st.integers(1, 300),
    packs=st.booleans(),
)  # fmt: skip
def test_every_text_comes_once_and_without_output_only_where_it_does_not_fit_alone(
    lengths: list[int], budget: int, room: int, packs: bool
) -> None:
    learned = Budget(Device(kind="cpu", batch_tokens=budget), packs=packs)

    def run(batch: list[int]) -> int:
        own = [lengths[index] for index in batch]
        if (sum(own) if packs else max(own) * len(own)) > room:
            raise FULL
        return len(batch)

    ran = list(learned.batches(lengths, run, lambda: False))
    assert sorted(index for batch, _ in ran for index in batch) == list(range(len(lengths)))
    for batch, output in ran:
        assert (output is None) == (lengths[batch[0]] > room)
    assert 1 <= learned.tokens <= budget


def test_a_budget_grows_by_a_quarter_for_every_fifty_batches_up_to_the_devices() -> None:
    learned = Budget(Device(kind="cpu", batch_tokens=100), packs=True)
    learned.tokens = 10
    seen = [learned.tokens for _ in learned.batches([10] * 2_000, len, lambda: False)]
    assert seen[:50] == [10] * 50
    assert seen[50] == 12
    assert seen == sorted(seen)
    assert seen[-1] > 25


def test_on_a_gpu_the_budget_is_measured_from_the_free_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The statistics are played: 1 MB whatever the batch, and 1,000 bytes for each token."""
    rows = engine_rows(path)
    ran: list[int] = []
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda index: 5_000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda index: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda index: 5_000 + 1_000_000 + 1_000 * ran[-1])
    monkeypatch.setattr(sizing, "free_bytes", lambda device: 10_000_000)
    fitting = tokens_that_fit(lambda some, batch: ran.append(int(some.lengths[batch].sum())), rows, Device(kind="cuda"))
    assert fitting == 8_500
    assert Budget(Device(kind="cuda", batch_tokens=32_768), fitting=fitting).tokens == 8_500
    assert Budget(Device(kind="cuda", batch_tokens=4_096), fitting=fitting).tokens == 4_096
    assert tokens_that_fit(lambda some, batch: None, rows, Device(kind="cpu")) is None


def engine_rows(path: Path) -> Rows:
    plain = Plain(path)
    encoder = TextEncoder(plain.tokenizer)
    return probes_of(plain.model, plain.tokenizer, encoder.single, 64).rows


def test_a_gpu_that_is_full_at_once_leaves_the_budget_to_learn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(rows: Rows, batch: Any) -> None:
        raise FULL

    for name in ("memory_allocated", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda index: 0)
    monkeypatch.setattr(sizing, "release", lambda device: None)
    assert tokens_that_fit(full, engine_rows(path), Device(kind="cuda")) is None


@pytest.mark.parametrize("ahead", [0, 1])
def test_batches_that_run_ahead_of_their_results_give_the_same_results(path: Path, ahead: int) -> None:
    engine, params = engine_of(path, batch_tokens=60)
    engine._ahead = ahead
    plain, texts = Plain(path), texts_of([9, 1, 4, 12, 3, 3, 30, 2])
    usage, asked = Usage(), iter(range(100))
    for text, result in zip(texts, classify(engine, params, documents_of(texts)), strict=True):
        assert same(result, plain.logits(text).softmax(-1))
    prepared = engine.prepare(documents_of(texts), params, usage)
    assert len(list(engine.run(prepared, usage, lambda: next(asked) >= 2))) == usage.batches == 2
