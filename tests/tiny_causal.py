"""Makers of tiny causal models: real architectures and tokenizers, random weights, nothing downloaded.

Knows transformers' configurations and tokenizers. Must not know the service.

Output rows are drawn apart from the embeddings, so that tokens do not repeat for ever, and the end token's is longer than
the others, so that outputs vary in length and often end by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.tiny_models import SENTENCES, byte_bpe, tokenizer_for
from tests.tiny_vocabularies import byte_pair_vocabulary

#: Positions of every model.
POSITIONS = 256
PIECES = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
#: As Qwen's template: turns between special tokens.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: As Llama 2's template: the user's text trimmed, the answer after a space.
INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] | trim }} "
    "[/INST]{% else %} {{ message['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)


@cache
def _metaspace() -> PreTrainedTokenizerFast:
    """A byte-fallback BPE over words that begin with ▁, as Llama's tokenizer is."""
    spaces = normalizers.Replace(" ", "▁")
    split = pre_tokenizers.Metaspace(prepend_scheme="first")
    lines = [*SENTENCES, "[INST] Summarize: Text: Label: good bad very [/INST] {}\"':<|>_"]
    words = [word for line in lines for word, _ in split.pre_tokenize_str(spaces.normalize_str(line))]
    vocab, merges = byte_pair_vocabulary(words, 420, PIECES)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    backend.normalizer = spaces
    backend.pre_tokenizer = split
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template=INSTRUCT,
        extra_special_tokens=list(PIECES[3:]),
    )  # fmt: skip


@cache
def _byte_level() -> PreTrainedTokenizerFast:
    """A byte-level BPE with ChatML's turns, as Qwen's tokenizer is."""
    vocab, merges = byte_bpe(PIECES, 420)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<unk>", chat_template=CHATML,
        extra_special_tokens=["<|im_start|>"],
    )  # fmt: skip


_SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": POSITIONS, "tie_word_embeddings": False,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS, "tie_word_embeddings": False},
    "llama": {**_SIZES, "bos_token_id": 1, "eos_token_id": 2},
    "qwen2": {**_SIZES, "eos_token_id": 4},
    "gemma2": {**_SIZES, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 24, "eos_token_id": 4},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "tie_word_embeddings": False, "eos_token_id": 4},
    "mamba": {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "tie_word_embeddings": False},
}


def causal_tokenizer(kind: str) -> PreTrainedTokenizerBase:
    """The tokenizer that checkpoints of this type come with, over a vocabulary of a few hundred pieces."""
    if kind == "gpt2":
        tokenizer = tokenizer_for("gpt2")
        tokenizer.model_max_length = POSITIONS
        return tokenizer
    return _metaspace() if kind == "llama" else _byte_level()


def make_causal(directory: Path, kind: str, *, seed: int = 6, stated: dict[str, Any] | None = None) -> Path:
    """A causal model of the type with random weights, saved with its tokenizer; `stated` goes into its
    generation_config.json. Answers the directory."""
    tokenizer = causal_tokenizer(kind)
    values = {"initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, **KINDS[kind]}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **values)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        ends = config.eos_token_id
        output = model.get_output_embeddings()
        output.weight.normal_(0.0, 0.6)
        output.weight[ends] *= 1.8
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=ends, **(stated or {})
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def words(count: int, seed: int = 0) -> str:
    """So many words that the tokenizers know, as one sentence after another."""
    known: Sequence[str] = " ".join(SENTENCES).split()
    return " ".join(known[(seed * 7 + at * (seed + 1)) % len(known)] for at in range(count))
