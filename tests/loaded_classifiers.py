"""Classifiers on disk, as Hugging Face runs them and as our engine does, for tests that compare the two.

Knows tiny models and the engine's seam. Must not know what is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from catalog import Catalog, check
from corpusmill.documents import Document, Result
from corpusmill.tasks import ClassificationParams, Task, parse_params
from tests.tiny_models import make_classifier
from worker.device import Device
from worker.engines.base import Usage
from worker.engines.classification import ClassificationEngine
from worker.models import load_engine

TOLERANCE = 1e-5


class Plain:
    """A model as Hugging Face runs it: one text at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForSequenceClassification.from_pretrained(path).eval()

    def logits(self, text: str, pair: str | None = None, **cut: Any) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = self.model(**self.tokenizer(text, pair, return_tensors="pt", **cut)).logits[0]
        return logits

    def logits_of_ids(self, ids: list[int], types: list[int]) -> torch.Tensor:
        given = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones((1, len(ids)), dtype=torch.long)}
        with torch.inference_mode():
            logits: torch.Tensor = self.model(**given, token_type_ids=torch.tensor([types])).logits[0]
        return logits

    def content(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


class Shelf:
    """Models by type and options under one directory, each made once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: dict[str, Plain] = {}

    def __call__(self, model_type: str, **chosen: Any) -> Plain:
        name = "_".join([model_type, *(f"{key}-{len(str(value))}" for key, value in sorted(chosen.items()))])
        if name not in self._made:
            self._made[name] = Plain(make_classifier(self._root / name, model_type, **chosen))
        return self._made[name]


def engine_of(
    path: Path, batch_tokens: int = 120, kind: Literal["cpu", "cuda"] = "cpu", **raw: Any
) -> tuple[ClassificationEngine, ClassificationParams]:
    info = Catalog(path.parent, "", path.parent / ".cache").resolve(path.name)
    params = check(info, Task.CLASSIFICATION, parse_params(Task.CLASSIFICATION, {"top_k": 100, **raw}))
    engine = load_engine(info, Task.CLASSIFICATION, params, Device(kind=kind, batch_tokens=batch_tokens))
    assert isinstance(engine, ClassificationEngine)
    assert isinstance(params, ClassificationParams)
    return engine, params


def documents_of(texts: list[str], pairs: list[str] | None = None) -> list[Document]:
    seconds: Sequence[str | None] = pairs or [None] * len(texts)
    return [
        Document(position=100 + index, id=f"d{index}", text=text, text_pair=second)
        for index, (text, second) in enumerate(zip(texts, seconds, strict=True))
    ]


def classify(
    engine: ClassificationEngine, params: ClassificationParams, documents: list[Document], usage: Usage | None = None
) -> list[Result]:
    usage = usage or Usage()
    batches = engine.run(engine.prepare(documents, params, usage), usage, lambda: False)
    results = sorted((result for batch in batches for result in batch), key=lambda result: result.position)
    assert [(result.position, result.document_id) for result in results] == [
        (document.position, document.id) for document in documents
    ]
    return results


def scores(result: Result, labels: tuple[str, ...] = ("negative", "neutral", "positive")) -> np.ndarray[Any, Any]:
    assert result.output is not None, result.error
    return np.array([result.output["scores"][label] for label in labels])


def same(result: Result, expected: torch.Tensor) -> bool:
    return bool(np.abs(scores(result) - expected.numpy()).max() < TOLERANCE)
