"""ONNX Runtime on the same classifiers, exported by torch.

Knows ONNX Runtime and torch's exporter, imported only where they are used. Must not know our engine.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from bench.answers import Answers
from bench.batching import by_length


def export(model: Any, out: Path) -> Path:
    """The classifier as an ONNX file, with texts and tokens of any number."""
    ids, mask = torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    batch, width = torch.export.Dim("batch", min=1), torch.export.Dim("width", min=2, max=512)
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others look at the mask's values, which an export would freeze
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter: names of dimensions, versions of operators
        torch.onnx.export(
            model, (), str(out), kwargs={"input_ids": ids, "attention_mask": mask}, output_names=["logits"],
            input_names=["input_ids", "attention_mask"], dynamo=True, verbose=False,
            dynamic_shapes={name: {0: batch, 1: width} for name in ("input_ids", "attention_mask")},
        )  # fmt: skip
    model.set_attn_implementation(usual)
    return out


class Session:
    """A classifier on one thread, in sorted batches under a token budget, padded to the longest of each."""

    def __init__(self, directory: Path, exported: Path, names: dict[int, str]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(exported), options, providers=["CPUExecutionProvider"])
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._names = names

    def run(self, texts: Sequence[str], budget: int) -> Answers:
        ids = self._tokenizer(list(texts), truncation=True)["input_ids"]
        scores: list[dict[str, float]] = [{}] * len(texts)
        for batch in by_length([len(row) for row in ids], budget):
            given = self._tokenizer.pad({"input_ids": [ids[place] for place in batch]}, return_tensors="np")
            feed = {name: given[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
            (logits,) = self._session.run(None, feed)
            for place, row in zip(batch, torch.from_numpy(logits).softmax(-1).tolist(), strict=True):
                scores[place] = {self._names[k]: score for k, score in enumerate(row)}
        return Answers(scores=scores)
