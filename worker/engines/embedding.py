"""Sentence embeddings by an encoder, pooled as its sentence-transformers configuration says.

Knows the encoder's forward and the files beside it that say how to pool. Must not know documents or what sentences are
embedded for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from catalog.files import DirectoryFiles
from corpusmill.errors import ModelFault
from corpusmill.models import ModelInfo
from worker.device import is_device_lost
from worker.engines.probes import Probes, probes_of
from worker.engines.trial import MODEL_ERRORS, run_alone, why_not_packed
from worker.models.limits import longest_input
from worker.models.loading import first_line
from worker.models.packing import Packing
from worker.models.rows import Indices, Rows
from worker.models.tokens import TextEncoder
from worker.models.transfer import placed

Vectors = npt.NDArray[np.float32]

#: Modules that change nothing here: every vector is normalized in any case.
_HANDLED = {"Transformer", "Pooling", "Normalize", "Dropout"}
_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
#: Longest sentence of an encoder that knows no limit.
_UNSTATED_LIMIT = 512


class SentenceEncoder:
    """Embeds rows of tokens as vectors of length one. Rows run packed where the encoder allows it; `fallback` says why
    where it does not.

    Raises ModelFault, when it is made, where the model's configuration asks for a module or a pooling not known here, or
    the model cannot be run.
    """

    def __init__(self, model: Any, tokenizer: Any, info: ModelInfo, texts: TextEncoder) -> None:
        self._model = model
        files = DirectoryFiles(Path(info.path)) if info.path else None
        self.pooling = _pooling_of(info.id, files) if files else ("mean",)
        stated = files.json("sentence_bert_config.json").get("max_seq_length") if files else None
        limits = [stated, longest_input(model, tokenizer)]
        self.limit = min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=_UNSTATED_LIMIT)
        self._pad = tokenizer.pad_token_id or 0
        self._pad_type = getattr(tokenizer, "pad_token_type_id", 0) or 0
        self._has_types = texts.has_types
        self._packing = Packing(model, has_types=texts.has_types, device=model.device)
        self.probes = probes_of(model, tokenizer, texts.single, self.limit)
        self.fallback = self._try(self.probes)

    @property
    def packs(self) -> bool:
        """Whether a batch's size is the sum of its lengths."""
        return self.fallback is None

    @property
    def name(self) -> str:
        """What the job's record calls this way of running."""
        return "packed" if self.packs else "padded"

    def tokens(self, lengths: Indices) -> int:
        """Tokens, padding included, that rows of these lengths put through the model."""
        return int(lengths.sum() if self.packs else lengths.max() * len(lengths))

    def vectors(self, rows: Rows, batch: Indices) -> Vectors:
        """Embeddings (batch, width) of some rows, in float32 on the host."""
        vectors: Vectors = (self._packed if self.packs else self._padded)(rows, batch).numpy()
        return vectors

    def _try(self, probes: Probes) -> str | None:
        why = self._packing.obstacle()
        if why is not None:
            return why
        try:
            alone = run_alone(self._padded, probes, self._packing)
        except MODEL_ERRORS as error:
            if is_device_lost(error):
                raise
            raise ModelFault(f"The model cannot be run: {type(error).__name__}: {first_line(error)}") from error
        return why_not_packed(self._packing, self._packed, probes, alone, self._model.dtype)

    def _packed(self, rows: Rows, batch: Indices) -> torch.Tensor:
        with torch.inference_mode():
            pack = self._packing.pack(rows, batch)
            return self._pooled(self._packing.forward(pack, pad=self._pad).last_hidden_state, pack.mask.long())

    def _padded(self, rows: Rows, batch: Indices) -> torch.Tensor:
        ids, mask, types = rows.padded(batch, pad=self._pad, pad_type=self._pad_type, left=False)
        inputs = {"input_ids": self._placed(ids), "attention_mask": self._placed(mask)}
        if self._has_types:
            inputs["token_type_ids"] = self._placed(types)
        with torch.inference_mode():
            return self._pooled(self._model(**inputs).last_hidden_state, inputs["attention_mask"])

    def _placed(self, values: Indices) -> torch.Tensor:
        return placed(values, self._model.device)

    def _pooled(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        pooled = [_pooled(states.float(), mask, mode) for mode in self.pooling]
        return torch.nn.functional.normalize(torch.cat(pooled, dim=1), dim=1).cpu()


def _pooling_of(model_id: str, files: DirectoryFiles) -> tuple[str, ...]:
    """The pooling modes that the model's modules name; the mean of the tokens where it has no modules."""
    modules = [entry for entry in files.array("modules.json") if isinstance(entry, dict)]
    kinds = {str(entry.get("type", "")).rpartition(".")[2]: str(entry.get("path", "")) for entry in modules}
    if foreign := sorted(set(kinds) - _HANDLED):
        raise ModelFault(f"{model_id} has the module {foreign[0]}, which is not run here: choose another encoder.")
    if "Pooling" not in kinds:
        return ("mean",)
    settings = files.json(f"{kinds['Pooling']}/config.json")
    named = settings.get("pooling_mode") or [mode for key, mode in _LEGACY_MODES.items() if settings.get(key)]
    modes = (named,) if isinstance(named, str) else tuple(named)
    if unknown := [mode for mode in modes if mode not in _POOLINGS]:
        raise ModelFault(f"{model_id} pools by {unknown[0]}, which is not done here: choose another encoder.")
    return modes or ("mean",)


def _pooled(hidden: torch.Tensor, mask: torch.Tensor, mode: str) -> torch.Tensor:
    """Vectors (batch, width) of hidden states (batch, tokens, width) under a mask (batch, tokens)."""
    if mode == "cls":
        return hidden[:, 0]
    seen = mask.unsqueeze(-1)
    if mode == "max":
        return hidden.masked_fill(seen == 0, float("-inf")).amax(dim=1)
    count = seen.sum(dim=1).clamp(min=1)
    return (hidden * seen).sum(dim=1) / (count if mode == "mean" else count.sqrt())


_POOLINGS = frozenset({"cls", "max", "mean", "mean_sqrt_len_tokens"})
