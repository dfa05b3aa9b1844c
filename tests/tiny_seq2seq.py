"""Makers of tiny sequence-to-sequence models: real architectures and tokenizers, random weights, nothing downloaded.

Knows transformers' configurations and the files of each tokenizer. Must not know the service.

Random decoders repeat one token for ever. The weights here are drawn wide, which makes each step a random function of
what went before, and the end token's output row is longer than the others, so that outputs differ, vary in length and
often end by themselves.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers

from tests.tiny_models import byte_bpe

_WORDS = [
    "the", "a", "cat", "dog", "house", "tree", "river", "man", "woman", "child", "bird", "road", "stone", "light",
    "night", "day", "water", "green", "blue", "small", "old", "runs", "sees", "eats", "is", "on", "under", "near",
    "with", "and", "but", "never", "often", "today", "here", "finds", "makes", "takes", "gives", "long", "short",
]  # fmt: skip
#: Positions of every model, and the longest source that its tokenizer states.
POSITIONS = 64


def text(words: int, seed: int) -> str:
    """So many words that the tokenizers know, as sentences of three to nine words."""
    draw = random.Random(seed)
    chosen = [draw.choice(_WORDS) for _ in range(words)]
    start = 0
    while start < words:
        stop = min(words, start + draw.randint(3, 9))
        chosen[start] = chosen[start].capitalize()
        chosen[stop - 1] += "."
        start = stop
    return " ".join(chosen)


def make(kind: str, directory: Path) -> Path:
    """Write the model and tokenizer of a kind (a key of `KINDS`) into a directory, and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    model = KINDS[kind](directory)
    _widen(model)
    model.save_pretrained(directory)
    return directory


def _pieces(path: Path, *, size: int = 160, kind: str = "unigram", **ids: Any) -> sentencepiece.SentencePieceProcessor:
    lines = [text(12, seed) for seed in range(300)] + ["summarize: translate English to German: a b c d é ü"]
    made = io.BytesIO()  # from memory to memory: with files, the model would hold their names
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=made, vocab_size=size, model_type=kind, hard_vocab_limit=False,
        minloglevel=2, num_threads=1, **ids,
    )  # fmt: skip
    path.write_bytes(made.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def _configure(directory: Path, **settings: Any) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


_SIZES: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": POSITIONS, "dropout": 0.0,
}  # fmt: skip


def _marian(directory: Path, codes: tuple[str, ...] = ()) -> Any:
    pieces = _pieces(directory / "source.spm", bos_id=-1, eos_id=0, unk_id=1)
    (directory / "target.spm").write_bytes((directory / "source.spm").read_bytes())
    names = [pieces.id_to_piece(index) for index in range(pieces.get_piece_size())] + [f">>{code}<<" for code in codes]
    vocabulary = {name: index for index, name in enumerate([*names, "<pad>"])}
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    languages = {} if codes else {"source_lang": "en", "target_lang": "de"}
    _configure(directory, tokenizer_class="MarianTokenizer", model_max_length=512, **languages)
    pad = vocabulary["<pad>"]
    config = transformers.MarianConfig(
        vocab_size=len(vocabulary), **_SIZES, pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad,
        bos_token_id=None, forced_eos_token_id=None, scale_embedding=True, activation_function="swish",
    )  # fmt: skip
    model = transformers.MarianMTModel(config)
    model.generation_config.update(bad_words_ids=[[pad]], max_length=POSITIONS)
    return model


def _t5(directory: Path, *, gated: bool = False) -> Any:
    pieces = _pieces(directory / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    _configure(directory, tokenizer_class="T5Tokenizer", model_max_length=POSITIONS, extra_ids=4)
    config = transformers.T5Config(
        vocab_size=pieces.get_piece_size() + 4, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2,
        dropout_rate=0.0, feed_forward_proj="gated-gelu" if gated else "relu", tie_word_embeddings=not gated,
        decoder_start_token_id=0,
        task_specific_params={
            "summarization": {"prefix": "summarize: ", "max_length": 30},
            "translation_en_to_de": {"prefix": "translate English to German: ", "max_length": 40},
            "translation_en_to_fr": {"prefix": "translate English to French: ", "max_length": 40},
        },
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def _bart(directory: Path) -> Any:
    vocabulary, merges = byte_bpe(
        ("<s>", "<pad>", "</s>", "<unk>", "<mask>"), 400, [text(12, seed) for seed in range(300)]
    )
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (directory / "merges.txt").write_text("\n".join(" ".join(pair) for pair in merges), encoding="utf-8")
    _configure(directory, tokenizer_class="BartTokenizer", model_max_length=POSITIONS)
    config = transformers.BartConfig(vocab_size=len(vocabulary), **_SIZES)
    model = transformers.BartForConditionalGeneration(config)
    model.generation_config.update(
        max_length=40, min_length=5, no_repeat_ngram_size=3, forced_bos_token_id=0, forced_eos_token_id=2
    )
    return model


def _pegasus(directory: Path) -> Any:
    _pieces(directory / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    _configure(directory, tokenizer_class="PegasusTokenizer", model_max_length=POSITIONS, offset=4)
    size = len(transformers.AutoTokenizer.from_pretrained(directory))
    config = transformers.PegasusConfig(vocab_size=size, **_SIZES, scale_embedding=True)
    model = transformers.PegasusForConditionalGeneration(config)
    model.generation_config.update(max_length=40, num_beams=2, length_penalty=0.8)
    return model


def _fairseq_pieces(directory: Path, kind: str = "unigram") -> None:
    _pieces(directory / "sentencepiece.bpe.model", kind=kind, unk_id=0, bos_id=1, eos_id=2, pad_id=-1)


def _mbart(directory: Path, *, fifty: bool = False) -> Any:
    _fairseq_pieces(directory)
    name = "MBart50Tokenizer" if fifty else "MBartTokenizer"
    _configure(directory, tokenizer_class=name, model_max_length=POSITIONS, src_lang="en_XX")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    start = 2 if fifty else tokenizer.convert_tokens_to_ids("ro_RO")
    config = transformers.MBartConfig(vocab_size=len(tokenizer), **_SIZES, decoder_start_token_id=start)
    model = transformers.MBartForConditionalGeneration(config)
    model.generation_config.update(max_length=40)
    return model


def _m2m100(directory: Path) -> Any:
    pieces = _pieces(directory / "sentencepiece.bpe.model", unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    names += [pieces.id_to_piece(index) for index in range(3, pieces.get_piece_size())]
    vocabulary = {name: index for index, name in enumerate(names)}
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    _configure(directory, tokenizer_class="M2M100Tokenizer", model_max_length=POSITIONS)
    return _m2m100_model(len(vocabulary) + 100)  # the languages' ids follow the vocabulary


def _nllb(directory: Path) -> Any:
    _fairseq_pieces(directory, "bpe")
    codes = ["eng_Latn", "deu_Latn", "fra_Latn"]
    _configure(directory, src_lang="eng_Latn", extra_special_tokens=codes, model_max_length=POSITIONS)
    tokenizer = transformers.NllbTokenizer.from_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return _m2m100_model(len(tokenizer))


def _m2m100_model(size: int) -> Any:
    config = transformers.M2M100Config(
        vocab_size=size + 8, **_SIZES, bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2
    )
    model = transformers.M2M100ForConditionalGeneration(config)
    model.generation_config.update(max_length=40)
    return model


KINDS: dict[str, Callable[[Path], Any]] = {
    "marian": _marian,
    "marian-multi": lambda directory: _marian(directory, ("fra", "deu")),
    "t5": _t5,
    "t5-gated": lambda directory: _t5(directory, gated=True),
    "bart": _bart,
    "pegasus": _pegasus,
    "mbart": _mbart,
    "mbart50": lambda directory: _mbart(directory, fifty=True),
    "m2m100": _m2m100,
    "nllb": _nllb,
}


def _widen(model: Any) -> None:
    draw = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() != 2 or "embed_positions" in name or "relative_attention" in name:
                continue
            weight.normal_(0.0, weight.shape[1] ** -0.5, generator=draw)
            # Sublayers must outweigh the residual, which holds the token before and, with tied weights, repeats it.
            if "decoder" in name and name.endswith(("fc2.weight", "DenseReluDense.wo.weight")):
                weight.mul_(16)
            if name.endswith(("encoder_attn.out_proj.weight", "EncDecAttention.o.weight")):
                weight.mul_(3)
            if name.endswith(("q_proj.weight", "k_proj.weight", ".q.weight", ".k.weight")):
                weight.mul_(4)
        model.get_output_embeddings().weight[model.config.eos_token_id] *= 3
