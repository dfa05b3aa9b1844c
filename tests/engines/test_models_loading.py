"""Loading: whole, safe, in the precision asked for, or refused with a reason; and the engines that stay loaded."""

from __future__ import annotations

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from catalog import Catalog
from corpusmill.errors import ModelFault
from corpusmill.models import ModelInfo
from corpusmill.settings import Settings
from corpusmill.tasks import Params, Task, parse_params
from tests.tiny_models import config_for, make_classifier, make_encoder, tokenizer_for
from worker.device import Device
from worker.models import ModelCache, load_engine
from worker.models.limits import longest_input
from worker.models.loading import load_model, weight_bytes
from worker.models.table import ENGINES, engine_class

CPU = Device(kind="cpu")
LABELS = parse_params(Task.CLASSIFICATION, {})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    make_classifier(root / "bert", "bert")
    make_encoder(root / "encoder", "bert")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A models root of its own for a test that spoils a model."""
    return Path(shutil.copytree(made, tmp_path / "root"))


def info_of(path: Path) -> ModelInfo:
    return Catalog(path.parent, "", path.parent / ".cache").resolve(path.name)


def test_weights_come_in_the_precision_asked_for(made: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model, tokenizer = load_model(info_of(made / "bert"), CPU, dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not model.training
        assert tokenizer.is_fast


def test_weights_are_counted_once_however_often_they_are_shared(made: Path) -> None:
    model, _ = load_model(info_of(made / "bert"), CPU, torch.float32)
    before = weight_bytes(model)
    model.register_parameter("again", next(model.parameters()))
    assert weight_bytes(model) == before
    assert before >= sum(parameter.numel() for parameter in model.parameters()) * 4


def test_a_checkpoint_without_its_classification_head_is_refused(tmp_path: Path) -> None:
    """Loading it would draw the head at random: labels that look like any other."""
    tokenizer = tokenizer_for("bert")
    AutoModelForMaskedLM.from_config(config_for("bert", tokenizer)).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"]}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFault, match=r"lacks weights .*classifier\.bias, classifier\.weight"):
        load_engine(info_of(tmp_path / "m"), Task.CLASSIFICATION, LABELS, CPU)


def test_an_encoder_may_lack_the_pooler_that_it_does_not_use(root: Path) -> None:
    weights = root / "encoder" / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(weights).items() if "pooler" not in name}
    save_file(kept, weights, metadata={"format": "pt"})
    load_model(info_of(root / "encoder"), CPU, torch.float32)
    kept.pop(next(name for name in kept if "attention" in name))
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(ModelFault, match="lacks weights"):
        load_model(info_of(root / "encoder"), CPU, torch.float32)


def test_weights_of_another_shape_are_refused(root: Path) -> None:
    config = json.loads((root / "bert" / "config.json").read_text())
    config["id2label"] = {str(index): f"label {index}" for index in range(7)}
    (root / "bert" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFault, match="of bert"):
        load_model(info_of(root / "bert"), CPU, torch.float32)


def test_spoiled_weights_are_refused_without_a_path_of_this_machine(root: Path) -> None:
    (root / "bert" / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelFault, match="weights of bert cannot be loaded") as refused:
        load_model(info_of(root / "bert"), CPU, torch.float32)
    assert str(root) not in str(refused.value)


def test_a_spoiled_tokenizer_is_refused(root: Path) -> None:
    (root / "bert" / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nonsense"}}')
    with pytest.raises(ModelFault, match="tokenizer of bert cannot be loaded"):
        load_model(info_of(root / "bert"), CPU, torch.float32)


def test_a_tokenizer_of_another_model_is_refused(root: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(root / "bert")
    tokenizer.add_tokens([f"word{index}" for index in range(400)])
    tokenizer.save_pretrained(root / "bert")
    with pytest.raises(ModelFault, match="knows 600 tokens and the model 200"):
        load_model(info_of(root / "bert"), CPU, torch.float32)


def test_code_beside_a_model_is_not_run_even_where_the_catalog_was_not_asked(root: Path, tmp_path: Path) -> None:
    info = info_of(root / "bert")
    canary = tmp_path / "canary"
    config = json.loads((root / "bert" / "config.json").read_text())
    auto_map = {"AutoConfig": "evil.Evil", "AutoModelForSequenceClassification": "evil.Evil"}
    (root / "bert" / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": auto_map}))
    (root / "bert" / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()")
    with pytest.raises(ModelFault):
        load_model(info, CPU, torch.float32)
    assert not canary.exists()


def test_a_pickle_is_not_opened_even_where_the_catalog_was_not_asked(root: Path, tmp_path: Path) -> None:
    info = info_of(root / "bert")
    canary = tmp_path / "canary"
    (root / "bert" / "model.safetensors").unlink()
    (root / "bert" / "pytorch_model.bin").write_text(f"cos\nsystem\n(S'touch {canary}'\ntR.")
    with pytest.raises(ModelFault):
        load_model(info, CPU, torch.float32)
    assert not canary.exists()


def test_a_kernel_of_the_hub_is_not_fetched_even_where_the_catalog_was_not_asked(root: Path) -> None:
    info = info_of(root / "bert")
    config = json.loads((root / "bert" / "config.json").read_text())
    (root / "bert" / "config.json").write_text(json.dumps({**config, "attn_implementation": "someone/kernel"}))
    with pytest.raises(ModelFault, match="kernel from elsewhere"):
        load_model(info, CPU, torch.float32)


def test_a_tokenizer_that_says_how_to_cut_and_pad_is_told_not_to(root: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(root / "bert")
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=5)
    tokenizer.backend_tokenizer.save(str(root / "bert" / "tokenizer.json"))
    _, loaded = load_model(info_of(root / "bert"), CPU, torch.float32)
    assert len(loaded.backend_tokenizer.encode_batch_fast(["a", "a " * 50], add_special_tokens=False)[1].ids) == 50


@pytest.mark.parametrize(
    ("model_type", "limit", "longest"),
    [
        ("bert", 10**30, 64),
        ("bert", 48, 48),
        ("roberta", 10**30, 62),
        ("xlnet", 10**30, None),
        ("xlnet", 128, 128),
        ("gpt2", 10**30, 64),
        ("modernbert", 10**30, 64),
    ],
)
def test_the_longest_input_is_the_lesser_of_the_tokenizers_and_the_models(
    tmp_path: Path, model_type: str, limit: int, longest: int | None
) -> None:
    model, tokenizer = load_model(info_of(make_classifier(tmp_path / "m", model_type)), CPU, torch.float32)
    tokenizer.model_max_length = limit
    assert longest_input(model, tokenizer) == longest


def test_every_engine_of_the_table_is_there() -> None:
    for found in ENGINES.values():
        assert found.load()


def test_a_task_that_no_engine_does_on_a_model_is_a_fault(made: Path) -> None:
    with pytest.raises(ModelFault, match="cannot do translation"):
        engine_class(info_of(made / "bert"), Task.TRANSLATION, parse_params(Task.TRANSLATION, {}))


class Sized:
    """An engine of so many bytes."""

    def __init__(self, weight_bytes: int) -> None:
        self.weight_bytes = weight_bytes
        self.runtime: dict[str, Any] = {}


class Loader:
    """Loads engines of the sizes that their models' names say, and remembers which."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def __call__(self, info: ModelInfo, task: Task, params: Params, device: Device) -> Any:
        self.loaded.append(info.id)
        return Sized(int(info.id.split("-")[1]))


class AnyModel(Catalog):
    """A catalog in which every model stands on this machine."""

    def __init__(self) -> None:
        super().__init__(None, "", Path())

    def resolve(self, model_id: str, revision: str | None = None) -> ModelInfo:
        return named(model_id, revision or "r")

    def fetch(self, info: ModelInfo) -> ModelInfo:
        return info


def named(model_id: str, revision: str = "r") -> ModelInfo:
    return ModelInfo(id=model_id, revision=revision, family="sequence-classification", tasks=(Task.CLASSIFICATION,))


def cache_of(budget: int, loader: Loader) -> ModelCache:
    return ModelCache(AnyModel(), CPU, Settings(model_cache_bytes=budget), loader)


def ids(cache: ModelCache) -> set[str]:
    return {model_id for model_id, _ in cache.loaded()}


def test_a_model_is_loaded_once_for_each_revision_and_precision() -> None:
    loader = Loader()
    cache = cache_of(1000, loader)
    half = parse_params(Task.CLASSIFICATION, {"dtype": "bfloat16"})
    first = cache.get(named("a-1"), Task.CLASSIFICATION, LABELS)
    assert cache.get(named("a-1"), Task.CLASSIFICATION, LABELS) is first
    assert cache.get(named("a-1"), Task.CLASSIFICATION, half) is not first
    assert cache.get(named("a-1", "s"), Task.CLASSIFICATION, LABELS) is not first
    assert cache.loaded() == {("a-1", "r"), ("a-1", "s")}


def test_the_least_recently_used_models_make_room() -> None:
    loader = Loader()
    cache = cache_of(100, loader)
    for model_id in ("a-40", "b-40", "a-40", "c-40"):
        cache.get(named(model_id), Task.CLASSIFICATION, LABELS)
    assert ids(cache) == {"a-40", "c-40"}
    cache.get(named("b-40"), Task.CLASSIFICATION, LABELS)
    assert loader.loaded == ["a-40", "b-40", "c-40", "b-40"]


def test_a_model_in_use_is_never_dropped_and_goes_when_nobody_holds_it() -> None:
    cache = cache_of(100, Loader())
    held = cache.get(named("a-60"), Task.CLASSIFICATION, LABELS)
    cache.get(named("b-30"), Task.CLASSIFICATION, LABELS)
    cache.get(named("c-30"), Task.CLASSIFICATION, LABELS)
    assert ids(cache) == {"a-60", "c-30"}
    assert cache.get(named("a-60"), Task.CLASSIFICATION, LABELS) is held
    cache.get(named("d-90"), Task.CLASSIFICATION, LABELS)
    assert ids(cache) == {"a-60", "d-90"}
    del held
    cache.get(named("d-90"), Task.CLASSIFICATION, LABELS)
    assert ids(cache) == {"d-90"}


def test_a_model_above_the_budget_is_loaded_alone() -> None:
    cache = cache_of(100, Loader())
    cache.get(named("a-40"), Task.CLASSIFICATION, LABELS)
    cache.get(named("b-400"), Task.CLASSIFICATION, LABELS)
    assert ids(cache) == {"b-400"}
    cache.get(named("a-40"), Task.CLASSIFICATION, LABELS)
    assert ids(cache) == {"a-40"}


def test_room_is_made_before_a_model_is_loaded_by_the_size_of_its_files(root: Path) -> None:
    def loading(info: ModelInfo, task: Task, params: Params, device: Device) -> Any:
        beside.append(ids(cache))
        return Sized(int(1e9))

    beside: list[set[str]] = []
    catalog = Catalog(root, "", root / ".cache")
    cache = ModelCache(catalog, CPU, Settings(model_cache_bytes=int(1e9) + 10), loading)
    cache.get(catalog.resolve("bert"), Task.CLASSIFICATION, LABELS)
    shutil.copytree(root / "bert", root / "bert2")
    cache.get(catalog.resolve("bert2"), Task.CLASSIFICATION, LABELS)
    assert beside == [set(), set()]


def test_a_dropped_model_gives_its_memory_back(root: Path) -> None:
    def alive() -> int:
        gc.collect()
        return sum(type(thing).__name__ == "BertForSequenceClassification" for thing in gc.get_objects())

    before = alive()  # other tests' own
    catalog = Catalog(root, "", root / ".cache")
    cache = ModelCache(catalog, CPU, Settings(model_cache_bytes=1), load_engine)
    cache.get(catalog.resolve("bert"), Task.CLASSIFICATION, LABELS)
    cache.get(catalog.resolve("bert"), Task.CLASSIFICATION, parse_params(Task.CLASSIFICATION, {"dtype": "bfloat16"}))
    assert alive() == before + 1


def test_a_model_that_changed_since_its_job_was_accepted_is_a_fault(root: Path) -> None:
    catalog = Catalog(root, "", root / ".cache")
    cache = ModelCache(catalog, CPU, Settings(), load_engine)
    info = catalog.resolve("bert")
    (root / "bert" / "generation_config.json").write_text("{}")
    with pytest.raises(ModelFault, match="have changed"):
        cache.get(info, Task.CLASSIFICATION, LABELS)


def test_a_model_is_found_where_it_stands_on_this_machine(root: Path) -> None:
    catalog = Catalog(root, "", root / ".cache")
    elsewhere = replace(catalog.resolve("bert"), path="/on/the/machine/of/the/api")
    engine = ModelCache(catalog, CPU, Settings(), load_engine).get(elsewhere, Task.CLASSIFICATION, LABELS)
    assert engine.runtime["architecture"] == "BertForSequenceClassification"
