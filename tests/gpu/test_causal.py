"""Causal models on a CUDA device: summaries by prompt, labels by likelihood, and continuous batching."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from catalog import Catalog
from corpusmill.tasks import ClassificationParams, Generation, SummarizationParams
from tests.loaded_causal import run
from tests.loaded_seq2seq import documents_of, said
from tests.tiny_causal import make_causal, words
from worker.device import Device
from worker.engines.causal.generating import CausalEngine
from worker.engines.causal.labels import CausalLabelsEngine
from worker.models.loading import load_model

TEXTS = [words(count, count) for count in (3, 28, 9, 1, 17, 40, 5)]
GREEDY = SummarizationParams(
    prompt="Summarize: {text}\nText:", generation=Generation(do_sample=False, max_new_tokens=14)
)
CUDA = Device(kind="cuda", batch_tokens=2_000)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
def test_continuous_batching_says_what_sorted_batches_say(tmp_path: Path, kind: str) -> None:
    make_causal(tmp_path / kind, kind)
    info = Catalog(tmp_path, "", tmp_path / "digests").resolve(kind)
    model, tokenizer = load_model(info, CUDA, torch.float32)
    batches = CausalEngine(model, tokenizer, info, CUDA, torch.float32, continuous=False)
    expected = said(run(batches, documents_of(*TEXTS), GREEDY))
    continuous = CausalEngine(model, tokenizer, info, CUDA, torch.float32, continuous=True)
    found = said(run(continuous, documents_of(*TEXTS), GREEDY))
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= len(expected) - 1, continuous.runtime


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_labels_are_chosen_by_likelihood(tmp_path: Path, dtype: torch.dtype) -> None:
    make_causal(tmp_path / "llama", "llama")
    info = Catalog(tmp_path, "", tmp_path / "digests").resolve("llama")
    params = ClassificationParams(prompt="{text} is", labels=("good", "bad", "neither"))

    def labels(device: Device, precision: torch.dtype) -> list[str]:
        model, tokenizer = load_model(info, device, precision)
        engine = CausalLabelsEngine(model, tokenizer, info, device, precision)
        return [str((result.output or {})["label"]) for result in run(engine, documents_of(*TEXTS), params)]

    on_cpu = labels(Device(kind="cpu"), torch.float32)
    found = labels(CUDA, dtype)
    least = len(TEXTS) if dtype is torch.float32 else len(TEXTS) - 2
    assert sum(a == b for a, b in zip(found, on_cpu, strict=True)) >= least
