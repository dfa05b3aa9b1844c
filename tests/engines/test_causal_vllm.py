"""The engine over vLLM as far as it goes without the package: what it refuses, and what it asks of the interface.

The peer here has the names that vLLM documents and answers by transformers; it shows that our side holds together, and
nothing of vLLM.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from corpusmill.errors import ModelFault
from corpusmill.tasks import Generation, SummarizationParams, Task
from tests.loaded_causal import Loaded, loader, run
from tests.loaded_seq2seq import documents_of, said
from tests.tiny_causal import words
from worker.models.table import load_engine

TEXTS = [words(count, count) for count in (3, 12, 30)]
PROMPT = "Summarize: {text}"


@dataclass(kw_only=True)
class SamplingParams:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    repetition_penalty: float = 1.0
    stop_token_ids: list[int] = field(default_factory=list)
    detokenize: bool = True


class LLM:
    """Greedy answers by transformers. `asked` keeps what it was given."""

    asked: ClassVar[list[SamplingParams]] = []

    def __init__(self, model: str, **options: Any) -> None:
        from transformers import AutoModelForCausalLM

        assert options["trust_remote_code"] is False
        self._model = AutoModelForCausalLM.from_pretrained(model)

    def generate(self, prompts: list[dict[str, Any]], params: list[SamplingParams], *, use_tqdm: bool) -> list[Any]:
        LLM.asked = params
        outputs = []
        for prompt, one in zip(prompts, params, strict=True):
            ids = torch.tensor([prompt["prompt_token_ids"]])
            new = self._model.generate(
                ids, attention_mask=torch.ones_like(ids), pad_token_id=0, do_sample=False, max_new_tokens=one.max_tokens
            )[0, ids.shape[1] :].tolist()
            reason = "stop" if new[-1] in one.stop_token_ids else "length"
            outputs.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=new, finish_reason=reason)]))
        return outputs


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Loaded]:
    return loader(tmp_path_factory.mktemp("models"))


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    vars(module).update(LLM=LLM, SamplingParams=SamplingParams)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr("worker.engines.causal.vllm.version", lambda name: "0")


def summarize(**chosen: Any) -> SummarizationParams:
    seed = chosen.pop("seed", None)
    return SummarizationParams(
        method="abstractive", prompt=PROMPT, engine="vllm", generation=Generation(**chosen), seed=seed
    )  # fmt: skip


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_worker_without_the_package_names_the_extra(load: Callable[..., Loaded]) -> None:
    loaded = load("llama")
    with pytest.raises(ModelFault, match=r"\[worker,vllm\]"):
        load_engine(loaded.info, Task.SUMMARIZATION, summarize(), loaded.device)


@pytest.mark.usefixtures("peer")
def test_prompts_and_limits_are_those_of_the_other_engine(load: Callable[..., Loaded]) -> None:
    loaded = load("llama")
    engine: Any = load_engine(loaded.info, Task.SUMMARIZATION, summarize(), loaded.device)

    results = run(engine, documents_of(*TEXTS), summarize(do_sample=False, max_new_tokens=9))

    prompts = [PROMPT.replace("{text}", text) for text in TEXTS]
    assert said(results) == loaded.plain(prompts, do_sample=False, max_new_tokens=9)
    assert [(one.temperature, one.max_tokens) for one in LLM.asked] == [(0.0, 9)] * 3
    assert engine.runtime["engine"] == "vllm"
    assert engine.weight_bytes > 10_000


@pytest.mark.usefixtures("peer")
def test_sampling_is_asked_for_in_its_words_with_a_seed_for_each_document(load: Callable[..., Loaded]) -> None:
    loaded = load("llama")
    engine: Any = load_engine(loaded.info, Task.SUMMARIZATION, summarize(), loaded.device)
    chosen = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "min_new_tokens": 2, "repetition_penalty": 1.1}

    run(engine, documents_of(TEXTS[0]), summarize(seed=5, max_new_tokens=4, **chosen))

    assert LLM.asked == [
        SamplingParams(
            temperature=0.7, top_k=50, top_p=0.9, seed=5, max_tokens=4, min_tokens=2, repetition_penalty=1.1,
            stop_token_ids=[2], detokenize=False,
        )
    ]  # fmt: skip
