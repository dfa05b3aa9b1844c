"""Sequence-to-sequence and causal models on a CUDA device: token for token what `generate()` gives there for each text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from corpusmill.tasks import Generation, SummarizationParams, TranslationParams
from tests.loaded_seq2seq import Loaded, documents_of, loader, run, said
from tests.tiny_seq2seq import text
from worker.device import Device
from worker.engines.base import Usage
from worker.engines.decoding import graphs
from worker.engines.decoding.graphs import Graphed

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses:UserWarning")

CUDA = Device(kind="cuda", batch_tokens=1_600)
TEXTS = [text(2 + (seed * 7) % 30, seed) for seed in range(60)]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    return loader(tmp_path_factory.mktemp("models"), CUDA)


def asked(kind: str, **generation: Any) -> SummarizationParams | TranslationParams:
    settings = Generation(**generation)
    return TranslationParams(generation=settings) if kind == "marian" else SummarizationParams(generation=settings)


def plain(loaded: Loaded, texts: list[str], **settings: Any) -> list[str]:
    """What `generate()` says for each text alone, on the device and from the same weights."""
    found = []
    for one in texts:
        encoded = loaded.tokenizer(one, return_tensors="pt").to("cuda")
        found.append(loaded.tokenizer.decode(loaded.model.generate(**encoded, **settings)[0], skip_special_tokens=True))
    return found


def share_equal(found: list[str], expected: list[str]) -> float:
    return sum(a.split() == b.split() for a, b in zip(found, expected, strict=True)) / len(expected)


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("kind", ["marian", "bart"])
def test_slots_replayed_as_graphs_say_what_generate_says(load: Callable[[str], Loaded], kind: str, beams: int) -> None:
    loaded = load(kind)
    usage = Usage()
    found = said(run(loaded.engine, documents_of(*TEXTS), asked(kind, num_beams=beams, max_new_tokens=24), usage))
    assert loaded.engine.runtime["engine"] == "slots", loaded.engine.runtime
    expected = plain(loaded, TEXTS, num_beams=beams, max_new_tokens=24, do_sample=False)
    # float32 on a GPU adds up in another order for another batch: a near-tie may fall the other way
    assert share_equal(found, [one.strip() for one in expected]) >= 0.95
    assert usage.slot_steps > 0


@pytest.mark.parametrize("kind", ["marian", "bart"])
def test_a_replayed_step_gives_the_scores_of_the_step_as_it_comes(
    load: Callable[[str], Loaded], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(kind)
    params = asked(kind, max_new_tokens=24)
    replayed = said(run(loaded.another_engine(), documents_of(*TEXTS), params))
    monkeypatch.setattr("worker.engines.decoding.session.stepper", graphs.Plain)
    assert share_equal(said(run(loaded.another_engine(), documents_of(*TEXTS), params)), replayed) >= 0.95


def test_graphs_are_captured_again_after_they_were_dropped(load: Callable[[str], Loaded]) -> None:
    """Shards of longer and longer texts, each of which has the slots laid out anew."""
    loaded = load("marian")
    engine = loaded.another_engine()
    for words in (2, 9, 18, 30):
        texts = [text(words, seed) for seed in range(8)]
        found = said(run(engine, documents_of(*texts), asked("marian", max_new_tokens=12)))
        expected = plain(loaded, texts, max_new_tokens=12, do_sample=False, num_beams=1)
        assert share_equal(found, [one.strip() for one in expected]) >= 0.85


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_decoded_in_slots_too(tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype) -> None:
    load = loader(tmp_path_factory.mktemp("half"), CUDA, dtype)
    for kind in ("marian", "bart"):
        loaded = load(kind)
        results = run(loaded.engine, documents_of(*TEXTS), asked(kind, max_new_tokens=16))
        assert loaded.engine.runtime["engine"] == "slots", loaded.engine.runtime
        assert all(result.status == "succeeded" for result in results)


def test_a_memory_that_fills_while_decoding_starts_again_with_fewer_slots(load: Callable[[str], Loaded]) -> None:
    loaded = load("bart")
    expected = said(run(loaded.another_engine(), documents_of(*TEXTS), asked("bart", max_new_tokens=16)))
    engine = loaded.another_engine()
    real, calls = Graphed.__call__, []

    def full(self: Graphed, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Graphed, "__call__", full)
        found = said(run(engine, documents_of(*TEXTS), asked("bart", max_new_tokens=16)))
    assert share_equal(found, expected) >= 0.95
