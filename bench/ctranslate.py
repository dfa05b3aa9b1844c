"""CTranslate2 on the same directories: translators, and encoders with the classifier's head beside them.

Knows CTranslate2, which is imported only where it is used. Must not know our engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from bench.answers import Answers
from bench.batching import by_length

#: Sources in a batch of `translate_batch`, which sorts them by length itself: of 16, 32, 48, 64, 96, 128 and 192 on one
#: core, greedy decoding was fastest with 96 and 128 (1.3 times faster than with 48), and beams alike from 32 on.
BATCH = 128


def convert(directory: Path, out: Path) -> Path:
    """The model in CTranslate2's own format, weights in float32."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(directory)).convert(str(out), force=True)
    return out


class Translator:
    """A translator on one thread. `compute` is CTranslate2's compute type: float32 or int8 on a CPU."""

    def __init__(self, directory: Path, converted: Path, compute: str, device: str = "cpu") -> None:
        import ctranslate2

        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._translator = ctranslate2.Translator(
            str(converted), device=device, compute_type=compute, inter_threads=1, intra_threads=1
        )

    def run(self, texts: Sequence[str], longest: int, beams: int = 1, batch_size: int = BATCH) -> Answers:
        """Outputs of at most `longest` tokens, the start token not counted."""
        ids = self._tokenizer(list(texts), truncation=True)["input_ids"]
        found = self._translator.translate_batch(
            [self._tokenizer.convert_ids_to_tokens(row) for row in ids],
            beam_size=beams, max_decoding_length=longest, min_decoding_length=0, max_batch_size=batch_size,
            batch_type="examples",
        )  # fmt: skip
        rows = [self._tokenizer.convert_tokens_to_ids(one.hypotheses[0]) for one in found]
        return Answers(texts=self._tokenizer.batch_decode(rows, skip_special_tokens=True))


class Encoder:
    """An encoder on one thread, in sorted batches under a token budget; the head is run by torch on the first token."""

    def __init__(self, directory: Path, converted: Path, compute: str, model: Any) -> None:
        import ctranslate2

        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._encoder = ctranslate2.Encoder(
            str(converted), device="cpu", compute_type=compute, inter_threads=1, intra_threads=1
        )
        self._model = model

    def run(self, texts: Sequence[str], budget: int) -> Answers:
        ids = self._tokenizer(list(texts), truncation=True)["input_ids"]
        scores: list[dict[str, float]] = [{}] * len(texts)
        for batch in by_length([len(row) for row in ids], budget):
            output = self._encoder.forward_batch([ids[place] for place in batch])
            first = torch.from_numpy(np.array(output.last_hidden_state)[:, 0])
            for place, row in zip(batch, self._labels(first), strict=True):
                scores[place] = row
        return Answers(scores=scores)

    @torch.inference_mode()
    def _labels(self, first: torch.Tensor) -> list[dict[str, float]]:
        model = self._model
        if hasattr(model, "pre_classifier"):
            logits = model.classifier(torch.relu(model.pre_classifier(first)))
        else:
            logits = model.classifier(torch.tanh(model.bert.pooler.dense(first)))
        names = model.config.id2label
        return [{names[place]: score for place, score in enumerate(row)} for row in logits.softmax(-1).tolist()]
