"""Writes directories that look like models to whoever reads their names and JSON only.

Knows the files' names. Needs neither torch nor transformers; the weights are a few bytes that are no weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BERT = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "id2label": {"0": "negative", "1": "positive"},
}
T5 = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "is_encoder_decoder": True,
    "task_specific_params": {
        "summarization": {"prefix": "summarize: ", "num_beams": 4},
        "translation_en_to_de": {"prefix": "translate English to German: "},
        "translation_en_to_fr": {"prefix": "translate English to French: "},
    },
}
MARIAN = {"architectures": ["MarianMTModel"], "model_type": "marian", "is_encoder_decoder": True}
MBART = {"architectures": ["MBartForConditionalGeneration"], "model_type": "mbart", "is_encoder_decoder": True}
M2M100 = {"architectures": ["M2M100ForConditionalGeneration"], "model_type": "m2m_100", "is_encoder_decoder": True}
BART = {"architectures": ["BartForConditionalGeneration"], "model_type": "bart", "is_encoder_decoder": True}
ENCODER = {"architectures": ["BertModel"], "model_type": "bert"}


def write_model(directory: Path, config: dict[str, Any] | None, **files: Any) -> Path:
    """A directory with a configuration, weights and a tokenizer.

    `files` adds or replaces files, with `__` for `.` in their names: objects and arrays as JSON, texts as they are;
    None leaves the file out.
    """
    contents: dict[str, Any] = {
        "config.json": config,
        "model.safetensors": "weights",
        "tokenizer.json": {"version": "1.0"},
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"},
    }
    contents |= {name.replace("__", "."): value for name, value in files.items()}
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in contents.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            (directory / name).write_text(text, encoding="utf-8")
    return directory


def write_marian(directory: Path, tokenizer: dict[str, Any], vocabulary: dict[str, int] | None = None) -> Path:
    """A Marian directory whose tokenizer is configured as given."""
    return write_model(
        directory,
        MARIAN,
        tokenizer__json=None,
        tokenizer_config__json={"tokenizer_class": "MarianTokenizer", **tokenizer},
        source__spm="pieces",
        target__spm="pieces",
        vocab__json=vocabulary or {"</s>": 0, "<unk>": 1, "▁a": 2},
    )
