"""Classification gives each text the scores that the plain forward of that text alone gives, whatever goes together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from catalog import Catalog
from corpusmill.documents import Document
from corpusmill.errors import ModelFault
from corpusmill.tasks import ClassificationParams, Task, parse_params
from tests.loaded_classifiers import TOLERANCE, Plain, Shelf, classify, documents_of, engine_of, same, scores
from tests.tiny_models import CLASSIFIERS, PACKED, make_classifier, texts_of
from worker.device import Device
from worker.engines.base import Usage
from worker.engines.classification import ClassificationEngine
from worker.models.loading import load_model

MIXED = texts_of([1, 12, 3, 7, 1, 2, 12, 5, 9, 4, 3, 8, 1, 6])
SECOND = texts_of([4, 1, 6, 2, 9, 1, 3, 7, 1, 2, 5, 3, 8, 2], seed=1)
LONG = " ".join(texts_of([90], seed=2))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Plain]:
    """Models by type and options, each made once."""
    return Shelf(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("model_type", CLASSIFIERS)
def test_scores_are_those_of_the_text_alone(tiny: Callable[..., Plain], model_type: str) -> None:
    plain = tiny(model_type)
    engine, params = engine_of(plain.path)
    results = classify(engine, params, documents_of(MIXED))
    assert engine.runtime["engine"] == ("packed" if model_type in PACKED else "padded")
    assert len({round(float(scores(result)[0]), 3) for result in results}) > 5, "texts must differ in their scores"
    for text, result in zip(MIXED, results, strict=True):
        assert same(result, plain.logits(text).softmax(-1))
        assert (result.n_tokens, result.n_segments) == (len(plain.tokenizer(text)["input_ids"]), 1)


@pytest.mark.parametrize("model_type", CLASSIFIERS)
def test_scores_of_pairs_are_those_of_the_pair_alone(tiny: Callable[..., Plain], model_type: str) -> None:
    plain = tiny(model_type)
    engine, params = engine_of(plain.path)
    documents = documents_of(MIXED, SECOND)
    for document, result in zip(documents, classify(engine, params, documents), strict=True):
        assert same(result, plain.logits(document.text, document.text_pair).softmax(-1))
        assert result.n_tokens == len(plain.tokenizer(document.text, document.text_pair)["input_ids"])


def test_single_texts_and_pairs_may_stand_in_one_shard(tiny: Callable[..., Plain]) -> None:
    plain = tiny("bert")
    documents = documents_of(MIXED[:4], SECOND[:4])
    documents = [
        Document(position=document.position, id=document.id, text=document.text, text_pair=pair)
        for document, pair in zip(documents, [None, "b", "", "c d"], strict=True)
    ]
    engine, params = engine_of(plain.path)
    for document, result in zip(documents, classify(engine, params, documents), strict=True):
        assert same(result, plain.logits(document.text, document.text_pair).softmax(-1))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(budget=st.integers(1, 400), order=st.permutations(range(len(MIXED))))
def test_neither_the_budget_nor_the_order_of_texts_changes_a_score(
    tiny: Callable[..., Plain], budget: int, order: list[int]
) -> None:
    plain = tiny("modernbert")
    engine, params = engine_of(plain.path, batch_tokens=budget)
    texts = [MIXED[index] for index in order]
    for text, result in zip(texts, classify(engine, params, documents_of(texts)), strict=True):
        assert same(result, plain.logits(text).softmax(-1))


def test_a_decoder_with_a_padding_token_takes_the_same_last_token(tiny: Callable[..., Plain]) -> None:
    """GPT-2 often has its end token as padding, which a text may hold too."""
    plain = tiny("gpt2", pad_token_id=0)
    texts = ["a room<|endoftext|>", "the room was clean and", "a<|endoftext|>b c", *MIXED]
    engine, params = engine_of(plain.path)
    for text, result in zip(texts, classify(engine, params, documents_of(texts)), strict=True):
        assert same(result, plain.logits(text).softmax(-1))


def test_a_decoder_without_a_padding_token_never_mistakes_a_texts_own_token(tiny: Callable[..., Plain]) -> None:
    plain = tiny("gpt2")
    texts = ["a room<|endoftext|>", "the room was clean and good", '!"#$%&', *MIXED]
    engine, params = engine_of(plain.path, batch_tokens=1000)
    for text, result in zip(texts, classify(engine, params, documents_of(texts)), strict=True):
        assert same(result, plain.logits(text).softmax(-1))
    assert plain.model.config.pad_token_id is None


@pytest.mark.parametrize("model_type", ["fnet", "t5"])
def test_other_ways_of_mixing_tokens_are_found_out_and_kept_apart(tiny: Callable[..., Plain], model_type: str) -> None:
    """FNet transforms along the text, padding included; T5 comes with a slow tokenizer here."""
    plain = tiny(model_type)
    engine, params = engine_of(plain.path)
    assert engine.runtime["engine"] == ("equal-length" if model_type == "fnet" else "padded")
    for text, result in zip(MIXED, classify(engine, params, documents_of(MIXED)), strict=True):
        assert same(result, plain.logits(text).softmax(-1))


def segments_of(plain: Plain, text: str, limit: int, pair: str | None = None) -> list[tuple[torch.Tensor, int]]:
    """Probabilities and own tokens of each segment, cut by hand for BERT."""
    content, second = plain.content(text), [*plain.content(pair), 3] if pair else []
    room = limit - 2 - len(second)
    cut = [content[start : start + room] for start in range(0, len(content), room)]
    types = [[0] * (len(part) + 2) + [1] * len(second) for part in cut]
    logits = [plain.logits_of_ids([2, *part, 3, *second], kind) for part, kind in zip(cut, types, strict=True)]
    return [(one, len(part)) for one, part in zip(logits, cut, strict=True)]


def test_a_long_text_is_split_and_scored_by_the_mean_weighted_by_tokens(tiny: Callable[..., Plain]) -> None:
    plain = tiny("bert")
    engine, params = engine_of(plain.path)
    before, result, after = classify(engine, params, documents_of([MIXED[0], LONG, MIXED[1]]))
    segments = segments_of(plain, LONG, 64)
    total = sum(tokens for _, tokens in segments)
    expected = sum(logits.softmax(-1) * tokens for logits, tokens in segments) / total
    assert same(result, torch.as_tensor(expected))
    assert len({tokens for _, tokens in segments}) == 2, "the last segment must be shorter for its weight to tell"
    assert (result.n_segments, result.truncated) == (len(segments), False)
    assert result.n_tokens == total + 2 * len(segments)
    assert same(before, plain.logits(MIXED[0]).softmax(-1))
    assert after.n_segments == 1


def test_a_long_text_with_several_labels_takes_the_maximum_of_its_segments(tiny: Callable[..., Plain]) -> None:
    plain = tiny("bert")
    engine, params = engine_of(plain.path, multi_label=True)
    (result,) = classify(engine, params, documents_of([LONG]))
    expected = torch.stack([logits.sigmoid() for logits, _ in segments_of(plain, LONG, 64)]).amax(0)
    assert same(result, expected)


def test_of_a_long_pair_the_first_text_is_split_and_the_second_kept(tiny: Callable[..., Plain]) -> None:
    plain = tiny("bert")
    engine, params = engine_of(plain.path)
    (result,) = classify(engine, params, documents_of([LONG], ["the room was clean"]))
    segments = segments_of(plain, LONG, 64, "the room was clean")
    total = sum(tokens for _, tokens in segments)
    assert same(result, torch.as_tensor(sum(logits.softmax(-1) * tokens for logits, tokens in segments) / total))
    assert result.n_segments == len(segments)


def test_a_pair_whose_second_text_leaves_no_room_is_too_long(tiny: Callable[..., Plain]) -> None:
    engine, params = engine_of(tiny("bert").path)
    (result,) = classify(engine, params, documents_of([LONG], [LONG]))
    assert result.error is not None
    assert result.error.code == "too_long"


@pytest.mark.parametrize("model_type", ["bert", "roberta", "gpt2", "modernbert"])
@pytest.mark.parametrize(("first", "second"), [(90, None), (90, 3), (3, 90), (90, 80), (80, 90), (28, 90), (31, 29)])
def test_what_is_truncated_scores_as_the_tokenizer_truncates_it(
    tiny: Callable[..., Plain], model_type: str, first: int, second: int | None
) -> None:
    plain = tiny(model_type)
    engine, params = engine_of(plain.path, long_documents="truncate")
    text, pair = texts_of([first])[0], texts_of([second], seed=1)[0] if second else None
    limit = engine.runtime["longest_input"]
    (result,) = classify(engine, params, documents_of([text], [pair] if pair else None))
    whole = len(plain.tokenizer(text, pair)["input_ids"])
    assert same(result, plain.logits(text, pair, truncation=True, max_length=limit).softmax(-1))
    assert (result.n_tokens, result.n_segments, result.truncated) == (whole, 1, whole > limit)


def test_a_long_text_fails_where_that_is_asked(tiny: Callable[..., Plain]) -> None:
    engine, params = engine_of(tiny("bert").path, long_documents="fail")
    short, long = classify(engine, params, documents_of([MIXED[0], LONG]))
    assert short.status == "succeeded"
    assert long.error is not None
    assert (long.error.code, long.error.retryable) == ("too_long", False)
    assert f"{long.n_tokens} tokens, and the model takes 64" in long.error.message


def test_a_text_that_just_fits_is_not_cut(tiny: Callable[..., Plain]) -> None:
    plain = tiny("bert")
    text = " ".join(["the"] * 62)
    for way in ("split", "truncate", "fail"):
        engine, params = engine_of(plain.path, long_documents=way)
        fits, over = classify(engine, params, documents_of([text, text + " the"]))
        assert (fits.n_tokens, fits.n_segments, fits.truncated) == (64, 1, False)
        assert (over.n_segments, over.truncated, over.status) == {
            "split": (2, False, "succeeded"),
            "truncate": (1, True, "succeeded"),
            "fail": (0, False, "failed"),
        }[way]


def test_xlnet_takes_a_text_of_any_length_whole(tiny: Callable[..., Plain]) -> None:
    plain = tiny("xlnet")
    engine, params = engine_of(plain.path)
    (result,) = classify(engine, params, documents_of([LONG]))
    assert result.n_segments == 1
    assert same(result, plain.logits(LONG).softmax(-1))


def test_roberta_uses_all_its_positions_and_no_more(tiny: Callable[..., Plain]) -> None:
    """Of 64 position embeddings RoBERTa can use 62."""
    plain = tiny("roberta")
    engine, params = engine_of(plain.path)
    (result,) = classify(engine, params, documents_of([LONG]))
    assert result.status == "succeeded"
    assert engine.runtime["longest_input"] == 62


def test_labels_that_hold_are_those_above_the_threshold_best_first(tiny: Callable[..., Plain]) -> None:
    plain = tiny("bert", problem_type="multi_label_classification")
    engine, params = engine_of(plain.path, threshold=0.4, multi_label=True, top_k=1)
    names = ("negative", "neutral", "positive")
    for text, result in zip(MIXED, classify(engine, params, documents_of(MIXED)), strict=True):
        expected = plain.logits(text).sigmoid()
        assert result.output is not None
        order = sorted(range(3), key=lambda label: -float(expected[label]))
        assert result.output["labels"] == [names[label] for label in order if expected[label] >= 0.4]
        assert list(result.output["scores"]) == [names[order[0]]]
        assert abs(result.output["score"] - float(expected.max())) < TOLERANCE


def test_a_model_of_several_labels_asked_for_one_gives_the_best_with_its_own_score(tiny: Callable[..., Plain]) -> None:
    plain = tiny("bert", problem_type="multi_label_classification")
    engine, params = engine_of(plain.path, multi_label=False)
    (result,) = classify(engine, params, documents_of([MIXED[1]]))
    assert same(result, plain.logits(MIXED[1]).sigmoid())
    assert result.output is not None
    assert "labels" not in result.output


def test_a_single_output_is_a_probability_and_of_a_regression_the_number_itself(tiny: Callable[..., Plain]) -> None:
    for problem, expected in ((None, torch.sigmoid), ("regression", torch.Tensor.clone)):
        plain = tiny("bert", labels=("score",), problem_type=problem)
        engine, params = engine_of(plain.path)
        (result,) = classify(engine, params, documents_of([MIXED[1]]))
        assert result.output is not None
        assert abs(result.output["score"] - float(expected(plain.logits(MIXED[1]))[0])) < TOLERANCE


def test_the_best_labels_come_first_and_no_more_than_asked(tiny: Callable[..., Plain]) -> None:
    plain = tiny("bert", labels=tuple(f"label {index}" for index in range(40)))
    engine, params = engine_of(plain.path, top_k=7)
    (result,) = classify(engine, params, documents_of([MIXED[1]]))
    best = plain.logits(MIXED[1]).softmax(-1).topk(7)
    assert result.output is not None
    assert list(result.output["scores"]) == [f"label {index}" for index in best.indices.tolist()]
    assert result.output["label"] == f"label {int(best.indices[0])}"
    assert result.output["score"] == next(iter(result.output["scores"].values()))
    assert all(float(np.float32(value)) == value for value in result.output["scores"].values())


def test_blank_documents_fail_and_what_holds_no_token_is_still_scored(tiny: Callable[..., Plain]) -> None:
    plain = tiny("bert")
    engine, params = engine_of(plain.path)
    blank, invisible, good = classify(engine, params, documents_of([" \n", "\u200b\u200b", "good"]))
    assert blank.error is not None
    assert blank.error.code == "empty_text"
    assert same(invisible, plain.logits("\u200b\u200b").softmax(-1))
    assert good.status == "succeeded"


def test_a_shard_of_nothing_gives_nothing(tiny: Callable[..., Plain]) -> None:
    engine, params = engine_of(tiny("bert").path)
    assert classify(engine, params, []) == []


def test_usage_adds_up(tiny: Callable[..., Plain]) -> None:
    plain = tiny("bert")
    engine, params = engine_of(plain.path, batch_tokens=100)
    usage = Usage()
    results = classify(engine, params, documents_of([*MIXED, LONG]), usage)
    assert usage.tokens == sum(result.n_tokens for result in results)
    assert usage.tokens <= usage.padded_tokens < 1.5 * usage.tokens
    assert usage.batches > 3
    assert set(usage.seconds) == {"tokenize", "model", "postprocess"}


def test_it_stops_between_batches(tiny: Callable[..., Plain]) -> None:
    engine, params = engine_of(tiny("bert").path, batch_tokens=30)
    usage, asked = Usage(), iter(range(100))
    prepared = engine.prepare(documents_of(MIXED), params, usage)
    assert len(list(engine.run(prepared, usage, lambda: next(asked) >= 2))) == 2


def test_half_precision_agrees_within_its_own_precision(tiny: Callable[..., Plain]) -> None:
    plain = tiny("bert")
    engine, params = engine_of(plain.path, dtype="bfloat16")
    assert engine.runtime["dtype"] == "bfloat16"
    for text, result in zip(MIXED, classify(engine, params, documents_of(MIXED)), strict=True):
        assert np.abs(scores(result) - plain.logits(text).softmax(-1).numpy()).max() < 0.05


def test_parameters_of_another_task_are_a_fault(tiny: Callable[..., Plain]) -> None:
    engine, _ = engine_of(tiny("bert").path)
    with pytest.raises(ModelFault, match="another task"):
        engine.prepare(documents_of(MIXED), parse_params(Task.TRANSLATION, {}), Usage())


class Spoiled(torch.nn.Module):
    """A classifier that goes wrong as `spoil` says, given the input ids, and remembers the sizes it was given.

    Not while it is being loaded, unless `armed`: the texts that an engine tries a model on are drawn from the vocabulary,
    and may hold what a test has chosen to go wrong.
    """

    def __init__(self, model: Any, spoil: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.config, self.dtype, self.spoil = model, model.config, model.dtype, spoil
        self.sizes: list[int] = []
        self.armed = False

    def get_input_embeddings(self) -> Any:
        return self.inner.get_input_embeddings()

    def forward(self, input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None) -> Any:
        self.sizes.append(input_ids.numel())
        output = self.inner(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        if self.armed:
            output.logits = self.spoil(input_ids, output.logits)
        return output


def spoiled(
    plain: Plain,
    spoil: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    at_load: bool = False,
    batch_tokens: int = 400,
    **raw: Any,
) -> tuple[ClassificationEngine, ClassificationParams, Spoiled]:
    info = Catalog(plain.path.parent, "", plain.path.parent / ".cache").resolve(plain.path.name)
    params = parse_params(Task.CLASSIFICATION, {"top_k": 100, **raw})
    assert isinstance(params, ClassificationParams)
    model, tokenizer = load_model(info, Device(kind="cpu"), torch.float32)
    wrapped = Spoiled(model, spoil)
    wrapped.armed = at_load
    device = Device(kind="cpu", batch_tokens=batch_tokens)
    engine = ClassificationEngine(wrapped, tokenizer, info, device, torch.float32)
    wrapped.armed = True
    return engine, params, wrapped


def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered(tiny: Callable[..., Plain]) -> None:
    def full(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        if ids.numel() > 120:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return logits

    plain = tiny("bert")
    engine, params, model = spoiled(plain, full)
    for attempt in range(2):
        model.sizes.clear()
        results = classify(engine, params, documents_of(MIXED))
        for text, result in zip(MIXED, results, strict=True):
            assert same(result, plain.logits(text).softmax(-1))
        assert any(size > 120 for size in model.sizes) == (attempt == 0), "the second shard starts within what fits"


def test_a_text_that_does_not_fit_alone_fails_and_the_others_do_not(tiny: Callable[..., Plain]) -> None:
    def full(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > 40:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        return logits

    plain = tiny("bert")
    engine, params, _ = spoiled(plain, full)
    *good, long = classify(engine, params, documents_of([*MIXED[:5], LONG]))
    assert [result.status for result in good] == ["succeeded"] * 5
    assert long.error is not None
    assert (long.error.code, long.error.retryable) == ("out_of_memory", True)


def test_a_score_that_is_no_number_fails_its_document_alone(tiny: Callable[..., Plain]) -> None:
    def spoil(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        poison = (ids == marker).any(dim=1, keepdim=True)
        return torch.where(poison, torch.tensor(float("nan")), logits)

    plain = tiny("bert")
    marker = plain.content("café")[0]
    engine, params, _ = spoiled(plain, spoil)
    good, bad, long = classify(engine, params, documents_of(["the room", "café", LONG.replace("café", "a") + " café"]))
    assert good.status == "succeeded"
    for result in (bad, long):
        assert result.error is not None
        assert result.error.code == "internal"
        assert "float32" in result.error.message


def test_a_text_on_which_the_model_fails_is_found_and_the_others_are_scored(tiny: Callable[..., Plain]) -> None:
    def spoil(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        if (ids == marker).any():
            raise IndexError("index out of range in self")
        return logits

    plain = tiny("bert")
    marker = plain.content("café")[0]
    engine, params, _ = spoiled(plain, spoil)
    texts = [text for text in MIXED if marker not in plain.content(text)]
    *good, bad = classify(engine, params, documents_of([*texts, "the café"]))
    for text, result in zip(texts, good, strict=True):
        assert same(result, plain.logits(text).softmax(-1))
    assert bad.error is not None
    assert (bad.error.code, bad.error.message) == ("internal", "The model failed on this text.")


def test_a_token_that_the_model_has_no_embedding_for_fails_its_document(
    tiny: Callable[..., Plain], tmp_path: Path
) -> None:
    path = make_classifier(tmp_path / "m", "bert")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(path)
    engine, params = engine_of(path)
    good, bad = classify(engine, params, documents_of(["the room", "the newword"]))
    assert good.status == "succeeded"
    assert bad.error is not None
    assert bad.error.code == "internal"


def test_a_model_that_always_fails_is_a_fault_when_it_is_loaded(tiny: Callable[..., Plain]) -> None:
    def spoil(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(ModelFault, match="cannot be run: RuntimeError: mat1"):
        spoiled(tiny("bert"), spoil, at_load=True)


def test_a_lost_device_is_nobodys_document(tiny: Callable[..., Plain]) -> None:
    def spoil(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    engine, params, _ = spoiled(tiny("bert"), spoil)
    with pytest.raises(torch.AcceleratorError):
        classify(engine, params, documents_of(MIXED))
