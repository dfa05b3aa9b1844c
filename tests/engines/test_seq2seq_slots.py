"""The sequence-to-sequence engine on its slots: shard after shard, what it records, and when it keeps to generate()."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from corpusmill.errors import ModelFault
from corpusmill.tasks import Generation, SummarizationParams, TranslationParams
from tests.loaded_seq2seq import Loaded, documents_of, loader, run, said
from tests.tiny_seq2seq import text
from worker.engines.base import StreamingEngine, Usage, Work
from worker.engines.decoding.families import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses:UserWarning")

SHORT = TranslationParams(generation=Generation(max_new_tokens=8))


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    return loader(tmp_path_factory.mktemp("models"))


def work_of(loaded: Loaded, texts: list[str], stopped: Callable[[], bool] = lambda: False) -> Work[Any]:
    usage = Usage()
    return Work(loaded.engine.prepare(documents_of(*texts), SHORT, usage), usage, stopped)


def test_the_next_shard_takes_the_slots_that_the_last_documents_of_one_leave(load: Callable[[str], Loaded]) -> None:
    loaded = load("marian")
    assert isinstance(loaded.engine, StreamingEngine)
    shards = [[text(2 + (seed * 7) % 20, seed) for seed in range(start, start + 12)] for start in (0, 50, 90)]
    expected = [said(loaded.run(documents_of(*texts), SHORT)) for texts in shards]
    first, *others = [work_of(loaded, texts) for texts in shards]
    works = [first, *others]
    results: dict[int, list[Any]] = {id(work): [] for work in works}
    ended: list[Any] = []
    taken_early = []

    def more() -> Work[Any] | None:
        if not others:
            return None
        taken_early.append(len(ended) < len(works) - len(others))
        return others.pop(0)

    for step in loaded.engine.stream(first, more):
        assert step.work not in ended
        results[id(step.work)] += step.results
        ended += [step.work] if step.ended else []

    assert len(ended) == 3
    assert any(taken_early), "a shard is taken up while another one is still running"
    for work, texts in zip(works, expected, strict=True):
        assert said(sorted(results[id(work)], key=lambda result: result.position)) == texts
    total = Usage()
    for work in works:
        assert work.usage.generated_tokens > 0
        total.slot_steps += work.usage.slot_steps
        total.busy_slot_steps += work.usage.busy_slot_steps
    assert total.busy_slot_steps == total.slot_steps > 0


def test_a_shard_that_is_stopped_ends_and_the_one_beside_it_goes_on(load: Callable[[str], Loaded]) -> None:
    loaded = load("marian")
    texts = [text(3 + seed % 9, seed) for seed in range(10)]
    expected = said(loaded.run(documents_of(*texts), SHORT))
    both: list[Any] = []
    first = work_of(loaded, texts, stopped=lambda: bool(both))
    second = work_of(loaded, texts)
    waiting = [second]

    def more() -> Work[Any] | None:
        both.extend(waiting)
        return waiting.pop() if waiting else None

    results: list[Any] = []
    ended = []
    for step in loaded.engine.stream(first, more):
        results += step.results if step.work is second else []
        ended += [step.work] if step.ended else []

    assert ended == [first, second]
    assert said(sorted(results, key=lambda result: result.position)) == expected


def test_a_model_that_slots_do_not_know_is_run_by_generate_and_says_why(
    load: Callable[[str], Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load("bart")
    texts = [text(words, words) for words in (2, 11, 5)]
    params = SummarizationParams(generation=Generation(max_new_tokens=8, min_length=3))
    expected = said(loaded.run(documents_of(*texts), params))
    assert loaded.engine.runtime["engine"] == "slots"
    assert "fallback" not in loaded.engine.runtime

    monkeypatch.delitem(FAMILIES, "BartForConditionalGeneration")
    engine = loaded.another_engine()
    usage = Usage()

    assert said(run(engine, documents_of(*texts), params, usage)) == expected
    assert engine.runtime["engine"] == "generate"
    assert "BartForConditionalGeneration" in engine.runtime["fallback"]
    assert usage.slot_steps == 0


def test_settings_that_slots_do_not_decode_are_run_by_generate_for_that_job_alone(
    load: Callable[[str], Loaded],
) -> None:
    loaded = load("marian")
    texts = [text(words, words) for words in (4, 9)]
    sampled = Generation(num_beams=2, do_sample=True, max_new_tokens=6)
    engine = loaded.another_engine()

    run(engine, documents_of(*texts), TranslationParams(generation=sampled, seed=3))
    assert engine.runtime["engine"] == "generate"
    assert "num_beams with do_sample" in engine.runtime["fallback"]
    run(engine, documents_of(*texts), SHORT)
    assert engine.runtime["engine"] == "slots"


def test_a_setting_of_the_model_that_slots_do_not_know_is_kept(load: Callable[[str], Loaded]) -> None:
    loaded = load("bart")
    texts = [text(words, words) for words in (12, 6)]
    loaded.model.generation_config.encoder_no_repeat_ngram_size = 2
    try:
        plain = [loaded.model.generate(**loaded.tokenizer(one, return_tensors="pt"))[0] for one in texts]
        results = loaded.run(documents_of(*texts), SummarizationParams())
    finally:
        loaded.model.generation_config.encoder_no_repeat_ngram_size = None
    assert said(results) == [loaded.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in plain]
    assert "encoder_no_repeat_ngram_size" in loaded.engine.runtime["fallback"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["t5-gated", "pegasus"])
def test_halves_are_decoded_in_slots_too(kind: str, dtype: torch.dtype, load: Callable[[str], Loaded]) -> None:
    from worker.engines.seq2seq import Seq2SeqEngine
    from worker.models.loading import load_model

    loaded = load(kind)
    model, tokenizer = load_model(loaded.info, loaded.device, dtype)
    engine = Seq2SeqEngine(model, tokenizer, loaded.info, loaded.device, dtype)
    params = SummarizationParams(generation=Generation(max_new_tokens=6))

    results = run(engine, documents_of(*[text(words, words) for words in (3, 8)]), params)

    assert engine.runtime["engine"] == "slots", engine.runtime.get("fallback")
    assert all(result.error is None for result in results)


def test_a_token_that_the_model_does_not_know_is_the_models_fault(load: Callable[[str], Loaded]) -> None:
    loaded = load("marian")
    engine = loaded.another_engine()
    engine._embeddings = 20
    with pytest.raises(ModelFault, match="the model knows 20"):
        engine.prepare(documents_of(text(12, 1)), SHORT, Usage())


def test_a_prefix_of_its_own_goes_with_languages_that_are_filled_in(load: Callable[[str], Loaded]) -> None:
    loaded = load("t5")
    params = TranslationParams(prefix="say it: ", source_lang="en", target_lang="de", generation=SHORT.generation)

    (result,) = loaded.run(documents_of("The cat runs."), params)

    tokens = loaded.model.generate(**loaded.tokenizer("say it: The cat runs.", return_tensors="pt"), max_new_tokens=8)
    assert said([result]) == [loaded.tokenizer.decode(tokens[0], skip_special_tokens=True)]
