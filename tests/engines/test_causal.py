"""Summaries and translations by a causal model: the tokens of `generate()` on each prompt alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import check
from corpusmill.errors import ModelFault
from corpusmill.prompts import parse
from corpusmill.tasks import (
    ClassificationParams,
    Generation,
    SummarizationParams,
    Task,
    TranslationParams,
    parse_params,
)
from tests.loaded_causal import Loaded, loader, run
from tests.loaded_seq2seq import documents_of, said
from tests.tiny_causal import KINDS, words
from worker.engines.base import Usage
from worker.engines.causal import continuous
from worker.engines.causal.prompting import ChatTokenizer, PromptEncoder
from worker.models.table import load_engine

TEXTS = [words(count, count) for count in (3, 28, 9, 1, 17, 40, 5)]
PROMPT = "Summarize: {text}\nText:"
PROMPTS = [PROMPT.replace("{text}", text) for text in TEXTS]
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 14}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Loaded]:
    return loader(tmp_path_factory.mktemp("models"))


def summarize(prompt: str = PROMPT, **chosen: Any) -> SummarizationParams:
    seed = chosen.pop("seed", None)
    return SummarizationParams(prompt=prompt, generation=Generation(**chosen), seed=seed)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_mixed_lengths_say_what_each_prompt_alone_is_answered(
    kind: str, load: Callable[..., Loaded]
) -> None:
    loaded, usage = load(kind), Usage()
    engine = loaded.engine()

    results = run(engine, documents_of(*TEXTS), summarize(**GREEDY), usage)

    assert said(results) == loaded.plain(PROMPTS, **GREEDY)
    assert len(set(said(results))) > 2, "the model tells texts apart"
    assert [result.n_tokens for result in results] == [loaded.prompt_ids(prompt).shape[1] for prompt in PROMPTS]
    assert 1 < usage.batches < len(TEXTS)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_whatever_shares_a_batch_each_text_has_the_answer_that_it_has_alone(
    data: st.DataObject, load: Callable[..., Loaded]
) -> None:
    loaded = load("llama")
    sampling = data.draw(st.booleans())
    chosen = {"do_sample": True, "max_new_tokens": 7, "temperature": 1.2} if sampling else GREEDY
    drawn = data.draw(st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=7))

    results = run(loaded.engine(), documents_of(*[TEXTS[one] for one in drawn]), summarize(seed=3, **chosen))

    assert said(results) == loaded.plain([PROMPTS[one] for one in drawn], seed=3, **chosen)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
def test_continuous_batching_says_the_same(kind: str, load: Callable[..., Loaded]) -> None:
    loaded, usage = load(kind), Usage()
    engine = loaded.engine(continuous=True)
    texts = [*TEXTS, *(words(60, seed) for seed in range(6))]  # more than one pass of the model holds

    results = run(engine, documents_of(*texts), summarize(**GREEDY), usage)

    assert said(results) == loaded.plain([PROMPT.replace("{text}", text) for text in texts], **GREEDY)
    assert (engine.runtime["engine"], engine.runtime["fallback"]) == ("continuous-batching", None)
    assert usage.padded_tokens == usage.tokens


def test_a_model_with_local_attention_says_the_same_by_whichever_way_its_trial_allows(
    load: Callable[..., Loaded],
) -> None:
    loaded = load("gemma2")
    texts = [words(count, count) for count in (12, 30, 21, 34)]  # above its window of 24 tokens

    results = run(loaded.engine(continuous=None), documents_of(*texts), summarize("{text}", **GREEDY))

    assert said(results) == loaded.plain(texts, **GREEDY)


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_a_model_that_continuous_batching_would_change_is_found_when_it_is_loaded(
    kind: str, load: Callable[..., Loaded]
) -> None:
    loaded = load(kind)
    attention = loaded.model.config._attn_implementation

    engine = loaded.engine(continuous=None)

    assert engine.runtime["engine"] == "generate"
    assert engine.runtime["fallback"]
    assert loaded.model.config._attn_implementation == attention, "the model is left as it was"


@pytest.mark.parametrize(
    "chosen",
    [
        {"num_beams": 3, "max_new_tokens": 8, "length_penalty": 2.0},
        {"num_beams": 2, "max_length": 80},
        {"repetition_penalty": 1.7, "max_new_tokens": 8},
        {"no_repeat_ngram_size": 1, "max_new_tokens": 8},
        {"min_new_tokens": 9, "max_new_tokens": 12},
        {"max_length": 80},
        {"min_length": 24, "max_new_tokens": 20},
        {"max_length": 80, "max_new_tokens": 6},
    ],
    ids=",".join,
)
def test_settings_mean_what_they_mean_to_generate(chosen: dict[str, Any], load: Callable[..., Loaded]) -> None:
    loaded = load("llama")
    engine = loaded.engine(continuous=None)
    texts = [words(count, count) for count in (3, 9, 1, 6)]

    results = run(engine, documents_of(*texts), summarize("{text}", do_sample=False, **chosen))

    assert said(results) == loaded.plain(texts, do_sample=False, **chosen)
    simple = set(chosen) <= {"max_length", "max_new_tokens"}
    assert engine.runtime["engine"] == ("continuous-batching" if simple else "generate")
    assert (engine.runtime["fallback"] is None) == simple


@pytest.mark.parametrize("chosen", [{"temperature": 1.4, "top_k": 20}, {"top_p": 0.8}, {"num_beams": 2}])
def test_sampled_texts_are_those_of_the_seed_alone_whatever_shares_the_batch(
    chosen: dict[str, Any], load: Callable[..., Loaded]
) -> None:
    loaded, usage = load("qwen2"), Usage()
    sampling = {"do_sample": True, "max_new_tokens": 8, **chosen}

    results = run(loaded.engine(), documents_of(*TEXTS), summarize(seed=11, **sampling), usage)

    assert said(results) == loaded.plain(PROMPTS, seed=11, **sampling)
    assert (usage.batches < len(TEXTS)) == ("num_beams" not in chosen)


def test_what_a_job_leaves_out_comes_from_the_models_own_settings(load: Callable[..., Loaded]) -> None:
    loaded = load("llama", do_sample=True, temperature=1.3, max_new_tokens=9, repetition_penalty=1.2)

    results = run(loaded.engine(), documents_of(*TEXTS), summarize(seed=4))

    assert said(results) == loaded.plain(PROMPTS, seed=4)
    assert said(run(loaded.engine(), documents_of(*TEXTS), summarize(do_sample=False))) == loaded.plain(
        PROMPTS, do_sample=False
    )


def test_an_output_that_the_limit_ended_says_so(load: Callable[..., Loaded]) -> None:
    loaded = load("llama")
    for continuously in (True, False):
        results = run(loaded.engine(continuous=continuously), documents_of(*TEXTS), summarize(**GREEDY))
        cut = ["cut" in (result.output or {}) for result in results]
        ended = []
        for prompt in PROMPTS:
            ids = loaded.prompt_ids(prompt)
            row = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **GREEDY)[0]
            ended.append(int(row[-1]) == loaded.model.generation_config.eos_token_id)
        assert cut == [not one for one in ended]
        assert set(cut) == {True, False}


def test_a_translation_is_told_its_languages(load: Callable[..., Loaded]) -> None:
    loaded = load("qwen2")
    prompt = "{source_lang}>{target_lang}: {text} {braces}".replace("{braces}", "{{text}}")
    params = TranslationParams(
        prompt=prompt, source_lang="English", target_lang="German", generation=Generation(**GREEDY)
    )

    results = run(loaded.engine(), documents_of(*TEXTS), params)

    assert said(results) == loaded.plain([f"English>German: {text} {{text}}" for text in TEXTS], **GREEDY)
    assert all("translation" in (result.output or {}) for result in results)


def test_the_tasks_own_prompt_is_used_where_none_is_given(load: Callable[..., Loaded]) -> None:
    loaded = load("qwen2")
    params = TranslationParams(target_lang="German", generation=Generation(**GREEDY))
    asked = (
        "Translate the following text to German. Answer with the translation and nothing else.\n\n"
        f"Text:\n{TEXTS[0]}\n\nTranslation:"
    )
    assert said(run(loaded.engine(), documents_of(TEXTS[0]), params)) == loaded.plain([asked], **GREEDY)


@pytest.mark.parametrize("text", ["{text}", "{labels} {0} {", "a } b {{x}}", "%s {!r}", "{{ messages }} {% if %}"])
def test_a_text_with_braces_passes_through_unharmed(text: str, load: Callable[..., Loaded]) -> None:
    loaded = load("qwen2")
    assert said(run(loaded.engine(), documents_of(text), summarize(**GREEDY))) == loaded.plain(
        [PROMPT.replace("{text}", text)], **GREEDY
    )


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
def test_a_text_that_spells_a_special_token_does_not_give_the_model_that_token(
    kind: str, load: Callable[..., Loaded]
) -> None:
    loaded = load(kind)
    special = loaded.tokenizer.eos_token
    encoder = PromptEncoder(ChatTokenizer(loaded.tokenizer, kind), parse(PROMPT), {})

    honest, hostile = encoder.encode(["a room", f"a room{special}\n and more"])

    count = loaded.tokenizer.eos_token_id
    assert honest == loaded.prompt_ids(PROMPT.replace("{text}", "a room"))[0].tolist()
    assert hostile.count(count) == honest.count(count)
    assert special in loaded.tokenizer.decode(hostile).replace("▁", " ")


def test_a_chat_template_that_cannot_be_used_fails_the_job(load: Callable[..., Loaded]) -> None:
    loaded = load("qwen2")
    kept = loaded.tokenizer.chat_template
    loaded.tokenizer.chat_template = "{{ raise_exception('no user here') }}"
    try:
        with pytest.raises(ModelFault, match="no user here"):
            loaded.engine().prepare(documents_of("x"), summarize(), Usage())
    finally:
        loaded.tokenizer.chat_template = kept


def test_a_request_that_fails_runs_in_a_sorted_batch_and_the_record_says_why(
    load: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load("llama")
    engine = loaded.engine(continuous=True)
    model = engine._model
    forward = model.forward
    calls: list[int] = []

    def failing(*args: Any, **given: Any) -> Any:
        calls.append(1)
        if len(calls) == 4 and given.get("attention_mask") is not None:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return forward(*args, **given)

    monkeypatch.setattr(model, "forward", failing)
    results = run(engine, documents_of(*TEXTS), summarize(**GREEDY))

    assert said(results) == loaded.plain(PROMPTS, **GREEDY)
    assert engine.runtime["engine"] == "generate"
    assert "out of memory" in engine.runtime["fallback"]


@pytest.mark.parametrize("continuously", [True, False])
def test_a_shard_that_is_stopped_ends_early(continuously: bool, load: Callable[..., Loaded]) -> None:
    engine = load("llama").engine(continuous=continuously)
    usage = Usage()
    documents = documents_of(*[words(12, seed) for seed in range(40)])
    prepared = engine.prepare(documents, summarize(**GREEDY), usage)
    results: list[Any] = []

    def stopped() -> bool:
        return len(results) > 4

    for batch in engine.run(prepared, usage, stopped):
        results += batch

    assert 4 < len(results) < 40
    assert len(run(engine, documents, summarize(**GREEDY))) == 40, "the engine runs the next shard as ever"


@pytest.mark.parametrize(
    ("task", "raw", "engine"),
    [
        (Task.SUMMARIZATION, {}, "continuous-batching"),
        (Task.TRANSLATION, {"target_lang": "German"}, "continuous-batching"),
        (Task.CLASSIFICATION, {"labels": ["good", "bad"]}, "label-likelihoods"),
    ],
)
def test_a_worker_loads_the_engine_of_the_task_and_its_record_is_json(
    task: Task, raw: dict[str, Any], engine: str, load: Callable[..., Loaded]
) -> None:
    loaded = load("llama")
    params = check(loaded.info, task, parse_params(task, raw))

    loaded_again = load_engine(loaded.info, task, params, loaded.device)

    assert json.loads(json.dumps(loaded_again.runtime)) == loaded_again.runtime
    assert loaded_again.runtime["engine"] == engine


def test_an_engine_that_generates_takes_no_other_task(load: Callable[..., Loaded]) -> None:
    with pytest.raises(ModelFault, match="to generate text"):
        load("llama").engine().prepare([], ClassificationParams(labels=("a", "b")), Usage())


def test_settings_that_continuous_batching_does_not_know_are_named(load: Callable[..., Loaded]) -> None:
    engine = load("llama").engine(continuous=True)

    def why(**chosen: Any) -> str | None:
        prepared = engine.prepare(documents_of("x"), summarize(**chosen), Usage())
        return continuous.unsuited(prepared.settings, engine._model)

    assert why(do_sample=False) is None
    assert "seed" in (why(do_sample=True) or "")
    assert "beam" in (why(do_sample=False, num_beams=2) or "")
    assert "least length" in (why(do_sample=False, min_new_tokens=2) or "")
    assert "RepetitionPenaltyLogitsProcessor" in (why(do_sample=False, repetition_penalty=1.1) or "")
