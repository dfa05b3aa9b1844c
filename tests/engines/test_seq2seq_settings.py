"""Which generation settings and languages are in force, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from corpusmill.errors import ModelFault
from corpusmill.tasks import ClassificationParams, Generation, SummarizationParams, Task, TranslationParams
from tests.loaded_seq2seq import Asked, Loaded, documents_of, loader, said
from tests.tiny_seq2seq import POSITIONS, text
from worker.engines.base import Usage
from worker.engines.generation import Settings, default_new_tokens, settings_of
from worker.engines.languages import direction_of, language_ids
from worker.engines.sources import Frame

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses:UserWarning")

TEXTS = [text(words, words) for words in (3, 12, 6)]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    return loader(tmp_path_factory.mktemp("models"))


def in_force(loaded: Loaded, **chosen: Any) -> Settings:
    return settings_of(loaded.model, SummarizationParams(generation=Generation(**chosen)), {}, POSITIONS)


def test_what_a_job_leaves_out_comes_from_the_models_own_settings(load: Callable[[str], Loaded]) -> None:
    loaded = load("bart")  # min_length, no_repeat_ngram_size, forced_bos and forced_eos are in its generation_config
    plain = loaded.plain(TEXTS, Asked(SummarizationParams()))

    results = loaded.run(documents_of(*TEXTS), SummarizationParams())

    assert said(results) == [loaded.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in plain]
    assert [bool((result.output or {}).get("cut")) for result in results] == [len(tokens) == 40 for tokens in plain]
    assert loaded.model.generation_config.max_length == 40, "the model's own settings are left as they are"


@pytest.mark.parametrize(
    "chosen",
    [
        {"max_new_tokens": 7},
        {"max_length": 9},
        {"max_length": 30, "max_new_tokens": 8},
        {"min_new_tokens": 12},
        {"min_length": 3, "min_new_tokens": 12, "max_new_tokens": 14},
        {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never", "max_new_tokens": 12},
        {"num_beams": 2, "early_stopping": False, "repetition_penalty": 1.3, "max_new_tokens": 12},
    ],
    ids=",".join,
)
def test_settings_clash_as_they_do_in_generate(chosen: dict[str, Any], load: Callable[[str], Loaded]) -> None:
    loaded = load("bart")
    plain = loaded.plain(TEXTS, Asked(SummarizationParams()), **chosen)

    results = loaded.run(documents_of(*TEXTS), SummarizationParams(generation=Generation(**chosen)))

    assert said(results) == [loaded.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in plain]


def test_a_model_that_states_no_length_is_not_cut_at_the_twenty_tokens_of_generate(
    load: Callable[[str], Loaded],
) -> None:
    loaded = load("t5")
    translate = TranslationParams(prefix="")
    stated = settings_of(loaded.model, translate, {}, None)
    assert stated.longest(10) == 40, "T5 states lengths by task"

    loaded.model.config.task_specific_params, kept = None, loaded.model.config.task_specific_params
    try:
        settings = settings_of(loaded.model, translate, {}, None)
    finally:
        loaded.model.config.task_specific_params = kept
    assert [settings.longest(tokens) - 1 for tokens in (1, 16, 17, 100)] == [64, 64, 128, 256]
    assert default_new_tokens(Task.SUMMARIZATION, 1_000) == 142


def test_outputs_never_go_beyond_the_models_positions(load: Callable[[str], Loaded]) -> None:
    assert in_force(load("bart"), max_new_tokens=5_000).longest(10) == POSITIONS


def test_a_length_that_leaves_no_room_is_refused(load: Callable[[str], Loaded]) -> None:
    with pytest.raises(ModelFault, match="counts the start token"):
        in_force(load("bart"), max_length=1)


def test_modes_that_need_code_from_elsewhere_are_refused(load: Callable[[str], Loaded]) -> None:
    loaded = load("bart")
    loaded.model.generation_config.penalty_alpha = 0.6
    try:
        with pytest.raises(ModelFault, match="penalty_alpha"):
            in_force(loaded)
    finally:
        loaded.model.generation_config.penalty_alpha = None


def test_sampling_gives_each_document_what_its_seed_gives_it_alone(load: Callable[[str], Loaded]) -> None:
    loaded = load("marian")
    chosen = {"do_sample": True, "temperature": 1.5, "top_k": 20, "max_new_tokens": 10}
    plain = []
    for one in TEXTS:
        torch.manual_seed(11)
        plain += loaded.plain([one], Asked(TranslationParams()), **chosen)
    params = TranslationParams(generation=Generation(**chosen), seed=11)

    results = loaded.run(documents_of(*TEXTS), params)

    assert said(results) == [loaded.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in plain]
    assert said(loaded.run(documents_of(*TEXTS), params)) == said(results)
    assert said(loaded.run(documents_of(*TEXTS), params.model_copy(update={"seed": 12}))) != said(results)
    unseeded = params.model_copy(update={"seed": None})
    assert said(loaded.run(documents_of(*TEXTS), unseeded)) == said(loaded.run(documents_of(*TEXTS), unseeded))


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        (
            "nllb",
            {"target_lang": "xyz_Latn"},
            "does not know the target_lang xyz_Latn: .* deu_Latn, eng_Latn, fra_Latn",
        ),
        ("nllb", {"source_lang": "en", "target_lang": "deu_Latn"}, "does not know the source_lang en"),
        ("nllb", {}, "several target languages: set target_lang to one of deu_Latn"),
        ("m2m100", {"target_lang": "deu"}, "does not know the target_lang deu"),
        ("marian-multi", {}, "set target_lang to one of deu, fra"),
        ("marian", {"target_lang": "fr"}, "has one target_lang, de, and fr was asked for"),
        ("t5", {}, "translates en to de, en to fr, and any to any is more than one of these"),
        ("t5", {"source_lang": "de", "target_lang": "en"}, "de to en is none of these"),
        ("bart", {"target_lang": "de"}, "states no languages to choose from"),
        ("t5", {"prefix": text(60, 1)}, "prefix has .* tokens"),
    ],
)
def test_a_direction_that_the_model_does_not_have_is_refused(
    kind: str, params: dict[str, Any], message: str, load: Callable[[str], Loaded]
) -> None:
    with pytest.raises(ModelFault, match=message):
        load(kind).engine.prepare(documents_of("A cat."), TranslationParams(**params), Usage())


def test_a_direction_is_told_in_the_models_own_way(load: Callable[[str], Loaded]) -> None:
    def told(kind: str, params: TranslationParams | SummarizationParams) -> tuple[str, dict[str, int], str]:
        loaded = load(kind)
        direction = direction_of(params, kind, loaded.model, loaded.tokenizer, loaded.engine._encoder.frame)
        return direction.prefix, dict(direction.generation), direction.language

    french = language_ids(load("nllb").tokenizer)["fra_Latn"]
    assert told("nllb", TranslationParams(source_lang="deu_Latn", target_lang="fra_Latn")) == (
        "", {"forced_bos_token_id": french}, "de",
    )  # fmt: skip
    assert told("mbart", TranslationParams()) == ("", {}, "en"), "it starts outputs with its one target language"
    assert told("t5", TranslationParams(target_lang="fr")) == ("translate English to French: ", {}, "en")
    assert told("t5", TranslationParams(prefix="say it: ")) == ("say it: ", {}, "en")
    assert told("t5", SummarizationParams()) == ("summarize: ", {}, "en")
    assert told("t5", SummarizationParams(prefix="")) == ("", {}, "en")
    assert told("marian-multi", TranslationParams(source_lang="spa", target_lang="deu")) == (">>deu<< ", {}, "es")
    assert told("marian", TranslationParams(source_lang="en", target_lang="de")) == ("", {}, "en")


def test_a_frame_changes_its_language_and_nothing_else() -> None:
    assert Frame((7,), (2,)).with_language(7, 9) == Frame((9,), (2,))
    assert Frame((), (2, 7)).with_language(7, 9).around([4, 7]) == [4, 7, 2, 9]


def test_the_engine_says_what_it_cannot_do_and_what_shaped_its_outputs(load: Callable[[str], Loaded]) -> None:
    loaded = load("bart")
    with pytest.raises(ModelFault, match="choose a classifier"):
        loaded.engine.prepare([], ClassificationParams(), Usage())
    with pytest.raises(ModelFault, match="sentence encoder"):
        loaded.engine.prepare([], SummarizationParams(method="extractive"), Usage())
    assert loaded.engine.weight_bytes > 4 * 10_000
    assert loaded.engine.runtime["dtype"] == "float32"
    assert loaded.engine.runtime["source_positions"] == POSITIONS
    assert loaded.engine.runtime["generation_config"]["no_repeat_ngram_size"] == 3
