"""Makes real but tiny models with random weights, and their tokenizers, in a directory, as Hugging Face saves them.

Knows transformers and tokenizers. The vocabularies are worked out from a few sentences, so that nothing is downloaded.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AlbertTokenizer,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertTokenizer,
    ByT5Tokenizer,
    CamembertTokenizer,
    DebertaTokenizer,
    DebertaV2Tokenizer,
    DistilBertTokenizer,
    GPT2Tokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
    XLNetTokenizer,
)

from tests.tiny_vocabularies import byte_pair_vocabulary, unigram_vocabulary, wordpiece_vocabulary

#: Classifiers that run packed, and those whose attention cannot be confined to a text.
PACKED = (
    "bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra", "albert", "modernbert", "gpt2", "llama",
    "qwen2",
)  # fmt: skip
UNPACKED = ("deberta", "deberta-v2", "xlnet", "mpnet", "longformer")
CLASSIFIERS = ("bert", "distilbert", "roberta", "deberta-v2", "modernbert", "xlnet", "gpt2")

SENTENCES = (
    "The room was clean and the staff were kind to us all week.",
    "Nothing worked: the lift was broken, the heating too, and nobody answered the phone!",
    "A short film about long winters, with a good ending and a better beginning.",
    "I would buy it again, although the battery lasts only two days.",
    "Der Zug kam spät, aber das Essen im Speisewagen war gut.",
    "Why is the café closed on Mondays? We walked five kilometres for it.",
)

_WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})
_SIZE = 64  # positions, small so that tests can exceed them


def texts_of(lengths: Sequence[int], seed: int = 0) -> list[str]:
    """Texts of so many words each, drawn from the sentences."""
    draw = random.Random(seed)
    return [" ".join(draw.choice(_WORDS) for _ in range(length)) for length in lengths]


@cache
def _wordpiece() -> dict[str, int]:
    lowered = normalizers.BertNormalizer()
    split = pre_tokenizers.BertPreTokenizer()
    words = [word for line in SENTENCES for word, _ in split.pre_tokenize_str(lowered.normalize_str(line))]
    return wordpiece_vocabulary(words, 200, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])


def _numbered(vocabulary: dict[str, int], first: int) -> dict[str, int]:
    """The same pieces with ids from `first` on."""
    return {piece: number for number, piece in enumerate(sorted(vocabulary, key=vocabulary.__getitem__), start=first)}


def byte_bpe(
    special: Sequence[str], size: int = 400, lines: Sequence[str] = SENTENCES
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE over the lines."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = [word for line in lines for word, _ in split.pre_tokenize_str(line)]
    return byte_pair_vocabulary(words, size, special, pre_tokenizers.ByteLevel.alphabet())


@cache
def _unigram(special: tuple[str, ...]) -> list[tuple[str, float]]:
    split = pre_tokenizers.Metaspace()
    words = [word for line in SENTENCES for word, _ in split.pre_tokenize_str(line)]
    return unigram_vocabulary(words, 200, special)


def tokenizer_for(model_type: str) -> PreTrainedTokenizerBase:
    """The tokenizer class that checkpoints of this type come with, over a vocabulary of a few hundred pieces."""
    if model_type in {"bert", "distilbert", "fnet", "electra"}:
        kind = DistilBertTokenizer if model_type == "distilbert" else BertTokenizer
        return kind(vocab=_wordpiece(), model_max_length=_SIZE)
    if model_type == "modernbert":
        vocab, merges = byte_bpe(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
        return _modernbert_tokenizer(vocab, merges)
    if model_type in {"roberta", "longformer"}:
        vocab, merges = byte_bpe(("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
        return RobertaTokenizer(vocab=vocab, merges=merges, model_max_length=_SIZE - 2)
    if model_type in {"xlm-roberta", "camembert"}:
        pieces = _unigram(("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
        kind = XLMRobertaTokenizer if model_type == "xlm-roberta" else CamembertTokenizer
        return kind(vocab=pieces, model_max_length=_SIZE - 2)
    if model_type == "albert":
        pieces = _unigram(("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))
        return AlbertTokenizer(vocab=pieces, model_max_length=_SIZE)
    if model_type == "mpnet":
        return MPNetTokenizer(vocab={"<s>": 0, "<pad>": 1, "</s>": 2, "<mask>": 3, **_numbered(_wordpiece(), 4)})
    if model_type == "deberta":
        vocab, merges = byte_bpe(("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"))
        return DebertaTokenizer(vocab=vocab, merges=merges, model_max_length=_SIZE)
    if model_type in {"gpt2", "llama", "qwen2"}:
        vocab, merges = byte_bpe(("<|endoftext|>",))
        return GPT2Tokenizer(vocab=vocab, merges=merges, model_max_length=_SIZE)
    if model_type == "deberta-v2":
        pieces = _unigram(("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"))
        return DebertaV2Tokenizer(vocab=pieces, unk_id=3)
    if model_type == "t5":
        return ByT5Tokenizer(extra_ids=0)  # a slow tokenizer: no Rust behind it
    if model_type == "xlnet":
        pieces = _unigram(("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"))
        return XLNetTokenizer(vocab=pieces)
    raise ValueError(model_type)


def _modernbert_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """ModernBERT has no class of its own: a byte-level BPE with BERT's special tokens, whose limit is written "
    "nowhere."""
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


_PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_ROBERTA = {
    **_PLAIN, "max_position_embeddings": _SIZE, "type_vocab_size": 1, "bos_token_id": 0, "pad_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
_LLAMA = {**_PLAIN, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": _SIZE,
          "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}  # fmt: skip

_SHAPES: dict[str, dict[str, Any]] = {
    "bert": _PLAIN,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "longformer": {**_ROBERTA, "attention_window": [16, 16]},
    "electra": {**_PLAIN, "embedding_size": 16},
    "albert": {**_PLAIN, "embedding_size": 16, "num_hidden_groups": 1},
    "mpnet": {**_PLAIN, "max_position_embeddings": _SIZE + 2, "pad_token_id": 1},
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "deberta": {**_PLAIN, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 32},
    "deberta-v2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "relative_attention": True,
        "position_biased_input": False,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "type_vocab_size": 0,
    },
    "modernbert": {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "local_attention": 16,
        "global_attn_every_n_layers": 3,
    },
    "fnet": {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48},
    "t5": {
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 2,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    },
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": _SIZE, "bos_token_id": 0, "eos_token_id": 0},
}


#: Types whose positions are limited here; the others' shapes say so themselves.
_SIZED = {"bert", "distilbert", "electra", "albert", "deberta", "deberta-v2", "modernbert"}
#: Weights are drawn wide, so that different texts get different scores.
_SPREAD = {"t5": {"initializer_factor": 1.0}}


def config_for(model_type: str, tokenizer: PreTrainedTokenizerBase, **chosen: Any) -> Any:
    """A configuration of the type with two small layers, fitting the tokenizer."""
    shape = {"max_position_embeddings": _SIZE} if model_type in _SIZED else {}
    ids = {}
    if model_type == "modernbert":
        ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    values = {
        "vocab_size": len(tokenizer),
        **_SPREAD.get(model_type, {"initializer_range": 0.2}),
        **shape,
        **ids,
        **_SHAPES[model_type],
        **chosen,
    }
    return AutoConfig.for_model(model_type, **values)


def make_classifier(
    directory: Path,
    model_type: str,
    *,
    labels: Sequence[str] = ("negative", "neutral", "positive"),
    problem_type: str | None = None,
    seed: int = 0,
    **chosen: Any,
) -> Path:
    """A sequence classifier of the type with random weights, saved with its tokenizer. Answers the directory."""
    tokenizer = tokenizer_for(model_type)
    names = dict(enumerate(labels))
    config = config_for(
        model_type,
        tokenizer,
        id2label=names,
        label2id={name: index for index, name in names.items()},
        problem_type=problem_type,
        **chosen,
    )
    torch.manual_seed(seed)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_encoder(directory: Path, model_type: str = "bert", *, seed: int = 0, **chosen: Any) -> Path:
    """A plain encoder of the type with random weights, saved with its tokenizer. Answers the directory."""
    tokenizer = tokenizer_for(model_type)
    torch.manual_seed(seed)
    AutoModel.from_config(config_for(model_type, tokenizer, **chosen)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
