"""What an engine says of a job before it runs is what it says afterwards, and whether outputs are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from corpusmill.documents import Document
from corpusmill.tasks import Generation, SummarizationParams, TranslationParams
from tests import loaded_causal, loaded_seq2seq
from tests.loaded_seq2seq import documents_of
from tests.tiny_causal import words
from tests.tiny_seq2seq import text
from worker.engines.base import RuntimeForParams, Usage
from worker.engines.measured import MeasuredEngine

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses:UserWarning")


@pytest.fixture(scope="module")
def seq2seq(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], loaded_seq2seq.Loaded]:
    return loaded_seq2seq.loader(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., loaded_causal.Loaded]:
    return loaded_causal.loader(tmp_path_factory.mktemp("models"))


def told(runtime: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in runtime.items() if name != "agreement"}


@pytest.mark.parametrize("generation", [{}, {"do_sample": True}, {"do_sample": True, "num_beams": 2}])
def test_a_translator_says_beforehand_how_it_will_run(
    seq2seq: Callable[[str], loaded_seq2seq.Loaded], generation: dict[str, Any]
) -> None:
    engine = seq2seq("marian").another_engine()
    params = TranslationParams(generation=Generation(**({"max_new_tokens": 6} | generation)), seed=1)
    before = engine.runtime_for(params)
    loaded_seq2seq.run(engine, documents_of(text(4, 4)), params)
    assert told(before) == told(engine.runtime)


@pytest.mark.parametrize("generation", [{}, {"do_sample": True}, {"num_beams": 2}])
def test_a_causal_model_says_beforehand_how_it_will_run(
    causal: Callable[..., loaded_causal.Loaded], generation: dict[str, Any]
) -> None:
    engine = causal("llama").engine()
    chosen = Generation(**({"do_sample": False, "max_new_tokens": 6} | generation))
    params = SummarizationParams(prompt="Say: {text}", generation=chosen, seed=1)
    before = engine.runtime_for(params)
    loaded_causal.run(engine, documents_of(words(5, 5)), params)
    assert told(before) == told(engine.runtime)


def test_an_engine_that_is_measured_says_the_same_without_its_agreement(
    seq2seq: Callable[[str], loaded_seq2seq.Loaded],
) -> None:
    loaded = seq2seq("marian")
    engine = MeasuredEngine(loaded.another_engine(), loaded.another_engine, {"dtype": "int8"})
    assert isinstance(engine, RuntimeForParams)
    params, usage = TranslationParams(generation=Generation(max_new_tokens=6)), Usage()
    before = engine.runtime_for(params)
    documents = [Document(position=0, id="0", text=text(4, 4))]
    for _ in engine.run(engine.prepare(documents, params, usage), usage, lambda: False):
        continue
    assert "agreement" in engine.runtime
    assert told(before) == told(engine.runtime)
    assert before["dtype"] == "int8"
