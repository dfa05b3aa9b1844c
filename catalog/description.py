"""What a model is, read from its files, and every reason for which it may not be run here.

Knows `config.json` and the files around it. Must not load weights or tokenizers, and must never run what a model
brings.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from catalog.architectures import TOKENIZER_FILES, TOKENIZER_FILES_OF, WITHOUT_FILES, family_of
from catalog.files import ModelFiles, encoder_folder
from catalog.languages import languages_of, prefixes_of
from corpusmill.errors import UnknownModel, UnsuitableModel
from corpusmill.models import ModelInfo
from corpusmill.tasks import Task

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt")


def describe(model_id: str, revision: str, files: ModelFiles, path: str | None) -> ModelInfo:
    """The model that these files are.

    Raises UnknownModel where they are none, UnsuitableModel where they are one that cannot or may not be run; the
    message says why and how to mend it.
    """
    folder = encoder_folder(files)
    names = files.names()
    if f"{folder}config.json" not in names:
        raise UnknownModel(f"{model_id} holds no model: there is no config.json. {_looks_like(names)}")
    config = files.json(f"{folder}config.json")
    _refuse_foreign_code(model_id, config, files, folder)
    _refuse_missing_weights(model_id, folder, files)
    model_type, architecture = _architecture(model_id, config)
    found = family_of(model_type, architecture, sentence_layout="modules.json" in names)
    if found is None:
        raise UnsuitableModel(
            f"{model_id} is a {architecture}, which can do none of {', '.join(Task)}: use a sequence classifier "
            "(…ForSequenceClassification), a text-to-text model such as Marian, T5, BART or M2M100, a sentence encoder, "
            "or a causal language model (…ForCausalLM)."
        )
    _refuse_missing_tokenizer(model_id, model_type, folder, files)
    family, tasks = found
    source_langs, target_langs = languages_of(model_type, config, files) if family == "seq2seq" else ((), ())
    classifies = family == "sequence-classification"
    return ModelInfo(
        id=model_id,
        revision=revision,
        family=family,
        tasks=tasks,
        architecture=architecture,
        path=path,
        labels=_labels(model_id, config) if classifies else (),
        multi_label=classifies and config.get("problem_type") == "multi_label_classification",
        source_langs=source_langs,
        target_langs=target_langs,
        prefixes=tuple(prefixes_of(config).items()) if family == "seq2seq" else (),
    )


def _looks_like(names: frozenset[str]) -> str:
    if "adapter_config.json" in names:
        return "It is an adapter: merge it into its base model and save the whole."
    return "Put a directory there as save_pretrained() writes it."


def _architecture(model_id: str, config: dict[str, Any]) -> tuple[str, str]:
    named = config.get("architectures")
    if not (isinstance(named, list) and named and isinstance(named[0], str)):
        raise UnsuitableModel(
            f"The config.json of {model_id} names no architecture: save the model again with save_pretrained()."
        )
    return str(config.get("model_type", "")), named[0]


def _refuse_foreign_code(model_id: str, config: dict[str, Any], files: ModelFiles, folder: str) -> None:
    """Refuse every way in which a checkpoint can ask for code, or for a base model, from elsewhere."""
    tokenizer = files.json(f"{folder}tokenizer_config.json")
    if config.get("auto_map") or tokenizer.get("auto_map"):
        raise UnsuitableModel(
            f"{model_id} brings its own code (auto_map), which is never run here: use a model of an architecture that "
            "transformers knows itself."
        )
    for name in ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"):
        if "/" in str(config.get(name)):
            raise UnsuitableModel(
                f"{model_id} asks for a kernel from elsewhere ({name} in config.json), which is never run here: remove "
                "that entry."
            )
    if "adapter_config.json" in files.names():
        raise UnsuitableModel(
            f"{model_id} is an adapter on another model: merge it into its base model and save the whole."
        )
    if config.get("quantization_config"):
        raise UnsuitableModel(
            f"The weights of {model_id} are quantized (quantization_config), which cannot be run here: use the model "
            "in "
            "float32, float16 or bfloat16."
        )


def _refuse_missing_weights(model_id: str, folder: str, files: ModelFiles) -> None:
    """Weights must be safetensors: a pickle runs what its author wrote into it when it is opened."""
    names = files.names()
    if folder + WEIGHTS in names:
        return
    if folder + INDEX in names:
        weight_map = files.json(folder + INDEX).get("weight_map")
        shards = {str(shard) for shard in weight_map.values()} if isinstance(weight_map, dict) else set()
        absent = sorted(shard for shard in shards if "/" in shard or "\\" in shard or folder + shard not in names)
        if absent or not shards:
            raise UnsuitableModel(
                f"The weights of {model_id} are incomplete: {INDEX} names {', '.join(absent[:3]) or 'no file'}, which "
                "is "
                "not there. Copy the model again."
            )
        return
    pickles = sorted(name for name in names if name.endswith(_PICKLES) and name.startswith(folder))
    if pickles:
        raise UnsuitableModel(
            f"The weights of {model_id} are pickled ({pickles[0]}), and a pickle can run any code when it is opened: "
            "convert them where you trust them, with AutoModel….from_pretrained(…).save_pretrained(…), which writes "
            f"{WEIGHTS}."
        )
    raise UnsuitableModel(
        f"{model_id} has no weights: there is no {folder}{WEIGHTS}. Copy it into the model's directory."
    )


def _refuse_missing_tokenizer(model_id: str, model_type: str, folder: str, files: ModelFiles) -> None:
    """Without its files a tokenizer is still made, empty, and every text becomes unknown tokens."""
    names = {name.removeprefix(folder) for name in files.names() if name.startswith(folder)}
    kind = str(files.json(f"{folder}tokenizer_config.json").get("tokenizer_class", ""))
    if kind in WITHOUT_FILES:
        return
    choices = TOKENIZER_FILES_OF.get(model_type, TOKENIZER_FILES)
    if any(all(any(fnmatchcase(name, part) for name in names) for part in choice) for choice in choices):
        return
    wanted = ", or ".join(" with ".join(choice) for choice in choices)
    raise UnsuitableModel(
        f"The tokenizer of {model_id} is missing: there is no {wanted}. Copy the files beside config.json, or write "
        "them "
        "with AutoTokenizer.from_pretrained(…).save_pretrained(…)."
    )


def _labels(model_id: str, config: dict[str, Any]) -> tuple[str, ...]:
    """Labels in the order of the logits. A configuration without them has transformers' default of two."""
    named = config.get("id2label")
    if not isinstance(named, dict) or not named:
        count = config.get("num_labels")
        return tuple(f"LABEL_{index}" for index in range(count if isinstance(count, int) and count > 0 else 2))
    try:
        ordered = sorted((int(index), str(label)) for index, label in named.items())
    except ValueError as error:
        raise UnsuitableModel(f"id2label in the config.json of {model_id} has keys that are no numbers.") from error
    labels = tuple(label for _, label in ordered)
    if [index for index, _ in ordered] != list(range(len(ordered))) or len(set(labels)) != len(labels):
        raise UnsuitableModel(
            f"id2label in the config.json of {model_id} must give each of 0 to {len(ordered) - 1} a label of its own."
        )
    return labels
