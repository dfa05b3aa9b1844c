"""What is read from a model's files, and every reason for which a model is refused at submission."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from corpusmill.errors import InvalidRequest, UnknownModel, UnsuitableModel
from corpusmill.models import ModelInfo
from corpusmill.tasks import Task
from tests.model_files import BART, BERT, ENCODER, M2M100, MARIAN, MBART, T5, write_marian, write_model


class Root:
    """A models root in which the one model `m` is written and resolved."""

    def __init__(self, path: Path) -> None:
        self.directory = path / "root" / "m"
        self._catalog = Catalog(path / "root", "", path / "cache")

    def resolve(self) -> ModelInfo:
        return self._catalog.resolve("m")

    def write(self, config: dict[str, Any] | None, **files: Any) -> ModelInfo:
        write_model(self.directory, config, **files)
        return self.resolve()


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "root").mkdir()
    return Root(tmp_path)


def test_a_directory_without_a_configuration_is_no_model(root: Root) -> None:
    with pytest.raises(UnknownModel, match=r"no config\.json"):
        root.write(None)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "model.pkl", "model.joblib", "model.ckpt"])
def test_pickled_weights_are_refused_and_never_opened(root: Root, name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    write_model(root.directory, BERT, model__safetensors=None)
    pickle = f"cos\nsystem\n(S'touch {canary}'\ntR."  # opening it would touch the canary
    (root.directory / name).write_text(pickle, encoding="ascii")
    with pytest.raises(UnsuitableModel, match=r"pickle.*save_pretrained"):
        root.resolve()
    assert not canary.exists()


def test_pickled_weights_beside_safetensors_are_passed_over(root: Root) -> None:
    assert root.write(BERT, pytorch_model__bin="x").labels == ("negative", "positive")


def test_missing_weights_are_refused(root: Root) -> None:
    with pytest.raises(UnsuitableModel, match="no weights"):
        root.write(BERT, model__safetensors=None)


@pytest.mark.parametrize("shard", ["model-00002-of-00002.safetensors", "../other/model.safetensors"])
def test_an_index_that_names_a_file_which_is_not_there_is_refused(root: Root, shard: str) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": shard}}
    files = {"model-00001-of-00002__safetensors": "x", "model__safetensors__index__json": index}
    with pytest.raises(UnsuitableModel, match="incomplete"):
        root.write(BERT, model__safetensors=None, **files)


def test_a_sharded_model_with_all_its_files_is_taken(root: Root) -> None:
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    files = {"model-00001-of-00001__safetensors": "x", "model__safetensors__index__json": index}
    assert root.write(BERT, model__safetensors=None, **files).family == "sequence-classification"


def test_a_model_that_brings_its_own_code_is_refused_and_the_code_is_not_run(root: Root, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    code = f"open({str(canary)!r}, 'w').close()"
    auto_map = {"AutoModelForSequenceClassification": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Config"}
    with pytest.raises(UnsuitableModel, match="own code"):
        root.write({**BERT, "auto_map": auto_map}, modeling_evil__py=code)
    with pytest.raises(UnsuitableModel, match="own code"):
        root.write(BERT, tokenizer_config__json={"auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]}})
    assert not canary.exists()


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_model_that_asks_for_a_kernel_of_the_hub_is_refused(root: Root, name: str) -> None:
    with pytest.raises(UnsuitableModel, match="kernel"):
        root.write({**BERT, name: "someone/kernel"})


def test_an_adapter_is_refused(root: Root) -> None:
    adapter = {"adapter_config__json": {"base_model_name_or_path": "someone/else"}}
    with pytest.raises(UnsuitableModel, match="merge it"):
        root.write(BERT, **adapter)
    (root.directory / "config.json").unlink()
    with pytest.raises(UnknownModel, match="merge it"):
        root.resolve()


def test_quantized_weights_are_refused(root: Root) -> None:
    with pytest.raises(UnsuitableModel, match="quantized"):
        root.write({**BERT, "quantization_config": {"quant_method": "gptq"}})


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, "\x00"])
def test_a_configuration_that_is_no_json_is_refused(root: Root, text: str) -> None:
    write_model(root.directory, BERT)
    (root.directory / "config.json").write_text(text)
    with pytest.raises(UnsuitableModel, match=r"config\.json is not readable JSON"):
        root.resolve()


@pytest.mark.parametrize("config", [{}, {"architectures": []}, {"architectures": [3]}, {"architectures": None}])
def test_a_configuration_without_an_architecture_is_refused(root: Root, config: dict[str, Any]) -> None:
    with pytest.raises(UnsuitableModel, match="no architecture"):
        root.write({"model_type": "bert", **config})


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("roberta", "RobertaForCausalLM"),
        ("bart", "BartForCausalLM"),
        ("trocr", "TrOCRForCausalLM"),
        ("xlnet", "XLNetLMHeadModel"),
        ("bert", "BertForMaskedLM"),
        ("bert", "BertForTokenClassification"),
        ("whisper", "WhisperForConditionalGeneration"),
        ("wav2vec2", "Wav2Vec2ForSequenceClassification"),
        ("layoutlmv3", "LayoutLMv3ForSequenceClassification"),
        ("vit", "ViTForImageClassification"),
        ("clip", "CLIPModel"),
        ("gpt2", "GPT2Model"),
    ],
)
def test_an_architecture_that_can_do_no_task_is_refused(root: Root, model_type: str, architecture: str) -> None:
    with pytest.raises(UnsuitableModel, match=f"{architecture}, which can do none of classification"):
        root.write({"model_type": model_type, "architectures": [architecture]})


def test_missing_tokenizer_files_are_refused(root: Root) -> None:
    with pytest.raises(UnsuitableModel, match="tokenizer of m is missing"):
        root.write(BERT, tokenizer__json=None)
    with pytest.raises(UnsuitableModel, match="tokenizer of m is missing"):
        root.write(BERT, tokenizer__json=None, vocab__json={"a": 1})  # merges.txt is missing
    assert root.write(BERT, tokenizer__json=None, merges__txt="a b")


def test_marian_needs_both_of_its_piece_models(root: Root) -> None:
    write_marian(root.directory, {})
    assert root.resolve()
    (root.directory / "target.spm").unlink()
    with pytest.raises(UnsuitableModel, match=r"source\.spm with target\.spm"):
        root.resolve()


def test_a_tokenizer_that_needs_no_files_is_taken_without(root: Root) -> None:
    assert root.write(T5, tokenizer__json=None, tokenizer_config__json={"tokenizer_class": "ByT5Tokenizer"})


@pytest.mark.parametrize("id2label", [{"0": "a", "2": "b"}, {"0": "a", "1": "a"}, {"x": "a"}])
def test_labels_must_be_numbered_without_gap_and_differ(root: Root, id2label: dict[str, str]) -> None:
    with pytest.raises(UnsuitableModel, match="id2label"):
        root.write({**BERT, "id2label": id2label})


def test_labels_stand_in_the_order_of_the_logits_and_default_to_two(root: Root) -> None:
    named = {str(index): f"label {index}" for index in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)}
    assert root.write({**BERT, "id2label": named}).labels == tuple(f"label {index}" for index in range(11))
    assert root.write({**BERT, "id2label": None}).labels == ("LABEL_0", "LABEL_1")
    assert root.write({**BERT, "id2label": None, "num_labels": 3}).labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_several_labels_a_document_follow_from_the_problem_type(root: Root) -> None:
    assert root.write({**BERT, "problem_type": "multi_label_classification"}).multi_label


@pytest.mark.parametrize(
    ("config", "tasks"),
    [
        (MARIAN, {Task.TRANSLATION}),
        (M2M100, {Task.TRANSLATION}),
        (T5, {Task.SUMMARIZATION, Task.TRANSLATION}),
        (BART, {Task.SUMMARIZATION, Task.TRANSLATION}),
        (MBART, {Task.SUMMARIZATION, Task.TRANSLATION}),
        ({"architectures": ["PegasusForConditionalGeneration"], "model_type": "pegasus"}, {Task.SUMMARIZATION}),
        (
            {"architectures": ["MT5ForConditionalGeneration"], "model_type": "mt5"},
            {Task.SUMMARIZATION, Task.TRANSLATION},
        ),
        (ENCODER, {Task.SUMMARIZATION}),
        ({"architectures": ["MPNetModel"], "model_type": "mpnet"}, {Task.SUMMARIZATION}),
        ({"architectures": ["BartForSequenceClassification"], "model_type": "bart"}, {Task.CLASSIFICATION}),
    ],
)
def test_tasks_follow_from_the_architecture(root: Root, config: dict[str, Any], tasks: set[Task]) -> None:
    files = {"source__spm": "x", "target__spm": "x", "vocab__json": {}}
    assert set(root.write(config, **files).tasks) == tasks


def test_a_masked_language_model_laid_out_by_sentence_transformers_is_an_encoder(root: Root) -> None:
    modules = [{"path": ""}, {"path": "1_Pooling"}]
    config = {"architectures": ["MPNetForMaskedLM"], "model_type": "mpnet"}
    assert root.write(config, modules__json=modules).family == "sentence-encoder"


def test_the_pooling_of_a_sentence_encoder_is_part_of_its_revision(root: Root) -> None:
    (root.directory / "1_Pooling").mkdir(parents=True)
    (root.directory / "runs").mkdir()
    pooling = root.directory / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    before = root.write(ENCODER, modules__json=[{"path": ""}, {"path": "1_Pooling"}]).revision
    (root.directory / "runs" / "state.json").write_text("{}")
    assert root.resolve().revision == before
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert root.resolve().revision != before


def test_an_encoder_in_a_folder_of_its_own_is_found(root: Root) -> None:
    write_model(root.directory / "0_Transformer", ENCODER)
    (root.directory / "modules.json").write_text(json.dumps([{"path": "0_Transformer"}, {"path": "1_Pooling"}]))
    assert root.resolve().architecture == "BertModel"


def test_marian_names_its_languages_in_its_tokenizer(root: Root) -> None:
    write_marian(root.directory, {"source_lang": "en", "target_lang": "de"})
    assert (root.resolve().source_langs, root.resolve().target_langs) == (("en",), ("de",))


def test_marian_with_several_targets_names_them_in_its_vocabulary(root: Root) -> None:
    vocabulary = {"<unk>": 0, ">>fra<<": 1, ">>spa<<": 2, "▁a": 3}
    write_marian(root.directory, {"source_lang": "en", "target_lang": "roa"}, vocabulary)
    assert (root.resolve().source_langs, root.resolve().target_langs) == (("en",), ("fra", "spa"))


@pytest.mark.parametrize(
    ("config", "settings", "languages"),
    [
        (M2M100, {"additional_special_tokens": ["__de__", "__en__", "<x>"]}, ("de", "en")),
        (M2M100, {"extra_special_tokens": ["deu_Latn", "eng_Latn"]}, ("deu_Latn", "eng_Latn")),
        (MBART, {"extra_special_tokens": ["de_DE", "en_XX"]}, ("de_DE", "en_XX")),
        (MBART, {"added_tokens_decoder": {"9": {"content": "ro_RO"}, "8": {"content": "<mask>"}}}, ("ro_RO",)),
    ],
)
def test_multilingual_models_name_their_languages_among_the_special_tokens(
    root: Root, config: dict[str, Any], settings: dict[str, Any], languages: tuple[str, ...]
) -> None:
    info = root.write(config, tokenizer_config__json=settings)
    assert info.source_langs == info.target_langs == languages


def test_languages_that_only_the_tokenizer_class_knows_are_known(root: Root) -> None:
    fast = root.write(MBART, tokenizer_config__json={"tokenizer_class": "MBart50TokenizerFast"})
    assert len(fast.target_langs) == 52
    assert len(root.write(M2M100, tokenizer_config__json={"tokenizer_class": "M2M100Tokenizer"}).source_langs) == 100
    assert len(root.write(M2M100, tokenizer_config__json={"tokenizer_class": "NllbTokenizer"}).source_langs) == 202


def test_t5_names_its_language_pairs_and_prefixes_in_its_configuration(root: Root) -> None:
    info = root.write(T5)
    assert (info.source_langs, info.target_langs) == (("en",), ("de", "fr"))
    assert dict(info.prefixes)["translation_en_to_de"] == "translate English to German: "


@pytest.mark.parametrize("specific", [[], {"a": 1}, {"summarization": {"prefix": 3}}, {"translation_en_to_de": None}])
def test_strange_task_parameters_are_passed_over(root: Root, specific: Any) -> None:
    assert root.write({**T5, "task_specific_params": specific}).prefixes == ()


def test_every_refusal_says_which_model_it_is_about(root: Root) -> None:
    with pytest.raises(InvalidRequest, match=r"\bm\b"):
        root.write({**BERT, "auto_map": {"x": "y"}})
