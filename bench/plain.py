"""What a user of transformers would write: a pipeline for labels, `generate()` over batches for texts, in the order given.

Knows transformers. Must not know our engine. The code here is meant to look like a user's; only the counting is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from bench.answers import NEAR_TIE, Answers


class Pipeline:
    """`pipeline("text-classification")` on a model's directory."""

    def __init__(self, directory: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=dtype).to(device).eval()
        self._pipe = pipeline("text-classification", model=self.model, tokenizer=self.tokenizer, device=device)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens that the model sees of each text."""
        return [len(ids) for ids in self.tokenizer(list(texts), truncation=True)["input_ids"]]

    def run(self, texts: Sequence[str], batch_size: int) -> Answers:
        found = self._pipe(list(texts), batch_size=batch_size, top_k=None, truncation=True)
        return Answers(scores=[{one["label"]: one["score"] for one in row} for row in found])


def padding_share(lengths: Sequence[int], batch_size: int) -> float:
    """The share of what goes through the model that is padding, in batches of so many in the order given."""
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    padded = sum(len(batch) * max(batch) for batch in batches)
    return 1 - sum(lengths) / padded


class Generate:
    """`generate()` over batches on a model's directory."""

    def __init__(self, directory: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=dtype).to(device).eval()

    def run(self, texts: Sequence[str], batch_size: int, **settings: Any) -> Answers:
        made: list[str] = []
        steps = tokens = 0
        for start in range(0, len(texts), batch_size):
            batch = self.tokenizer(
                list(texts[start : start + batch_size]), padding=True, truncation=True, return_tensors="pt"
            ).to(self.model.device)
            with torch.inference_mode():
                output = self.model.generate(**batch, do_sample=False, **settings)
            made += self.tokenizer.batch_decode(output, skip_special_tokens=True)
            steps += output.shape[0] * (output.shape[1] - 1)
            tokens += sum(_ended(row, self.model.generation_config.eos_token_id) for row in output.tolist())
        return Answers(texts=made, facts={"generated_tokens": tokens, "slot_occupancy": tokens / steps})

    def near_tie(self, source: str, ours: str, theirs: str, beams: int = 1) -> bool:
        """Whether two outputs for a source are as good as each other to the model.

        Greedy: where they first differ, the model's scores of the two tokens lie within `NEAR_TIE`. Beams: the mean
        log-probabilities of the whole outputs do.
        """
        first, second = (self._scored(source, output) for output in (ours, theirs))
        if beams > 1:
            return abs(first[1] - second[1]) <= NEAR_TIE
        (tokens, _, logits), (others, _, _) = first, second
        place = next((k for k, (a, b) in enumerate(zip(tokens, others, strict=False)) if a != b), None)
        if place is None:
            return False
        return abs(float(logits[place, tokens[place]] - logits[place, others[place]])) <= NEAR_TIE

    @torch.inference_mode()
    def _scored(self, source: str, output: str) -> tuple[list[int], float, torch.Tensor]:
        """An output's tokens with the end, their mean log-probability, and the logits (tokens, vocabulary)."""
        settings = self.model.generation_config
        tokens = [*self.tokenizer.convert_tokens_to_ids(output.split()), settings.eos_token_id]
        tokens = tokens[: settings.max_length - 1]
        encoded = self.tokenizer(source, truncation=True, return_tensors="pt").to(self.model.device)
        given = torch.tensor([[settings.decoder_start_token_id, *tokens[:-1]]], device=self.model.device)
        logits = self.model(**encoded, decoder_input_ids=given).logits[0].float()
        chosen = logits.log_softmax(-1)[torch.arange(len(tokens)), tokens]
        return tokens, float(chosen.mean()), logits


def _ended(row: list[int], end: int) -> int:
    """Tokens of an output after the start token, the end included and padding not."""
    return row.index(end, 1) if end in row[1:] else len(row) - 1
