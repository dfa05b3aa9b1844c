"""A tiny sequence-to-sequence model as the worker loads it, with an engine on it and the plain way beside it.

Knows the engine and `generate()`. Must not know what a test is about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from catalog import Catalog
from corpusmill.documents import Document, Result
from corpusmill.models import ModelInfo
from corpusmill.tasks import SummarizationParams, TranslationParams
from tests.tiny_seq2seq import make
from worker.device import Device
from worker.engines.base import Usage
from worker.engines.seq2seq import Seq2SeqEngine
from worker.models.loading import load_model

#: A budget of which a few documents make several batches.
SMALL = Device(kind="cpu", batch_tokens=160)


@dataclass(frozen=True)
class Asked:
    """Parameters, and what a plain call puts before a text and gives to `generate()` (token names) for the same."""

    params: SummarizationParams | TranslationParams
    prefix: str = ""
    told: Mapping[str, str] = field(default_factory=dict)


class Loaded:
    """A model, and an engine on it as its device says."""

    def __init__(self, info: ModelInfo, device: Device = SMALL, dtype: torch.dtype = torch.float32) -> None:
        self.info = info
        self.device, self.dtype = device, dtype
        self.model: Any
        self.model, self.tokenizer = load_model(info, self.device, dtype)
        self.engine = self.another_engine()

    def another_engine(self) -> Seq2SeqEngine:
        """A fresh engine on the same weights."""
        return Seq2SeqEngine(self.model, self.tokenizer, self.info, self.device, self.dtype)

    def plain(self, texts: Sequence[str], asked: Asked, **settings: Any) -> list[list[int]]:
        """Tokens that `generate()` gives for each text by itself."""
        ids = {name: self.tokenizer.convert_tokens_to_ids(token) for name, token in asked.told.items()}
        usual = getattr(self.tokenizer, "src_lang", None)
        source = getattr(asked.params, "source_lang", None)
        if usual and source:
            self.tokenizer.src_lang = source
        encoded = [self.tokenizer(asked.prefix + text, return_tensors="pt").to(self.model.device) for text in texts]
        if usual and source:
            self.tokenizer.src_lang = usual
        return [self.model.generate(**one, **ids, **settings)[0].tolist() for one in encoded]

    def run(
        self, documents: Sequence[Document], params: SummarizationParams | TranslationParams, usage: Usage | None = None
    ) -> list[Result]:
        """Results by position."""
        return run(self.engine, documents, params, usage)


def run(
    engine: Seq2SeqEngine, documents: Sequence[Document], params: SummarizationParams | TranslationParams,
    usage: Usage | None = None,
) -> list[Result]:  # fmt: skip
    """An engine's results by position."""
    usage = usage or Usage()
    prepared = engine.prepare(documents, params, usage)
    results = [result for batch in engine.run(prepared, usage, lambda: False) for result in batch]
    return sorted(results, key=lambda result: result.position)


def loader(root: Path, device: Device = SMALL, dtype: torch.dtype = torch.float32) -> Callable[[str], Loaded]:
    """Makes and loads models by kind below a directory, each once."""
    catalog = Catalog(root, "", root / "digests")

    @cache
    def load(kind: str) -> Loaded:
        make(kind, root / kind)
        return Loaded(catalog.resolve(kind), device, dtype)

    return load


def documents_of(*texts: str) -> list[Document]:
    """Documents of these texts, positions from 0."""
    return [Document(position=position, id=f"id{position}", text=text) for position, text in enumerate(texts)]


def said(results: Sequence[Result]) -> list[str]:
    """What each result's output says."""
    return [str((result.output or {}).get("summary", (result.output or {}).get("translation"))) for result in results]
