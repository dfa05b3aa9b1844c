"""Labels chosen by a causal model: each label's likelihood as it is alone, of segments and in full memory too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corpusmill.documents import Document
from corpusmill.errors import ModelFault
from corpusmill.tasks import ClassificationParams, SummarizationParams
from tests.loaded_causal import Loaded, loader, run
from tests.loaded_seq2seq import documents_of
from tests.tiny_causal import KINDS, POSITIONS, words
from worker.engines.base import Usage
from worker.engines.causal.scoring import Labels

TEXTS = [words(count, count) for count in (3, 28, 9, 1, 17)]
LABELS = ("good", "very bad", "very good indeed", "x", "a {text}")
PROMPT = "{text}\nOne of {labels}:"
LETTERS = "abcdefghiklmnoprstuw"
FILLED = [PROMPT.replace("{labels}", ", ".join(LABELS)).replace("{text}", text, 1) for text in TEXTS]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Loaded]:
    return loader(tmp_path_factory.mktemp("models"))


def choose(**chosen: Any) -> ClassificationParams:
    return ClassificationParams.model_validate({"labels": LABELS, "prompt": PROMPT, **chosen})


def expected(loaded: Loaded, prompt: str, labels: Labels) -> list[float]:
    """Scores of the labels after a prompt, each label run alone."""
    alone = torch.tensor(loaded.likelihoods(loaded.prompt_ids(prompt), labels.tokens), dtype=torch.float64)
    scores: list[float] = torch.softmax(alone, 0).tolist()
    return scores


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_each_label_alone_after_each_prompt(kind: str, load: Callable[..., Loaded]) -> None:
    loaded, usage = load(kind), Usage()
    engine = loaded.labels_engine()

    results = run(engine, documents_of(*TEXTS), choose(), usage)

    labels = engine.prepare(documents_of("x"), choose(), Usage()).labels
    for result, prompt in zip(results, FILLED, strict=True):
        output = result.output or {}
        scores: Any = output["scores"]
        assert [scores[label] for label in LABELS] == pytest.approx(expected(loaded, prompt, labels), abs=1e-5)
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        assert (output["label"], output["score"]) == next(iter(scores.items()))
        assert result.n_tokens == loaded.prompt_ids(prompt).shape[1]
    assert engine.runtime["cache"] == ("none" if kind == "mamba" else "shared")
    assert 1 < usage.batches < len(TEXTS)


@pytest.mark.parametrize(
    ("kind", "prompt", "between"),
    [
        ("gpt2", "{text} Label:", " "), ("gpt2", "{text}\n", ""), ("llama", "{text}", " "), ("qwen2", "{text}", ""),
    ],
)  # fmt: skip
def test_a_label_has_the_tokens_that_it_has_behind_the_prompt(
    kind: str, prompt: str, between: str, load: Callable[..., Loaded]
) -> None:
    loaded = load(kind)
    labels = ("good", "very good", "5 stars")
    prepared = loaded.labels_engine().prepare(documents_of("A room."), choose(labels=labels, prompt=prompt), Usage())

    if loaded.tokenizer.chat_template:
        turn = [{"role": "user", "content": "A room."}]
        before = loaded.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    else:
        before = prompt.replace("{text}", "A room.")
    for label, tokens in zip(labels, prepared.labels.tokens, strict=True):
        whole = loaded.tokenizer(before + between + label, add_special_tokens=False)["input_ids"]
        assert whole[-len(tokens) :] == list(tokens)
        assert loaded.tokenizer.decode(whole[: -len(tokens)]).rstrip() == before.rstrip()


def test_many_labels_run_in_several_passes_over_one_cache(load: Callable[..., Loaded]) -> None:
    loaded = load("llama")
    labels = tuple(f"{letter} phone room" for letter in LETTERS)
    engine = loaded.labels_engine()
    passes: list[int] = []
    handle = loaded.model.register_forward_pre_hook(lambda *given: passes.append(1))

    (result,) = run(engine, documents_of(TEXTS[1]), choose(labels=labels, prompt="{text}", top_k=3))

    handle.remove()
    tokens = engine.prepare(documents_of("x"), choose(labels=labels, prompt="{text}"), Usage()).labels
    scores = expected(loaded, TEXTS[1], tokens)
    best = sorted(zip(scores, labels, strict=True), key=lambda pair: -pair[0])[:3]
    found: Any = (result.output or {})["scores"]
    assert list(found) == [label for _, label in best]
    assert list(found.values()) == pytest.approx([score for score, _ in best], abs=1e-5)
    assert 2 < len(passes) < len(labels)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), min_size=1, max_size=12, unique=True))
def test_labels_share_the_beginnings_that_they_have_in_common(tokens: list[tuple[int, ...]]) -> None:
    labels = Labels.of(tokens)
    for label, row in zip(tokens, labels.row_of, strict=True):
        assert (row == -1) == (len(label) == 1)
        if row >= 0:
            assert labels.rows[row][: len(label) - 1] == label[:-1]
    assert not any(one != other and other[: len(one)] == one for one in labels.rows for other in labels.rows)


def test_segments_of_a_long_text_count_by_their_tokens(load: Callable[..., Loaded]) -> None:
    loaded = load("qwen2")
    engine = loaded.labels_engine()
    long = words(150, 2)

    split, cut, fails = (
        run(engine, documents_of(long), choose(long_documents=what))[0] for what in ("split", "truncate", "fail")
    )

    prepared = engine.prepare(documents_of(long), choose(), Usage())
    (draft,) = prepared.drafts
    alone = [
        torch.softmax(
            torch.tensor(
                loaded.likelihoods(torch.tensor(source[None], dtype=torch.long), prepared.labels.tokens),
                dtype=torch.float64,
            ),
            0,
        ).numpy()
        for source in draft.sources
    ]
    mean = np.average(alone, axis=0, weights=[len(source) - prepared.own for source in draft.sources])
    scores: Any = (split.output or {})["scores"]
    assert [scores[label] for label in LABELS] == pytest.approx(mean.tolist(), abs=1e-5)
    assert (split.n_segments, split.truncated) == (len(draft.sources), False)
    assert split.n_segments > 1
    assert (cut.n_segments, cut.truncated) == (1, True)
    assert fails.error is not None
    assert fails.error.code == "too_long"


def test_a_cut_text_leaves_the_prompt_whole(load: Callable[..., Loaded]) -> None:
    loaded = load("qwen2")
    engine = loaded.labels_engine()
    prepared = engine.prepare(documents_of(words(150, 2)), choose(long_documents="truncate"), Usage())

    (source,) = prepared.drafts[0].sources

    text = loaded.tokenizer.decode(source)
    assert POSITIONS - 16 < len(source) + prepared.labels.longest <= POSITIONS
    assert text.startswith("<|im_start|>user\n" + words(20, 2))
    assert text.endswith("\nOne of good, very bad, very good indeed, x, a {text}:<|im_end|>\n<|im_start|>assistant\n")


def test_texts_without_anything_to_read_fail_alone(load: Callable[..., Loaded]) -> None:
    results = run(load("llama").labels_engine(), documents_of("", " \n", "A room."), choose())
    assert [result.error.code if result.error else None for result in results] == ["empty_text"] * 2 + [None]


def test_full_memory_changes_no_score(load: Callable[..., Loaded]) -> None:
    loaded = load("llama")
    labels = tuple(f"{letter} room" for letter in LETTERS)
    params = choose(labels=labels, prompt="{text}")
    as_ever = run(loaded.labels_engine(), documents_of(*TEXTS), params)
    engine = loaded.labels_engine()
    tried: list[int] = []

    def check(module: Any, args: Any, given: dict[str, Any]) -> None:
        tried.append(len(given["input_ids"]))
        if tried[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    handle = loaded.model.register_forward_pre_hook(check, with_kwargs=True)
    results = run(engine, documents_of(*TEXTS), params)
    handle.remove()

    assert max(tried) > 2
    for result, plain in zip(results, as_ever, strict=True):
        assert result.output is not None
        assert result.output["scores"] == pytest.approx((plain.output or {})["scores"], abs=1e-5)


def test_a_document_that_does_not_fit_the_memory_alone_fails_alone(load: Callable[..., Loaded]) -> None:
    loaded = load("llama")
    engine = loaded.labels_engine()
    prepared = engine.prepare(documents_of(*TEXTS), choose(), Usage())
    longest = max(len(draft.sources[0]) for draft in prepared.drafts)

    def check(module: Any, args: Any, given: dict[str, Any]) -> None:
        if given["input_ids"].shape[1] > longest - 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    handle = loaded.model.register_forward_pre_hook(check, with_kwargs=True)
    results = run(engine, documents_of(*TEXTS), choose())
    handle.remove()

    assert {result.error.code if result.error else None for result in results} == {"out_of_memory", None}
    assert all(result.error.retryable for result in results if result.error)


def test_a_shard_that_is_stopped_ends_between_two_batches(load: Callable[..., Loaded]) -> None:
    engine, usage = load("llama").labels_engine(), Usage()
    prepared = engine.prepare(documents_of(*TEXTS * 4), choose(), usage)

    results = [result for batch in engine.run(prepared, usage, lambda: usage.batches == 2) for result in batch]

    assert 0 < len(results) < 20


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (choose(prompt="words " * 300 + "{text}"), "shorten the prompt"),
        (ClassificationParams(), "was given none"),
        (SummarizationParams(), "to choose between labels"),
    ],
)
def test_what_the_engine_cannot_do_fails_the_job(params: Any, message: str, load: Callable[..., Loaded]) -> None:
    with pytest.raises(ModelFault, match=message):
        load("llama").labels_engine().prepare(documents_of("x"), params, Usage())


def test_labels_that_are_one_to_the_tokenizer_are_refused(load: Callable[..., Loaded]) -> None:
    with pytest.raises(ModelFault, match="the same tokens"):
        load("llama").labels_engine().prepare(documents_of("x"), choose(labels=("\u4e00", "\u4e8c")), Usage())


def test_a_second_text_is_not_passed_over(load: Callable[..., Loaded]) -> None:
    document = Document(position=0, id="a", text="One.", text_pair="Two.")
    with pytest.raises(ModelFault, match="second text"):
        load("llama").labels_engine().prepare([document], choose(), Usage())
