"""Whether a model can do what a job asks of it, and which parameters are then in force."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import check
from catalog.resolution import ECHO
from corpusmill.errors import InvalidRequest, UnsuitableModel
from corpusmill.models import ModelInfo
from corpusmill.tasks import ClassificationParams, SummarizationParams, Task, TranslationParams, parse_params

ONE_LABEL = ModelInfo(
    id="one", revision="r", family="sequence-classification", tasks=(Task.CLASSIFICATION,), labels=("a", "b")
)
SEVERAL = ModelInfo(
    id="several", revision="r", family="sequence-classification", tasks=(Task.CLASSIFICATION,), multi_label=True
)
ENCODER = ModelInfo(
    id="encoder", revision="r", family="sentence-encoder", tasks=(Task.SUMMARIZATION,), architecture="BertModel"
)
MARIAN = ModelInfo(
    id="marian", revision="r", family="seq2seq", tasks=(Task.TRANSLATION,), source_langs=("en",), target_langs=("de",)
)
NAMELESS = ModelInfo(id="bart", revision="r", family="seq2seq", tasks=(Task.SUMMARIZATION, Task.TRANSLATION))
MANY = ModelInfo(
    id="nllb", revision="r", family="seq2seq", tasks=(Task.TRANSLATION,),
    source_langs=("deu_Latn", "eng_Latn", "fra_Latn"), target_langs=("deu_Latn", "eng_Latn", "fra_Latn"),
)  # fmt: skip
T5 = ModelInfo(
    id="t5", revision="r", family="seq2seq", tasks=(Task.SUMMARIZATION, Task.TRANSLATION),
    source_langs=("en",), target_langs=("de", "fr"),
    prefixes=(
        ("summarization", "summarize: "), ("translation_en_to_de", "to German: "), ("translation_en_to_fr", "à: "),
    ),
)  # fmt: skip
CAUSAL = ModelInfo(
    id="chat", revision="r", family="causal", tasks=tuple(Task), architecture="LlamaForCausalLM"
)  # fmt: skip


def classify(info: ModelInfo, **raw: Any) -> ClassificationParams:
    params = check(info, Task.CLASSIFICATION, parse_params(Task.CLASSIFICATION, raw))
    assert isinstance(params, ClassificationParams)
    return params


def summarize(info: ModelInfo, **raw: Any) -> SummarizationParams:
    params = check(info, Task.SUMMARIZATION, parse_params(Task.SUMMARIZATION, raw))
    assert isinstance(params, SummarizationParams)
    return params


def translate(info: ModelInfo, **raw: Any) -> TranslationParams:
    params = check(info, Task.TRANSLATION, parse_params(Task.TRANSLATION, raw))
    assert isinstance(params, TranslationParams)
    return params


def faults(refused: pytest.ExceptionInfo[InvalidRequest]) -> dict[str, str]:
    return {fault.pointer: fault.message for fault in refused.value.faults}


def test_a_task_that_the_model_cannot_do_is_refused_with_those_it_can() -> None:
    with pytest.raises(UnsuitableModel, match=r"one .* cannot do translation; it can do classification") as refused:
        translate(ONE_LABEL)
    assert "/task" in faults(refused)


def test_a_delay_is_for_echo_only() -> None:
    assert classify(ECHO, delay_ms=5).delay_ms == 5
    with pytest.raises(InvalidRequest) as refused:
        classify(ONE_LABEL, delay_ms=5)
    assert "/params/delay_ms" in faults(refused)


def test_echo_takes_any_parameters_of_its_task() -> None:
    assert summarize(ECHO, method="extractive").method == "extractive"
    assert translate(ECHO, source_lang="xx", target_lang="yy").target_lang == "yy"


def test_a_model_of_several_labels_gives_several_unless_told_not_to() -> None:
    assert (classify(SEVERAL).multi_label, classify(SEVERAL).threshold) == (True, 0.5)
    assert not classify(SEVERAL, multi_label=False).multi_label


def test_a_model_of_one_label_gives_one_unless_told_otherwise() -> None:
    assert not classify(ONE_LABEL).multi_label
    assert classify(ONE_LABEL, multi_label=True).threshold == 0.5


def test_the_method_follows_from_the_architecture() -> None:
    assert summarize(ENCODER).method == "extractive"
    assert summarize(NAMELESS).method == "abstractive"
    for info, method in ((ENCODER, "abstractive"), (NAMELESS, "extractive")):
        with pytest.raises(InvalidRequest) as refused:
            summarize(info, method=method)
        assert "/params/method" in faults(refused)


def test_what_has_no_use_for_the_method_is_refused_and_not_passed_over() -> None:
    with pytest.raises(InvalidRequest) as refused:
        summarize(ENCODER, generation={"num_beams": 4}, prefix="x", seed=1)
    assert set(faults(refused)) == {"/params/generation", "/params/prefix", "/params/seed"}
    with pytest.raises(InvalidRequest) as refused:
        summarize(NAMELESS, max_sentences=7)
    assert set(faults(refused)) == {"/params/max_sentences"}


def test_the_one_language_pair_of_a_model_is_put_in_force() -> None:
    params = translate(MARIAN)
    assert (params.source_lang, params.target_lang) == ("en", "de")
    assert translate(MARIAN, target_lang="de").target_lang == "de"


def test_a_model_of_several_languages_asks_for_both() -> None:
    with pytest.raises(InvalidRequest) as refused:
        translate(MANY)
    assert set(faults(refused)) == {"/params/source_lang", "/params/target_lang"}
    assert "deu_Latn, eng_Latn" in faults(refused)["/params/target_lang"]
    assert translate(MANY, source_lang="eng_Latn", target_lang="deu_Latn").source_lang == "eng_Latn"


def test_an_unknown_language_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidRequest) as refused:
        translate(MANY, source_lang="eng_Latn", target_lang="deu_latin")
    assert set(faults(refused)) == {"/params/target_lang"}
    assert "Did you mean deu_Latn?" in faults(refused)["/params/target_lang"]
    with pytest.raises(InvalidRequest) as refused:
        translate(MARIAN, target_lang="fr")
    assert "Did you mean de?" in faults(refused)["/params/target_lang"]


def test_a_language_for_a_model_that_names_none_is_refused() -> None:
    assert translate(NAMELESS).target_lang is None
    with pytest.raises(InvalidRequest) as refused:
        translate(NAMELESS, target_lang="de")
    assert "leave it out" in faults(refused)["/params/target_lang"]


def test_t5_is_told_the_task_by_its_own_prefix() -> None:
    assert summarize(T5).prefix == "summarize: "
    assert summarize(T5, prefix="").prefix == ""
    assert translate(T5, source_lang="en", target_lang="de").prefix == "to German: "
    assert translate(T5, prefix="translate: ").source_lang is None


def test_t5_asks_for_a_pair_that_it_knows() -> None:
    with pytest.raises(InvalidRequest) as refused:
        translate(T5)
    assert set(faults(refused)) == {"/params/source_lang", "/params/target_lang"}
    assert "en to de, en to fr" in faults(refused)["/params/target_lang"]
    with pytest.raises(InvalidRequest) as refused:
        translate(T5, source_lang="en", target_lang="ru")
    assert set(faults(refused)) == {"/params/target_lang"}


@given(
    info=st.sampled_from([ECHO, MARIAN, NAMELESS, MANY, T5]),
    raw=st.fixed_dictionaries(
        {},
        optional={
            "source_lang": st.sampled_from(["en", "eng_Latn", "xx"]),
            "target_lang": st.sampled_from(["de", "fr", "deu_Latn", "yy"]),
            "prefix": st.sampled_from(["", "say: "]),
        },
    ),
)
def test_parameters_in_force_stay_as_they_are_when_checked_again(info: ModelInfo, raw: dict[str, Any]) -> None:
    try:
        params = translate(info, **raw)
    except InvalidRequest:
        return
    again = parse_params(Task.TRANSLATION, params.model_dump(mode="json"))
    assert check(info, Task.TRANSLATION, again) == params


@given(info=st.sampled_from([ECHO, ONE_LABEL, SEVERAL]), several=st.sampled_from([None, True, False]))
def test_classification_parameters_in_force_stay_as_they_are(info: ModelInfo, several: bool | None) -> None:
    params = classify(info, **({} if several is None else {"multi_label": several}))
    again = parse_params(Task.CLASSIFICATION, params.model_dump(mode="json"))
    assert check(info, Task.CLASSIFICATION, again) == params


def test_summarization_parameters_in_force_stay_as_they_are() -> None:
    for info in (ECHO, ENCODER, NAMELESS, T5):
        params = summarize(info)
        again = parse_params(Task.SUMMARIZATION, params.model_dump(mode="json"))
        assert check(info, Task.SUMMARIZATION, again) == params


def test_a_causal_model_is_told_its_labels_and_other_models_have_their_own() -> None:
    params = classify(CAUSAL, labels=["a", "b"])
    assert params.labels == ("a", "b")
    assert "{labels}" in (params.prompt or "")
    with pytest.raises(InvalidRequest) as refused:
        classify(CAUSAL, multi_label=True)
    assert set(faults(refused)) == {"/params/labels", "/params/multi_label"}
    for info in (ONE_LABEL, ECHO):
        with pytest.raises(InvalidRequest) as refused:
            classify(info, labels=["a", "b"])
        assert "has labels of its own" in faults(refused)["/params/labels"]


def test_a_prompt_is_for_causal_models_only() -> None:
    for ask, info in ((classify, ONE_LABEL), (summarize, T5), (summarize, ENCODER), (translate, NAMELESS)):
        with pytest.raises(InvalidRequest) as refused:
            ask(info, prompt="{text}")
        assert "takes no prompt" in faults(refused)["/params/prompt"]
    assert summarize(ECHO, prompt="{text}").prompt == "{text}"


def test_a_causal_model_is_asked_by_its_prompt_alone() -> None:
    assert summarize(CAUSAL).method == "abstractive"
    assert "{text}" in (summarize(CAUSAL).prompt or "")
    with pytest.raises(InvalidRequest) as refused:
        summarize(CAUSAL, prefix="x", max_sentences=5)
    assert set(faults(refused)) == {"/params/prefix", "/params/max_sentences"}
    with pytest.raises(InvalidRequest) as refused:
        summarize(CAUSAL, method="extractive")
    assert set(faults(refused)) == {"/params/method"}


@pytest.mark.parametrize(
    ("raw", "refused_at"),
    [
        ({}, {"/params/target_lang"}),
        ({"target_lang": "German"}, set()),
        ({"source_lang": "English", "target_lang": "German"}, set()),
        ({"source_lang": "English"}, {"/params/target_lang"}),
        ({"prompt": "In plain words: {text}"}, set()),
        ({"prompt": "In plain words: {text}", "source_lang": "English"}, set()),
        ({"prompt": "In plain words: {text}", "target_lang": "German"}, {"/params/target_lang"}),
        ({"prompt": "{source_lang}? {text}"}, {"/params/source_lang"}),
    ],
)
def test_a_prompt_that_names_languages_is_given_them(raw: dict[str, Any], refused_at: set[str]) -> None:
    if refused_at:
        with pytest.raises(InvalidRequest) as refused:
            translate(CAUSAL, **raw)
        assert set(faults(refused)) == refused_at
    else:
        prompt = translate(CAUSAL, **raw).prompt or ""
        assert ("{source_lang}" in prompt) == ("source_lang" in raw and "prompt" not in raw)


def test_vllm_is_for_text_by_causal_models_and_for_what_it_can_do() -> None:
    assert summarize(CAUSAL, engine="vllm", generation={"num_beams": 1, "top_p": 0.5}).engine == "vllm"
    for ask, info, raw, pointer in (
        (summarize, NAMELESS, {}, "/params/engine"),
        (summarize, ECHO, {}, "/params/engine"),
        (classify, CAUSAL, {"labels": ["a", "b"]}, "/params/engine"),
        (summarize, CAUSAL, {"generation": {"num_beams": 2}}, "/params/generation/num_beams"),
        (summarize, CAUSAL, {"generation": {"no_repeat_ngram_size": 3}}, "/params/generation/no_repeat_ngram_size"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            ask(info, engine="vllm", **raw)
        assert set(faults(refused)) == {pointer}


def test_compiled_layers_are_for_sequence_classifiers() -> None:
    assert classify(ONE_LABEL, engine="compiled").engine == "compiled"
    for ask, info, raw in ((translate, MARIAN, {}), (classify, CAUSAL, {"labels": ["a", "b"]}), (summarize, ECHO, {})):
        with pytest.raises(InvalidRequest) as refused:
            ask(info, engine="compiled", **raw)
        assert set(faults(refused)) == {"/params/engine"}


@pytest.mark.parametrize(
    ("ask", "raw"),
    [
        (classify, {"labels": ["a", "b"]}),
        (summarize, {}),
        (translate, {"target_lang": "German"}),
        (translate, {"source_lang": "English", "target_lang": "German"}),
    ],
)
def test_a_causal_models_parameters_in_force_stay_as_they_are(ask: Any, raw: dict[str, Any]) -> None:
    params = ask(CAUSAL, **raw)
    assert ask(CAUSAL, **params.model_dump(mode="json")) == params
