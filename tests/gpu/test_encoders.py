"""Classifiers on a CUDA device: the scores of each text alone, whatever shares its batch, in every precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpusmill.tasks import Task
from tests.loaded_classifiers import Plain, Shelf, classify, documents_of, engine_of, same, scores
from tests.tiny_models import PACKED, UNPACKED, make_classifier, texts_of
from worker.device import Device, free_bytes
from worker.engines.base import Usage
from worker.models.attention import SDPA, VARLEN

TEXTS = texts_of([1, 12, 3, 7, 1, 2, 12, 5, 9, 4, 3, 8, 1, 6, 14, 11, 2, 10] * 6)
LONG = " ".join(texts_of([90], seed=2))
#: Largest difference that half precision may make to a score.
ROUNDED = {"bfloat16": 0.05, "float16": 0.01}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Plain]:
    """Models by type and options, each made once."""
    return Shelf(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("model_type", [*PACKED, *UNPACKED])
def test_scores_in_float32_are_those_of_the_text_alone_on_a_cpu(tiny: Callable[..., Plain], model_type: str) -> None:
    plain = tiny(model_type)
    engine, params = engine_of(plain.path, 600, "cuda", dtype="float32")
    if model_type in PACKED:
        assert (engine.runtime["engine"], engine.runtime["attention"]) == ("packed", SDPA)
    for text, result in zip(TEXTS, classify(engine, params, documents_of(TEXTS)), strict=True):
        assert np.abs(scores(result) - plain.logits(text).softmax(-1).numpy()).max() < 1e-4


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("model_type", PACKED)
def test_half_precision_runs_packed_through_the_variable_length_kernel(
    tiny: Callable[..., Plain], model_type: str, dtype: str
) -> None:
    plain = tiny(model_type)
    engine, params = engine_of(plain.path, 600, "cuda", dtype=dtype)
    assert (engine.runtime["engine"], engine.runtime["attention"]) == ("packed", VARLEN), engine.runtime
    usage = Usage()
    results = classify(engine, params, documents_of([*TEXTS, LONG]), usage)
    for text, result in zip(TEXTS, results, strict=False):
        assert np.abs(scores(result) - plain.logits(text).softmax(-1).numpy()).max() < ROUNDED[dtype]
    assert usage.tokens == usage.padded_tokens


def test_what_shares_a_batch_does_not_change_a_label(tiny: Callable[..., Plain]) -> None:
    plain = tiny("distilbert")
    alone, params = engine_of(plain.path, 1, "cuda", dtype="bfloat16")
    together, _ = engine_of(plain.path, 4_000, "cuda", dtype="bfloat16")
    pairs = zip(
        classify(alone, params, documents_of(TEXTS)), classify(together, params, documents_of(TEXTS)), strict=True
    )
    assert max(float(np.abs(scores(one) - scores(other)).max()) for one, other in pairs) < 0.02


def test_the_budget_is_what_the_free_memory_holds(tmp_path: Path) -> None:
    path = make_classifier(tmp_path / "m", "bert", hidden_size=1024, num_attention_heads=16, intermediate_size=4096)
    device = Device(kind="cuda")
    held = torch.empty(max(0, free_bytes(device) - (300 << 20)), dtype=torch.uint8, device="cuda")
    engine, params = engine_of(path, 1 << 20, "cuda", dtype="float32")
    assert engine._budget.tokens < 1 << 20
    results = classify(engine, params, documents_of(TEXTS * 40))
    assert all(result.status == "succeeded" for result in results)
    del held
    torch.cuda.empty_cache()


def test_a_batch_beyond_the_memory_is_halved_and_nothing_is_lost(tmp_path: Path) -> None:
    plain = Plain(make_classifier(tmp_path / "m", "bert", intermediate_size=16_384))
    engine, params = engine_of(plain.path, 1 << 22, "cuda", dtype="float32")
    engine._budget.tokens = 1 << 22  # as if nothing had been measured
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    texts = TEXTS * 30
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (600 << 20)) / total)
        results = classify(engine, params, documents_of(texts))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine._budget.tokens < 1 << 22
    for text, result in list(zip(texts, results, strict=True))[:40]:
        assert np.abs(scores(result) - plain.logits(text).softmax(-1).numpy()).max() < 1e-4


def test_a_token_beyond_the_embeddings_fails_its_document_and_not_the_device(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    path = make_classifier(tmp_path / "m", "bert")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(path)
    engine, params = engine_of(path, 600, "cuda")
    good, bad = classify(engine, params, documents_of(["the room", "the newword"]))
    assert (good.status, bad.status) == ("succeeded", "failed")


def test_the_extractive_encoder_chooses_the_same_sentences_as_on_a_cpu(tmp_path: Path) -> None:
    from catalog import Catalog, check
    from corpusmill.tasks import parse_params
    from tests.tiny_models import SENTENCES, make_encoder
    from worker.models import load_engine

    make_encoder(tmp_path / "encoder", "bert")
    info = Catalog(tmp_path, "", tmp_path / ".digests").resolve("encoder")
    params = check(
        info, Task.SUMMARIZATION, parse_params(Task.SUMMARIZATION, {"method": "extractive", "dtype": "float32"})
    )
    documents = documents_of([" ".join(SENTENCES), " ".join(reversed(SENTENCES)), SENTENCES[0]])

    def outputs(kind: Any) -> list[Any]:
        engine: Any = load_engine(info, Task.SUMMARIZATION, params, Device(kind=kind, batch_tokens=400))
        prepared = engine.prepare(documents, params, Usage())
        found = [result for batch in engine.run(prepared, Usage(), lambda: False) for result in batch]
        return [result.output for result in sorted(found, key=lambda result: result.position)]

    assert outputs("cuda") == outputs("cpu")


def test_float32_pairs_and_single_texts_stand_in_one_shard(tiny: Callable[..., Plain]) -> None:
    plain = tiny("bert")
    second = texts_of([3, 1, 8, 2] * 27, seed=4)
    engine, params = engine_of(plain.path, 600, "cuda", dtype="float32")
    documents = documents_of(TEXTS, second)
    results = classify(engine, params, documents)
    for document, result in list(zip(documents, results, strict=True))[:30]:
        expected = plain.logits(document.text, document.text_pair).softmax(-1)
        assert same(result, expected) or np.abs(scores(result) - expected.numpy()).max() < 1e-4
