"""Models run by CTranslate2, in the place of transformers' own forward and `generate()`.

Knows CTranslate2's runtime. Must not know documents, tasks or batches, nor how models are converted
(`models.conversion`): the engines run these models as they run transformers' own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from corpusmill.errors import ModelFault
from corpusmill.models import ModelInfo
from worker.models.conversion import ends_of

#: Settings of a generation that `options_of` passes on, and those that shape no token.
_PASSED_ON = frozenset({
    "num_beams", "max_length", "min_length", "length_penalty", "early_stopping", "no_repeat_ngram_size", "bad_words_ids",
    "forced_bos_token_id", "forced_eos_token_id", "repetition_penalty", "do_sample", "decoder_start_token_id",
})  # fmt: skip
_WITHOUT_EFFECT = frozenset({
    "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "use_cache",
    "num_return_sequences", "return_dict_in_generate", "cache_implementation", "is_assistant", "max_new_tokens",
    "min_new_tokens", "renormalize_logits",
})  # fmt: skip


class _Sized(torch.nn.Module):
    """Stands where an embedding stood, for those who ask how many rows it has."""

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        self.num_embeddings = int(embedding.num_embeddings)
        self.padding_idx = embedding.padding_idx


class _Weights:
    """CTranslate2's own object over the weights in a directory; shallow copies of a module share it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind = kind
        self._folder = folder
        self.load("float32")

    def load(self, compute: str) -> None:
        """Read the weights, to compute in that precision. The directory must be there."""
        import ctranslate2

        make = getattr(ctranslate2, self._kind)
        self.now: Any = make(
            str(self._folder), device="cpu", compute_type=compute, intra_threads=torch.get_num_threads()
        )


class Ct2Encoder(torch.nn.Module):
    """An encoder of transformers', computed by CTranslate2; its pooler stays what it is."""

    def __init__(self, base: Any, folder: Path) -> None:
        super().__init__()
        self.config = base.config
        self.pooler = getattr(base, "pooler", None)
        self.words = _Sized(base.get_input_embeddings())
        found = [module for name, module in base.named_modules() if name.endswith("position_embeddings")]
        self.position_embeddings = _Sized(found[0]) if found else None
        self._typed = type(base).__name__ == "BertModel"
        self.weights = _Weights("Encoder", folder)

    def get_input_embeddings(self) -> torch.nn.Module:
        """What says how many ids there are."""
        return self.words

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **_: Any,
    ) -> Any:
        """States (batch, longest, width) of ids padded on the right, as transformers gives them."""
        from ctranslate2 import StorageView
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        ids = np.ascontiguousarray(input_ids.numpy(), dtype=np.int32)
        lengths = np.full(len(ids), ids.shape[1]) if attention_mask is None else attention_mask.sum(dim=1).numpy()
        types = token_type_ids.tolist() if self._typed and token_type_ids is not None else None
        output = self.weights.now.forward_batch(
            StorageView.from_array(ids), StorageView.from_array(lengths.astype(np.int32)), token_type_ids=types
        )
        states = torch.from_numpy(np.array(output.last_hidden_state, dtype=np.float32))
        pooled = self.pooler(states) if self.pooler is not None else None
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)


class Ct2Seq2Seq(torch.nn.Module):
    """Stands where a sequence-to-sequence model stood: its configuration, and `generate()` by CTranslate2."""

    def __init__(self, model: Any, folder: Path) -> None:
        super().__init__()
        self.config = model.config
        self.generation_config = model.generation_config
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        self.words = _Sized(model.get_input_embeddings())
        self.weights = _Weights("Translator", folder)

    def get_input_embeddings(self) -> torch.nn.Module:
        """What says how many ids there are."""
        return self.words

    def generate(
        self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, generation_config: Any
    ) -> torch.Tensor:
        """Outputs (batch, longest) from the start token on, as `generate()` gives them. Raises ModelFault for settings
        that CTranslate2 does not do as `generate()` does."""
        config = generation_config
        options = options_of(config)
        counts = attention_mask.sum(dim=1).tolist()
        sources = [list(map(str, row[:count])) for row, count in zip(input_ids.tolist(), counts, strict=True)]
        first = config.forced_bos_token_id
        results = self.weights.now.translate_batch(
            sources, target_prefix=None if first is None else [[str(first)]] * len(sources), **options
        )
        start = int(config.decoder_start_token_id)
        rows = [[start, *map(int, result.hypotheses[0])] for result in results]
        rows = [_forced_end(row, config) for row in rows]
        pad, longest = config.pad_token_id or 0, max(map(len, rows))
        return torch.tensor([row + [pad] * (longest - len(row)) for row in rows])


def options_of(config: Any) -> dict[str, Any]:
    """A generation config as the options of `Translator.translate_batch`.

    Greedy outputs are those of `generate()`. A beam search is CTranslate2's own: with `early_stopping` it mostly ends where
    `generate()` does, and differs most for outputs that reach the length limit, where `generate()` weighs beams that have
    not ended against those that have.

    Raises ModelFault for the first setting that would not give what `generate()` gives.
    """
    beams = config.num_beams or 1
    reasons = {
        "do_sample": (bool(config.do_sample), "it samples by a generator of its own"),
        "repetition_penalty": ((config.repetition_penalty or 1.0) != 1.0, "it does not count the start token"),
        "early_stopping": (beams > 1 and config.early_stopping is not True, "its beam search ends as with true alone"),
        "forced_bos_token_id": (
            beams > 1 and config.forced_bos_token_id is not None,
            "with several beams it leaves that token out of an output's length",
        ),
    }
    others = set(config.to_diff_dict()) - _PASSED_ON - _WITHOUT_EFFECT
    reasons |= {name: (getattr(config, name, None) is not None, "it has nothing like it") for name in sorted(others)}
    for name, (wrong, why) in reasons.items():
        if wrong:
            raise ModelFault(
                f"CTranslate2 does not do {name} as this model's generate() does: {why}. Set it otherwise in generation, "
                "or choose engine auto."
            )
    # A length limit counts the start token. The end token that is forced at the limit is added afterwards.
    forced = config.forced_eos_token_id is not None
    return {
        "beam_size": beams,
        "length_penalty": 1.0 if config.length_penalty is None else config.length_penalty,
        "no_repeat_ngram_size": config.no_repeat_ngram_size or 0,
        "max_decoding_length": config.max_length - 1 - forced,
        "min_decoding_length": max(0, (config.min_length or 0) - 1),
        "suppress_sequences": [list(map(str, words)) for words in config.bad_words_ids or []] or None,
        "end_token": [str(end) for end in ends_of(config)],
        "return_end_token": True,
        "max_input_length": 0,
    }


def _forced_end(row: list[int], config: Any) -> list[int]:
    """The row with the end token that is forced at the length limit, where it got there without one."""
    if config.forced_eos_token_id is None or row[-1] in ends_of(config) or len(row) != config.max_length - 1:
        return row
    forced = config.forced_eos_token_id
    return [*row, forced[0] if isinstance(forced, list) else forced]


class Loaded:
    """A model with CTranslate2 in it. It computes in float32, in which the engines try it, until it is told otherwise."""

    def __init__(self, info: ModelInfo, model: Any, folder: Path) -> None:
        self._part: Ct2Encoder | Ct2Seq2Seq
        if info.family == "seq2seq":
            self.model = self._part = Ct2Seq2Seq(model, folder)
        else:
            self._part = Ct2Encoder(model.base_model, folder)
            setattr(model, model.base_model_prefix, self._part)
            self.model = model
        self._file_bytes = (folder / "model.bin").stat().st_size
        self.own_bytes = self._file_bytes

    def compute_in(self, compute: str) -> None:
        """Load the weights again, rounded to `int8`; the directory must still be there."""
        if compute != "float32":
            self._part.weights.load(compute)
            self.own_bytes = self._file_bytes // 4
