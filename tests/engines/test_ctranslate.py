"""CTranslate2 in the place of a model's own forward and `generate()`: outputs, settings, conversion, refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog, check
from corpusmill.documents import Document, Result
from corpusmill.errors import InvalidRequest, ModelFault
from corpusmill.models import ModelInfo
from corpusmill.tasks import Task, parse_params
from tests.tiny_models import make_classifier, texts_of
from tests.tiny_seq2seq import make, text
from worker.device import Device
from worker.engines.base import Engine, Usage
from worker.models.table import load_engine

pytest.importorskip("ctranslate2", reason="the extra ctranslate2 is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses:UserWarning")

CPU = Device(kind="cpu", batch_tokens=256)
CLASSIFIERS = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert")
LANGUAGES: dict[str, dict[str, str]] = {
    "t5": {"source_lang": "en", "target_lang": "de"},
    "t5-gated": {"source_lang": "en", "target_lang": "de"},
    "mbart": {"source_lang": "en_XX", "target_lang": "ro_RO"},
    "mbart50": {"source_lang": "en_XX", "target_lang": "ro_RO"},
    "m2m100": {"source_lang": "en", "target_lang": "de"},
    "nllb": {"source_lang": "eng_Latn", "target_lang": "deu_Latn"},
    "marian-multi": {"target_lang": "fra"},
}
GREEDY: list[dict[str, Any]] = [
    {"num_beams": 1},
    {"num_beams": 1, "max_new_tokens": 6},
    {"num_beams": 1, "min_new_tokens": 8, "no_repeat_ngram_size": 2},
]

Made = Callable[[str], ModelInfo]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("models")
    catalog = Catalog(root, "", root / "digests")

    @cache
    def one(kind: str) -> ModelInfo:
        (make_classifier if kind in CLASSIFIERS else _make)(root / kind, kind)
        return catalog.resolve(kind)

    return one


def _make(directory: Path, kind: str) -> Path:
    return make(kind, directory)


def run(
    info: ModelInfo, documents: list[Document], raw: dict[str, Any], store: Path | None = None
) -> tuple[Engine[Any], list[Result]]:
    task = info.tasks[-1]
    params = check(info, task, parse_params(task, raw))
    engine = load_engine(info, task, params, CPU, cache=store)
    prepared = engine.prepare(documents, params, Usage())
    results = [result for batch in engine.run(prepared, Usage(), lambda: False) for result in batch]
    return engine, sorted(results, key=lambda result: result.position)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifiers_scores_are_those_of_transformers(kind: str, made: Made) -> None:
    documents = [Document(position=at, id=str(at), text=one, text_pair="a second text" if at % 3 == 0 else None)
                 for at, one in enumerate(texts_of([3, 9, 30, 1, 14, 14, 70, 7]))]  # fmt: skip
    _, expected = run(made(kind), documents, {})
    engine, found = run(made(kind), documents, {"engine": "ctranslate2"})
    for left, right in zip(expected, found, strict=True):
        assert left.output is not None
        assert right.output is not None
        assert right.output["label"] == left.output["label"]
        assert right.output["scores"] == pytest.approx(left.output["scores"], abs=1e-5)
        assert (right.n_tokens, right.n_segments) == (left.n_tokens, left.n_segments)
    assert {name: engine.runtime[name] for name in ("engine", "dtype", "architecture")} == {
        "engine": "ctranslate2", "dtype": "float32", "architecture": made(kind).architecture,
    }  # fmt: skip
    assert engine.runtime["agreement"]["equal"] == len(documents)
    assert "ctranslate2" in engine.runtime["versions"]


@pytest.mark.parametrize("generation", GREEDY, ids=["as it is", "cut", "at least"])
@pytest.mark.parametrize("kind", ["marian", "bart", "pegasus", *LANGUAGES])
def test_greedy_outputs_are_those_of_generate(kind: str, generation: dict[str, Any], made: Made) -> None:
    documents = [Document(position=at, id=str(at), text=text(3 + (at * 7) % 25, at)) for at in range(10)]
    languages = LANGUAGES.get(kind, {}) if Task.TRANSLATION in made(kind).tasks else {}
    raw = {**languages, "generation": generation}
    _, expected = run(made(kind), documents, raw)
    engine, found = run(made(kind), documents, {**raw, "engine": "ctranslate2"})
    assert [result.output for result in found] == [result.output for result in expected]
    assert engine.runtime["agreement"] == {"documents": 10, "equal": 10, "mean_word_match": 1.0}


def test_a_beam_search_mostly_gives_what_generate_gives_and_says_how_often(made: Made) -> None:
    documents = [Document(position=at, id=str(at), text=text(3 + at % 9, at)) for at in range(20)]
    raw = {"generation": {"num_beams": 3, "early_stopping": True}}
    _, expected = run(made("marian"), documents, raw)
    engine, found = run(made("marian"), documents, {**raw, "engine": "ctranslate2"})
    equal = sum(left.output == right.output for left, right in zip(found, expected, strict=True))
    assert equal >= 15
    assert engine.runtime["agreement"]["equal"] == equal


def test_weights_in_int8_are_chosen_by_the_dtype_and_measured(made: Made) -> None:
    documents = [Document(position=at, id=str(at), text=one) for at, one in enumerate(texts_of([3, 9, 30, 1]))]
    exact, _ = run(made("bert"), documents, {"engine": "ctranslate2"})
    engine, _ = run(made("bert"), documents, {"engine": "ctranslate2", "dtype": "int8"})
    assert engine.runtime["dtype"] == "int8"
    assert engine.runtime["agreement"]["documents"] == 4
    assert engine.runtime["agreement"]["largest_score_difference"] > 1e-5
    assert engine.weight_bytes < exact.weight_bytes


def test_a_converted_model_is_kept_whole_and_used_again(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.models import conversion

    documents = [Document(position=0, id="a", text="a cat sees the river.")]
    raw = {"engine": "ctranslate2", "generation": {"num_beams": 1}}
    _, first = run(made("marian"), documents, raw, tmp_path)
    (kept,) = (tmp_path / "ctranslate2").iterdir()
    assert (kept / "model.bin").is_file()
    monkeypatch.setattr(conversion, "_convert", None)
    _, second = run(made("marian"), documents, raw, tmp_path)
    assert second == first


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_beams", 2),
        ("repetition_penalty", 1.2),
        ("exponential_decay_length_penalty", (3, 1.2)),
        ("suppress_tokens", [5]),
    ],
)
def test_a_models_own_setting_that_would_change_outputs_is_refused_by_name(
    setting: str, value: Any, made: Made, tmp_path: Path
) -> None:
    import transformers

    info = made("marian")
    config = copy.deepcopy(transformers.GenerationConfig.from_pretrained(info.path))
    setattr(config, setting, value)
    root = tmp_path / "root"
    make("marian", root / "other")
    config.save_pretrained(root / "other")
    other = Catalog(root, "", root / "digests").resolve("other")
    with pytest.raises(ModelFault, match="early_stopping" if setting == "num_beams" else setting):
        run(other, [Document(position=0, id="a", text="a cat.")], {"engine": "ctranslate2"})


@pytest.mark.parametrize(
    ("kind", "raw", "pointer"),
    [
        ("marian", {"generation": {"do_sample": True}}, "/params/generation/do_sample"),
        ("marian", {"generation": {"repetition_penalty": 1.1}}, "/params/generation/repetition_penalty"),
        ("marian", {"generation": {"num_beams": 2, "early_stopping": False}}, "/params/generation/early_stopping"),
        ("marian", {"dtype": "bfloat16"}, "/params/dtype"),
        ("deberta-v2", {}, "/params/engine"),
    ],
)
def test_a_job_that_it_cannot_run_is_refused_when_it_is_submitted(
    kind: str, raw: dict[str, Any], pointer: str, made: Made, tmp_path: Path
) -> None:
    if kind == "deberta-v2":
        make_classifier(tmp_path / kind, kind)
        info = Catalog(tmp_path, "", tmp_path / "digests").resolve(kind)
    else:
        info = made(kind)
    task = info.tasks[-1]
    with pytest.raises(InvalidRequest) as caught:
        check(info, task, parse_params(task, {**raw, "engine": "ctranslate2"}))
    (fault,) = caught.value.faults
    assert fault.pointer == pointer
