"""The last layer runs for the one token of each text that the head reads, with the same answers; where a head reads
others, that is found when the model is loaded, and every token goes through all layers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from catalog import Catalog
from corpusmill.tasks import ClassificationParams
from tests.loaded_classifiers import Plain, Shelf, classify, documents_of, engine_of, same, scores
from tests.tiny_models import PACKED, make_encoder, texts_of
from worker.device import Device
from worker.engines.budget import Budget
from worker.engines.classification import ClassificationEngine
from worker.engines.int8 import quantize_linears
from worker.models import last_layer
from worker.models.layouts import Keys, layout_of
from worker.models.loading import load_model
from worker.models.packing import Packing

MIXED = texts_of([1, 12, 3, 7, 1, 2, 12, 5, 9, 4, 3, 8, 1, 6])
SECOND = texts_of([4, 1, 6, 2, 9, 1, 3, 7, 1, 2, 5, 3, 8, 2], seed=1)
LABELS = ("negative", "neutral", "positive")
ONE = "one token of each text"
#: Models, with what is particular about their last layer: windows that end before the text does (ModernBERT with three
#: or four layers, Qwen2), a single layer, and a decoder whose padding token may end a text.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in PACKED},
    "modernbert, last layer global": ("modernbert", {"layer_types": ["sliding_attention"] * 3 + ["full_attention"]}),
    "qwen2, last layer local": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
    ),
    "bert, one layer": ("bert", {"num_hidden_layers": 1}),
    "albert, two groups": ("albert", {"num_hidden_groups": 2}),
    "gpt2, padded": ("gpt2", {"pad_token_id": 0}),
}  # fmt: skip

Tiny = Callable[..., Plain]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Models by type and options, each made once."""
    return Shelf(tmp_path_factory.mktemp("last-layer"))


@pytest.fixture(scope="module")
def loaded(tiny: Tiny) -> Callable[[str], tuple[Plain, ClassificationEngine]]:
    """Models by kind beside engines that answer with every label, each loaded once."""
    made: dict[str, tuple[Plain, ClassificationEngine]] = {}

    def get(kind: str) -> tuple[Plain, ClassificationEngine]:
        if kind not in made:
            model_type, chosen = KINDS[kind]
            plain = tiny(model_type, **chosen)
            made[kind] = plain, engine_of(plain.path)[0]
        return made[kind]

    return get


def rows_of_the_feed_forward(engine: ClassificationEngine, texts: list[str]) -> list[int]:
    """Rows that go through the widest linear layers of a pack's encoder, layer by layer."""
    model: Any = engine._forward._model  # type: ignore[attr-defined]
    found: list[int] = []
    # what narrows again after a feed-forward: 48 wide in the tiny models, 128 in GPT-2
    narrow = [
        module for module in model.base_model.modules()
        if getattr(module, "in_features", None) == 48 or getattr(module, "nx", None) == 128
    ]  # fmt: skip
    hooks = [
        module.register_forward_pre_hook(lambda _, args: found.append(args[0].numel() // args[0].shape[-1]))
        for module in narrow
    ]
    try:
        params = ClassificationParams(top_k=100, long_documents="truncate", multi_label=False)
        classify(engine, params, documents_of(texts))
    finally:
        for hook in hooks:
            hook.remove()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_layer_of_these_models_runs_for_one_token_of_each_text(
    loaded: Callable[[str], tuple[Plain, ClassificationEngine]], kind: str
) -> None:
    plain, engine = loaded(kind)
    assert engine.runtime["last_layer"] == ONE
    engine._budget = Budget(Device(kind="cpu", batch_tokens=400), packs=True)
    texts = MIXED[:5]
    tokens = sum(len(plain.tokenizer(text)["input_ids"]) for text in texts)
    *earlier, last = rows_of_the_feed_forward(engine, texts)
    assert set(earlier) <= {tokens}
    assert last == len(texts)


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)), budget=st.integers(1, 500), seed=st.integers(0, 99),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=10), paired=st.booleans(),
)  # fmt: skip
def test_no_batch_changes_a_label_or_a_score(
    loaded: Callable[[str], tuple[Plain, ClassificationEngine]], kind: str, budget: int, seed: int,
    lengths: list[int], paired: bool,
) -> None:  # fmt: skip
    plain, engine = loaded(kind)
    engine._budget = Budget(Device(kind="cpu", batch_tokens=budget), packs=True)
    limit = engine.runtime["longest_input"]
    params = ClassificationParams(top_k=100, long_documents="truncate", multi_label=False)
    texts = texts_of(lengths, seed)
    pairs = texts_of(lengths[::-1], seed + 1) if paired else None
    for document, result in zip(
        documents_of(texts, pairs), classify(engine, params, documents_of(texts, pairs)), strict=True
    ):
        expected = plain.logits(document.text, document.text_pair, truncation=True, max_length=limit).softmax(-1)
        assert same(result, expected)
        assert result.output is not None
        assert result.output["label"] == LABELS[int(expected.argmax())]


@pytest.mark.parametrize("kind", ["gpt2", "gpt2, padded", "llama"])
def test_a_text_of_a_single_token_and_one_that_ends_in_padding_are_read_where_the_model_reads_them(
    loaded: Callable[[str], tuple[Plain, ClassificationEngine]], kind: str
) -> None:
    plain, engine = loaded(kind)
    texts = ["a", "a room<|endoftext|>", "a<|endoftext|><|endoftext|>", "<|endoftext|>", "the<|endoftext|>room", *MIXED]
    assert len(plain.tokenizer("a")["input_ids"]) == 1
    engine._budget = Budget(Device(kind="cpu", batch_tokens=400), packs=True)
    params = ClassificationParams(top_k=100, long_documents="split", multi_label=False)
    for text, result in zip(texts, classify(engine, params, documents_of(texts)), strict=True):
        assert same(result, plain.logits(text).softmax(-1)), text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_head_that_reads_every_token_is_found_whatever_the_precision(tiny: Tiny, pooling: str, dtype: str) -> None:
    plain = tiny("modernbert", classifier_pooling=pooling)
    engine, params = engine_of(plain.path, dtype=dtype)
    assert engine.runtime["engine"] == "packed"
    told = ONE if pooling == "cls" else "every token: The head reads other tokens of a text."
    assert engine.runtime["last_layer"] == told
    tolerance = 1e-5 if dtype == "float32" else 0.05
    for text, result in zip(MIXED, classify(engine, params, documents_of(MIXED)), strict=True):
        assert np.abs(scores(result) - plain.logits(text).softmax(-1).numpy()).max() < tolerance


def test_a_head_that_reads_another_token_is_found(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """BERT's pooler reads the first token; one that reads the second is no reason not to pack."""
    plain = tiny("bert")
    pooler = type(plain.model.bert.pooler)
    monkeypatch.setattr(pooler, "forward", lambda self, states: torch.tanh(self.dense(states[:, 1])))
    engine, params = engine_of(plain.path)
    assert engine.runtime["engine"] == "packed"
    assert engine.runtime["last_layer"] == "every token: The head reads other tokens of a text."
    for text, result in zip(MIXED, classify(engine, params, documents_of(MIXED)), strict=True):
        assert same(result, plain.logits(text).softmax(-1))


def test_a_last_layer_that_reads_the_wrong_token_is_found(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny("bert")
    right = last_layer._read_of
    monkeypatch.setattr(last_layer, "_read_of", lambda layout, *, causal: right(layout, causal=causal) + 1)
    engine, params = engine_of(plain.path)
    assert engine.runtime["engine"] == "packed"
    assert engine.runtime["last_layer"].startswith("every token: The head reads")
    for text, result in zip(MIXED, classify(engine, params, documents_of(MIXED)), strict=True):
        assert same(result, plain.logits(text).softmax(-1))


def test_keys_of_another_text_are_found(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny("gpt2")
    right = last_layer._reading

    def turned(layout: Any, keys: Any, device: torch.device) -> Any:
        keys.key, keys.value = keys.key.roll(1, dims=2), keys.value.roll(1, dims=2)
        return right(layout, keys, device)

    monkeypatch.setattr(last_layer, "_reading", turned)
    engine, params = engine_of(plain.path)
    assert "differ from those alone" in engine.runtime["last_layer"]
    for text, result in zip(MIXED, classify(engine, params, documents_of(MIXED)), strict=True):
        assert same(result, plain.logits(text).softmax(-1))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "albert"])
def test_where_keys_and_values_are_plain_products_they_are_made_of_the_tokens_read_alone(
    loaded: Callable[[str], tuple[Plain, ClassificationEngine]], kind: str
) -> None:
    _, engine = loaded(kind)
    engine._budget = Budget(Device(kind="cpu", batch_tokens=400), packs=True)
    model: Any = engine._forward._model  # type: ignore[attr-defined]
    made: list[int] = []
    hooks = [
        module.register_forward_hook(lambda _, args, output: made.append(output.numel() // output.shape[-1]))
        for name, module in model.base_model.named_modules() if name.endswith((".key", ".k_lin"))
    ]  # fmt: skip
    try:
        classify(
            engine, ClassificationParams(top_k=100, long_documents="split", multi_label=False), documents_of(MIXED)
        )
    finally:
        for hook in hooks:
            hook.remove()
    assert len(made) == 2
    assert made[0] > made[1] == len(MIXED)


def test_where_keys_are_no_plain_products_it_is_found_and_they_are_made(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where positions rotate them between the product and the attention."""
    usual = last_layer.LastLayer._keys_made

    def shifted(self: Any, states: torch.Tensor) -> torch.Tensor:
        return usual(self, states.roll(1, dims=-1) if self._taking else states)

    monkeypatch.setattr(last_layer.LastLayer, "_keys_made", shifted)
    plain = tiny("bert")
    engine, params = engine_of(plain.path)
    assert engine.runtime["last_layer"] == ONE
    assert engine._forward._packing.last_layer._weights is None  # type: ignore[attr-defined]
    for text, result in zip(MIXED, classify(engine, params, documents_of(MIXED)), strict=True):
        assert same(result, plain.logits(text).softmax(-1))


def test_a_layer_that_cannot_be_left_at_its_attention_stays_whole(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def stubborn(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the last layer came to its end without attention")

    monkeypatch.setattr(last_layer.LastLayer, "_left", stubborn)
    plain = tiny("distilbert")
    engine, params = engine_of(plain.path)
    assert "RuntimeError: the last layer came to its end" in engine.runtime["last_layer"]
    for text, result in zip(MIXED, classify(engine, params, documents_of(MIXED)), strict=True):
        assert same(result, plain.logits(text).softmax(-1))


def test_a_pack_that_failed_half_way_does_not_count_among_the_calls_of_a_shared_layer(tiny: Tiny) -> None:
    """ALBERT's one layer is entered several times; the last of them is the one that is pruned."""
    plain = tiny("albert", num_hidden_layers=3)
    engine, params = engine_of(plain.path, batch_tokens=60)
    assert engine.runtime["last_layer"] == ONE
    model: Any = engine._forward._model  # type: ignore[attr-defined]
    entered: list[int] = []

    def failing(module: Any, args: Any) -> None:
        entered.append(1)
        if len(entered) == 2:
            raise RuntimeError("out of luck")

    hook = model.albert.encoder.albert_layer_groups[0].albert_layers[0].attention.register_forward_pre_hook(failing)
    try:
        results = classify(engine, params, documents_of(MIXED))
    finally:
        hook.remove()
    for text, result in zip(MIXED, results, strict=True):
        assert same(result, plain.logits(text).softmax(-1))


def test_int8_keeps_its_agreement(tiny: Tiny) -> None:
    """An int8 layer's rows are rounded one by one, so that those which are read stay what they were."""
    plain = tiny("bert", hidden_size=64, intermediate_size=128)
    _, params = engine_of(plain.path)
    quantized, whole = int8_engine_of(plain), int8_engine_of(plain)
    whole._forward._packing.last_layer.stop()  # type: ignore[attr-defined]
    assert quantized.runtime["last_layer"] == ONE
    found, expected = (classify(one, params, documents_of(MIXED)) for one in (quantized, whole))
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(scores(ours) - scores(theirs)).max() < 1e-5


def int8_engine_of(plain: Plain) -> ClassificationEngine:
    """The engine on int8 layers, without the measuring of a job's first documents around it."""
    info = Catalog(plain.path.parent, "", plain.path.parent / ".cache").resolve(plain.path.name)
    device = Device(kind="cpu", batch_tokens=120)
    model, tokenizer = load_model(info, device, torch.float32)
    quantize_linears(model)
    return ClassificationEngine(model, tokenizer, info, device, torch.float32)


def test_sentence_encoders_run_whole(tmp_path: Any) -> None:
    """Their vectors are made of all tokens' states."""
    model = AutoModel.from_pretrained(make_encoder(tmp_path / "encoder")).eval()
    packing = Packing(model, has_types=True, device=torch.device("cpu"))
    packing.start()
    layers = model.encoder.layer
    assert not any("forward" in layer.__dict__ for layer in layers)
    packing.stop()


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.booleans(), st.sampled_from([0, 1, 3, 20]))
def test_a_read_token_sees_its_window_of_its_own_text(lengths: list[int], causal: bool, window: int) -> None:
    cpu = torch.device("cpu")
    total, ends = sum(lengths), np.cumsum(lengths)
    lasts = ends - 1 - (np.array(lengths) > 3)  # some end in padding
    layout = layout_of(np.array(lengths), cpu, lasts)
    numbers = torch.arange(total, dtype=torch.float32).view(1, 1, total, 1)
    keys = Keys(numbers, numbers, causal=causal, window=window)
    reading = last_layer._reading(layout, keys, cpu)
    expected = [
        [
            key for key in range(end - length, end)
            if (not causal or key <= read) and (not window or abs(key - read) < window)
        ]
        for end, length in zip(ends.tolist(), lengths, strict=True)
        for read in [int(lasts[ends.tolist().index(end)]) if causal else end - length]
    ]  # fmt: skip
    bounds = reading.layout.bounds.tolist()
    assert [reading.key[0, 0, a:b, 0].int().tolist() for a, b in pairwise(bounds)] == expected
