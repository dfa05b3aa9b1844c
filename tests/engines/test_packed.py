"""A pack gives each text what it gives alone, whatever stands beside it; what cannot be packed so never is, and says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpusmill.tasks import ClassificationParams
from tests.loaded_classifiers import Plain, Shelf, classify, documents_of, engine_of, same, scores
from tests.tiny_models import PACKED, UNPACKED, texts_of
from worker.device import Device
from worker.engines.budget import Budget
from worker.engines.classification import ClassificationEngine
from worker.engines.probes import probes_of
from worker.models import packing
from worker.models.attention import sdpa_attention
from worker.models.packing import Packing
from worker.models.tokens import TextEncoder

MIXED = texts_of([1, 12, 3, 7, 1, 2, 12, 5, 9, 4, 3, 8, 1, 6])
CAUSAL = ("gpt2", "llama", "qwen2")
ENCODERS = [model_type for model_type in PACKED if model_type not in CAUSAL]
LABELS = ("negative", "neutral", "positive")

Tiny = Callable[..., Plain]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Models by type and options, each made once."""
    return Shelf(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def engines(tiny: Tiny) -> Callable[[str], ClassificationEngine]:
    """Engines by type, each loaded once, that answer with every label."""
    made: dict[str, ClassificationEngine] = {}

    def get(model_type: str) -> ClassificationEngine:
        if model_type not in made:
            made[model_type], _ = engine_of(tiny(model_type).path)
        return made[model_type]

    return get


def assert_same(plain: Plain, engine: ClassificationEngine, params: Any, texts: list[str]) -> None:
    limit = engine.runtime["longest_input"]
    for text, result in zip(texts, classify(engine, params, documents_of(texts)), strict=True):
        expected = plain.logits(text, truncation=True, max_length=limit).softmax(-1)
        assert same(result, expected), text
        assert result.output is not None
        assert result.output["label"] == LABELS[int(expected.argmax())]


@pytest.mark.parametrize("model_type", PACKED)
def test_these_architectures_run_packed(
    tiny: Tiny, engines: Callable[[str], ClassificationEngine], model_type: str
) -> None:
    engine = engines(model_type)
    assert (engine.runtime["engine"], engine.runtime["attention"]) == ("packed", "packed_sdpa")
    assert "fallback" not in engine.runtime


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    model_type=st.sampled_from(PACKED), budget=st.integers(1, 500), seed=st.integers(0, 99),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=10),
)  # fmt: skip
def test_no_composition_of_a_pack_changes_a_label_or_a_score(
    tiny: Tiny, engines: Callable[[str], ClassificationEngine], model_type: str, budget: int, seed: int,
    lengths: list[int],
) -> None:  # fmt: skip
    plain, engine = tiny(model_type), engines(model_type)
    engine._budget = Budget(Device(kind="cpu", batch_tokens=budget), packs=True)
    params = ClassificationParams(top_k=100, long_documents="truncate", multi_label=False)
    assert_same(plain, engine, params, texts_of(lengths, seed))


@pytest.mark.parametrize("model_type", UNPACKED)
def test_attention_that_cannot_be_confined_is_never_packed(tiny: Tiny, model_type: str) -> None:
    plain = tiny(model_type)
    engine, params = engine_of(plain.path)
    assert engine.runtime["engine"] == "padded"
    assert "cannot be confined" in engine.runtime["fallback"]
    assert_same(plain, engine, params, MIXED)


@pytest.mark.parametrize("model_type", ["deberta", "deberta-v2", "mpnet"])
def test_without_that_gate_the_trial_finds_texts_that_attend_to_each_other(
    tiny: Tiny, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that keeps its own attention, whatever it is told, would read a pack as one long text."""
    plain = tiny(model_type)
    monkeypatch.setattr(type(plain.model), "_can_set_attn_implementation", classmethod(lambda cls: True))
    monkeypatch.setattr(type(plain.model), "set_attn_implementation", lambda self, name: None)
    engine, params = engine_of(plain.path)
    assert engine.runtime["engine"] == "padded"
    assert "In a pack" in engine.runtime["fallback"]
    assert_same(plain, engine, params, MIXED)


@pytest.mark.parametrize("model_type", ENCODERS)
def test_positions_that_begin_anew_do_not_keep_texts_apart_and_the_trial_finds_it(
    tiny: Tiny, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With transformers' own attention an encoder ignores that positions begin anew, without a word."""
    monkeypatch.setattr(packing, "attention_for", lambda device, dtype: "sdpa")
    plain = tiny(model_type)
    engine, params = engine_of(plain.path)
    assert engine.runtime["engine"] == "padded"
    assert "change with its neighbour" in engine.runtime["fallback"]
    assert_same(plain, engine, params, MIXED)


@pytest.mark.parametrize("model_type", [*(name for name in ENCODERS if name != "modernbert"), "gpt2"])
def test_positions_that_run_on_from_text_to_text_are_found(
    tiny: Tiny, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where positions rotate queries and keys (ModernBERT, Llama) only their differences count, and nothing is wrong."""
    monkeypatch.setattr(
        Packing, "_positions", lambda self, ids, ends, lengths: np.arange(len(ids)) % 60 + (self._padding or 0)
    )
    engine, _ = engine_of(tiny(model_type).path)
    assert engine.runtime["engine"] == "padded"
    assert "differ from those alone" in engine.runtime["fallback"]


def test_a_padded_batch_is_refused_by_the_attention_for_packs(
    tiny: Tiny, engines: Callable[[str], ClassificationEngine]
) -> None:
    """Such an attention is given no padding mask, so that padding would be read as text."""
    engine = engines("bert")
    inputs = tiny("bert").tokenizer(MIXED[:3], padding=True, return_tensors="pt")
    model: Any = engine._forward._model  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="without a layout"):
        model(**inputs)


def test_local_attention_keeps_its_window_in_a_pack(tiny: Tiny) -> None:
    plain = tiny("modernbert")
    engine, params = engine_of(plain.path, batch_tokens=400)
    assert engine.runtime["engine"] == "packed"
    assert_same(plain, engine, params, texts_of([24, 20, 24, 9, 3]))


def test_local_attention_without_its_window_is_found(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def wide(*args: Any, sliding_window: int | None = None, **kwargs: Any) -> Any:
        return sdpa_attention(*args, **kwargs)

    monkeypatch.setattr("worker.models.attention.sdpa_attention", wide)
    engine, _ = engine_of(tiny("modernbert").path)
    assert "differ from those alone" in engine.runtime["fallback"]


def test_a_model_that_fails_on_packs_is_left_as_it_was(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")

    monkeypatch.setattr("worker.models.attention.sdpa_attention", broken)
    plain = tiny("bert")
    engine, params = engine_of(plain.path)
    assert (engine.runtime["engine"], engine.runtime["attention"]) == ("padded", "sdpa")
    assert "RuntimeError: FlashAttention only supports" in engine.runtime["fallback"]
    assert_same(plain, engine, params, MIXED)


def test_a_lost_device_during_the_trial_is_not_taken_for_a_model_that_cannot_be_packed(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*args: Any, **kwargs: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("worker.models.attention.sdpa_attention", lost)
    with pytest.raises(torch.AcceleratorError):
        engine_of(tiny("bert").path)


@pytest.mark.parametrize("model_type", ["roberta", "camembert", "xlm-roberta"])
def test_a_text_that_holds_the_padding_token_is_numbered_as_alone(tiny: Tiny, model_type: str) -> None:
    """RoBERTa and its kin pass over padding when they number positions, also where the text itself says it."""
    plain = tiny(model_type)
    engine, params = engine_of(plain.path)
    assert_same(plain, engine, params, ["the <pad> room", "<pad><pad>", *MIXED, "was <pad> clean and"])


def test_the_classifiers_pooling_is_the_models_own(tiny: Tiny) -> None:
    plain = tiny("modernbert", classifier_pooling="mean")
    engine, params = engine_of(plain.path)
    assert engine.runtime["engine"] == "packed"
    assert_same(plain, engine, params, MIXED)


@pytest.mark.parametrize("model_type", CAUSAL)
@pytest.mark.parametrize("padding", [None, 0])
def test_a_decoder_reads_its_answer_at_each_texts_own_last_token(
    tiny: Tiny, model_type: str, padding: int | None
) -> None:
    plain = tiny(model_type, pad_token_id=padding)
    engine, params = engine_of(plain.path)
    assert engine.runtime["engine"] == "packed"
    assert_same(plain, engine, params, ["a room<|endoftext|>", "a<|endoftext|>b c", *MIXED])
    assert engine._forward._model.config.pad_token_id == padding  # type: ignore[attr-defined]


@pytest.mark.parametrize("model_type", ["bert", "roberta", "albert", "modernbert", "gpt2"])
def test_pairs_are_packed_like_single_texts(tiny: Tiny, model_type: str) -> None:
    plain = tiny(model_type)
    engine, params = engine_of(plain.path)
    documents = documents_of(MIXED, texts_of([4, 1, 6, 2, 9, 1, 3, 7, 1, 2, 5, 3, 8, 2], seed=1))
    for document, result in zip(documents, classify(engine, params, documents), strict=True):
        assert same(result, plain.logits(document.text, document.text_pair).softmax(-1))


def test_half_precision_is_packed_within_its_own_precision(tiny: Tiny) -> None:
    plain = tiny("bert")
    engine, params = engine_of(plain.path, dtype="bfloat16")
    assert engine.runtime["engine"] == "packed"
    for text, result in zip(MIXED, classify(engine, params, documents_of(MIXED)), strict=True):
        assert np.abs(scores(result) - plain.logits(text).softmax(-1).numpy()).max() < 0.05


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_a_text_whose_states_are_no_numbers_fails_alone_in_its_pack(tiny: Tiny, model_type: str) -> None:
    """A mean over a padded layout would multiply a neighbour's NaN by nought."""
    plain = tiny(model_type, **({"classifier_pooling": "mean"} if model_type == "modernbert" else {}))
    engine, params = engine_of(plain.path, batch_tokens=400)
    marker = plain.content("café")[0]

    def poison(module: Any, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((args[0] == marker).unsqueeze(-1), float("nan"))

    texts = [text for text in MIXED if marker not in plain.content(text)]
    model: Any = engine._forward._model  # type: ignore[attr-defined]
    handle = model.get_input_embeddings().register_forward_hook(poison)
    try:
        *good, bad = classify(engine, params, documents_of([*texts, "café"]))
    finally:
        handle.remove()
    for text, result in zip(texts, good, strict=True):
        assert same(result, plain.logits(text).softmax(-1))
    assert bad.error is not None
    assert "no number" in bad.error.message


@pytest.mark.parametrize("model_type", PACKED)
def test_the_trial_is_a_few_tokens_so_that_a_load_stays_short(tiny: Tiny, model_type: str) -> None:
    plain = tiny(model_type)
    encoder = TextEncoder(plain.tokenizer)
    probes = probes_of(plain.model, plain.tokenizer, encoder.single, 62)
    assert len(np.unique(probes.rows.lengths)) < len(probes) < 8
    assert probes.rows.lengths.sum() < 100
