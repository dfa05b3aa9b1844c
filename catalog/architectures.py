"""What an architecture can do, known by its name alone.

Knows the names that checkpoints carry in `config.json` (`architectures`, `model_type`). Must not know files or torch.
"""

from __future__ import annotations

from corpusmill.models import Family
from corpusmill.tasks import Task

_BOTH = (Task.SUMMARIZATION, Task.TRANSLATION)
_SUMMARIES = (Task.SUMMARIZATION,)
_TRANSLATIONS = (Task.TRANSLATION,)

#: Encoder-decoders over text, by `model_type`, and what they are made for. Speech and vision models share the suffix
#: `ForConditionalGeneration`, so that the suffix alone says too little.
SEQ2SEQ: dict[str, tuple[Task, ...]] = {
    "marian": _TRANSLATIONS,
    "m2m_100": _TRANSLATIONS,
    "nllb-moe": _TRANSLATIONS,
    "fsmt": _TRANSLATIONS,
    "pegasus": _SUMMARIES,
    "pegasus_x": _SUMMARIES,
    "bigbird_pegasus": _SUMMARIES,
    "led": _SUMMARIES,
    "bart": _BOTH,
    "mbart": _BOTH,
    "t5": _BOTH,
    "mt5": _BOTH,
    "umt5": _BOTH,
    "longt5": _BOTH,
    "switch_transformers": _BOTH,
    "t5gemma": _BOTH,
    "mvp": _BOTH,
    "plbart": _BOTH,
    "prophetnet": _BOTH,
    "blenderbot": _BOTH,
    "blenderbot-small": _BOTH,
    "encoder-decoder": _BOTH,
}

#: Text encoders, by `model_type`, whose bare model (`BertModel`, …) can embed sentences.
ENCODERS = frozenset({
    "albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2", "distilbert",
    "electra", "ernie", "eurobert", "gte", "longformer", "megatron-bert", "mobilebert", "modernbert", "mpnet",
    "nomic_bert", "nystromformer", "rembert", "roberta", "roberta-prelayernorm", "roformer", "squeezebert",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
})  # fmt: skip

#: Carry the suffix `ForSequenceClassification` but take sound, pictures, page layouts or tables.
NOT_TEXT = frozenset({
    "data2vec-audio", "hubert", "layoutlmv2", "layoutlmv3", "lilt", "markuplm", "modernvbert", "perceiver", "sew",
    "sew-d", "tapas", "ultravbert", "unispeech", "unispeech-sat", "wav2vec2", "wav2vec2-bert", "wav2vec2-conformer",
    "wavlm", "whisper", "esm", "esmc",
})  # fmt: skip

#: Causal language models whose architecture does not end in `ForCausalLM`.
CAUSAL = frozenset({"GPT2LMHeadModel", "OpenAIGPTLMHeadModel", "CTRLLMHeadModel"})

#: Carry the suffix `ForCausalLM` but are the decoder half of another model, or read pictures or sound. So do text
#: encoders run as decoders and the decoders of `SEQ2SEQ`, which continue no text of their own.
NOT_CAUSAL = frozenset({
    "bert-generation", "blip-2", "blip_text_model", "csm", "emu3", "fuyu", "git", "kosmos-2", "moshi", "musicgen",
    "musicgen_melody", "phi4_multimodal", "qdqbert", "reformer", "roc_bert", "speech_to_text_2", "trocr", "whisper",
    "xlnet",
})  # fmt: skip

#: Tokenizers that are a rule and need no file.
WITHOUT_FILES = frozenset({"ByT5Tokenizer", "CanineTokenizer"})

#: The tokenizer files of which one set must be there; `*` stands for any name.
TOKENIZER_FILES: tuple[tuple[str, ...], ...] = (
    ("tokenizer.json",),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
    ("*.model",),
    ("source.spm", "target.spm", "vocab.json"),
)
TOKENIZER_FILES_OF: dict[str, tuple[tuple[str, ...], ...]] = {
    "marian": (("source.spm", "target.spm", "vocab.json"), ("tokenizer.json",)),
}


def family_of(model_type: str, architecture: str, *, sentence_layout: bool) -> tuple[Family, tuple[Task, ...]] | None:
    """The family and tasks of an architecture, or None where it can do none of them.

    `sentence_layout` says that the directory is laid out by sentence-transformers, which embeds with the encoder of any
    checkpoint, whatever head it was saved with.
    """
    if architecture.endswith("ForSequenceClassification"):
        return None if model_type in NOT_TEXT else ("sequence-classification", (Task.CLASSIFICATION,))
    if model_type in SEQ2SEQ and architecture.endswith(("ForConditionalGeneration", "MTModel", "EncoderDecoderModel")):
        return "seq2seq", SEQ2SEQ[model_type]
    if model_type in ENCODERS and (sentence_layout or architecture.endswith("Model")):
        return "sentence-encoder", (Task.SUMMARIZATION,)
    if _is_causal(model_type, architecture):
        return "causal", tuple(Task)
    return None


def _is_causal(model_type: str, architecture: str) -> bool:
    elsewhere = model_type in ENCODERS or model_type in SEQ2SEQ or model_type in NOT_CAUSAL
    return architecture in CAUSAL or (architecture.endswith("ForCausalLM") and not elsewhere)
