"""A tiny causal model as the worker loads it, with engines on it and the plain way beside them.

Knows the engines, `generate()` and the plain forward. Must not know what a test is about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from catalog import Catalog
from corpusmill.documents import Document, Result
from corpusmill.models import ModelInfo
from corpusmill.tasks import Params
from tests.tiny_causal import make_causal
from worker.device import Device
from worker.engines.base import Usage
from worker.engines.causal.generating import CausalEngine
from worker.engines.causal.labels import CausalLabelsEngine
from worker.models.loading import load_model


class Loaded:
    """A model, and engines on it whose budget is small, so that a few documents make several batches."""

    def __init__(self, info: ModelInfo, batch_tokens: int = 300) -> None:
        self.info = info
        self.device = Device(kind="cpu", batch_tokens=batch_tokens)
        self.model: Any
        self.model, self.tokenizer = load_model(info, self.device, torch.float32)

    def engine(self, *, continuous: bool | None = False) -> CausalEngine:
        """A fresh engine that generates."""
        return CausalEngine(
            self.model, self.tokenizer, self.info, self.device, torch.float32, continuous=continuous
        )  # fmt: skip

    def labels_engine(self) -> CausalLabelsEngine:
        """A fresh engine that chooses between labels."""
        return CausalLabelsEngine(self.model, self.tokenizer, self.info, self.device, torch.float32)

    def prompt_ids(self, prompt: str) -> torch.Tensor:
        """(1, tokens): a prompt as a user of transformers would encode it."""
        if self.tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}]
            encoded = self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
            ids: torch.Tensor = encoded["input_ids"]
            return ids
        plain: torch.Tensor = self.tokenizer(prompt, return_tensors="pt")["input_ids"]
        return plain

    def plain(self, prompts: Sequence[str], *, seed: int | None = None, **settings: Any) -> list[str]:
        """What `generate()` says to each prompt by itself."""
        said = []
        for prompt in prompts:
            ids = self.prompt_ids(prompt)
            if seed is not None:
                torch.manual_seed(seed)
            row = self.model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)[0]
            said.append(self.tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True).strip())
        return said

    def likelihoods(self, prompt: torch.Tensor, labels: Sequence[Sequence[int]]) -> list[float]:
        """The log-likelihood of each label's tokens after a prompt, by the plain forward of the two alone."""
        found = []
        for label in labels:
            whole = torch.cat([prompt, torch.tensor([list(label)])], dim=1)
            with torch.inference_mode():
                likely = torch.log_softmax(self.model(whole).logits[0], dim=-1)
            first = prompt.shape[1] - 1
            found.append(sum(float(likely[first + place, token]) for place, token in enumerate(label)))
        return found


def run(
    engine: CausalEngine | CausalLabelsEngine, documents: Sequence[Document], params: Params, usage: Usage | None = None
) -> list[Result]:
    """An engine's results by position."""
    usage = usage or Usage()
    prepared: Any = engine.prepare(documents, params, usage)
    results = [result for batch in engine.run(prepared, usage, lambda: False) for result in batch]
    return sorted(results, key=lambda result: result.position)


def loader(root: Path) -> Callable[..., Loaded]:
    """Makes and loads models by kind below a directory, each once; further arguments go into generation_config.json."""
    catalog = Catalog(root, "", root / "digests")

    @cache
    def load(kind: str, **stated: Any) -> Loaded:
        name = "-".join([kind, *map(str, stated)])
        make_causal(root / name, kind, stated=stated)
        return Loaded(catalog.resolve(name))

    return load
