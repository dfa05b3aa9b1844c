"""What becomes of long, empty and odd documents, of full memory, and of a shard that is stopped."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from corpusmill.tasks import Generation, SummarizationParams, TranslationParams
from tests.loaded_seq2seq import Asked, Loaded, documents_of, loader, run, said
from tests.tiny_seq2seq import POSITIONS, text
from worker.engines.base import Usage

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses:UserWarning")

SHORT = Generation(max_new_tokens=6)
LONG = text(150, 5)  # about 180 tokens


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    return loader(tmp_path_factory.mktemp("models"))


@contextmanager
def memory_for(model: Any, rows: int) -> Iterator[list[int]]:
    """The encoder runs out of memory above so many rows; yields the sizes of the batches that were tried."""
    tried: list[int] = []

    def check(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        tried.append(len(kwargs["input_ids"]))
        if tried[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    handle = model.get_encoder().register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield tried
    finally:
        handle.remove()


def test_a_long_translation_keeps_its_paragraphs_and_translates_whole_sentences(load: Callable[[str], Loaded]) -> None:
    loaded = load("t5")
    prefix = "translate English to German: "
    params = TranslationParams(source_lang="en", target_lang="de", generation=SHORT)
    first, second = text(60, 1), text(4, 2)
    source = f"  {first}\n\n{second}\r\n{second}\n"

    (result,) = loaded.run(documents_of(source), params)

    assert result.error is None
    translation = str((result.output or {})["translation"])
    assert [translation.count(line_break) for line_break in ("\n\n", "\r\n")] == [1, 1]
    (of_second,) = loaded.plain([second], Asked(params, prefix), max_new_tokens=6)
    assert translation.split("\r\n")[1] == loaded.tokenizer.decode(of_second, skip_special_tokens=True).strip()
    assert result.n_segments >= 4
    assert not result.truncated
    assert result.n_tokens > POSITIONS


def test_sentences_are_translated_one_by_one_where_that_is_asked_for(load: Callable[[str], Loaded]) -> None:
    loaded = load("marian")
    sentences = ["The cat runs.", "A dog sees the house."]
    alone = loaded.plain(sentences, Asked(TranslationParams()), max_new_tokens=6)
    params = TranslationParams(segment_by="sentence", generation=SHORT)

    (result,) = loaded.run(documents_of(" ".join(sentences)), params)

    decoded = [loaded.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in alone]
    assert said([result]) == [" ".join(decoded).strip()]
    assert (result.n_segments, result.truncated) == (2, False)
    assert result.n_tokens == sum(len(loaded.tokenizer(sentence)["input_ids"]) for sentence in sentences)


def test_a_long_summary_is_made_from_summaries_of_its_parts(load: Callable[[str], Loaded]) -> None:
    loaded = load("bart")
    params = SummarizationParams(generation=Generation(max_new_tokens=6, min_new_tokens=2))
    usage = Usage()

    (result,) = loaded.run(documents_of(LONG), params, usage)

    assert (result.output or {})["summary"]
    assert result.n_segments >= 3
    assert not result.truncated
    assert usage.generated_tokens > 6 * result.n_segments - 1, "the parts and the whole were generated"


def test_summaries_that_do_not_get_shorter_are_cut_off_after_all(load: Callable[[str], Loaded]) -> None:
    loaded = load("bart")
    params = SummarizationParams(generation=Generation(max_new_tokens=60, min_new_tokens=59))

    (result,) = loaded.run(documents_of(LONG), params)

    assert result.error is None
    assert result.truncated


def test_truncation_gives_what_the_tokenizer_own_truncation_gives_and_says_so(load: Callable[[str], Loaded]) -> None:
    loaded = load("pegasus")
    params = SummarizationParams(long_documents="truncate", generation=SHORT)
    tokenizer = copy.deepcopy(loaded.tokenizer)  # truncation=True would stay with the engine's own
    encoded = tokenizer(LONG, return_tensors="pt", truncation=True, max_length=POSITIONS)
    expected = loaded.model.generate(**encoded, max_new_tokens=6)[0]

    long, short = loaded.run(documents_of(LONG, text(3, 1)), params)

    assert said([long]) == [loaded.tokenizer.decode(expected, skip_special_tokens=True)]
    assert (long.truncated, long.n_segments, short.truncated) == (True, 1, False)
    assert long.n_tokens == len(loaded.tokenizer(LONG)["input_ids"])


def test_a_document_above_the_limit_fails_where_that_is_asked_for(load: Callable[[str], Loaded]) -> None:
    loaded = load("pegasus")

    long, short = loaded.run(
        documents_of(LONG, text(3, 1)), SummarizationParams(long_documents="fail", generation=SHORT)
    )

    assert long.error is not None
    assert long.error.code == "too_long"
    assert f"{long.n_tokens} tokens" in long.error.message
    assert f"sources of {POSITIONS}" in long.error.message
    assert short.error is None


def test_only_a_sentence_above_the_limit_is_too_long_where_sentences_are_translated_alone(
    load: Callable[[str], Loaded],
) -> None:
    loaded = load("t5")
    endless = " ".join(["cat"] * 100)
    documents = documents_of(LONG, endless)
    asked = TranslationParams(source_lang="en", target_lang="de", segment_by="sentence", generation=SHORT)

    failing = loaded.run(documents, asked.model_copy(update={"long_documents": "fail"}))
    cutting = loaded.run(documents, asked.model_copy(update={"long_documents": "truncate"}))

    assert [result.error.code if result.error else None for result in failing] == [None, "too_long"]
    assert [result.truncated for result in cutting] == [False, True]


def test_texts_without_anything_to_read_fail_alone(load: Callable[[str], Loaded]) -> None:
    loaded = load("marian")

    results = loaded.run(documents_of("", " \n\t", "\u200b" * 50, "The cat runs."), TranslationParams(generation=SHORT))

    assert [result.error.code if result.error else None for result in results] == ["empty_text"] * 3 + [None]


def test_an_output_that_the_length_limit_ended_says_so(load: Callable[[str], Loaded]) -> None:
    loaded = load("marian")
    texts = [text(words, words) for words in (2, 5, 9, 14)]
    plain = loaded.plain(texts, Asked(TranslationParams()), max_new_tokens=20)
    ended = [tokens[-1] == loaded.model.generation_config.eos_token_id for tokens in plain]
    assert set(ended) == {True, False}

    results = loaded.run(documents_of(*texts), TranslationParams(generation=Generation(max_new_tokens=20)))

    assert ["cut" not in (result.output or {}) for result in results] == ended


def test_full_memory_halves_the_batches_for_good_and_changes_no_output(load: Callable[[str], Loaded]) -> None:
    loaded = load("marian")
    documents = documents_of(*[text(4, seed) for seed in range(12)])
    expected = said(loaded.run(documents, TranslationParams(generation=SHORT)))
    engine = loaded.another_engine()

    with memory_for(loaded.model, rows=3) as tried:
        assert said(run(engine, documents, TranslationParams(generation=SHORT))) == expected
        assert max(tried) > 3
        tried.clear()
        assert said(run(engine, documents, TranslationParams(generation=SHORT))) == expected
        assert max(tried) <= 3, "what did not fit once is not tried again"


def test_a_document_that_does_not_fit_the_memory_alone_fails_alone(load: Callable[[str], Loaded]) -> None:
    loaded = load("marian")
    with memory_for(loaded.model, rows=0):
        results = run(loaded.another_engine(), documents_of("A cat.", "A dog."), TranslationParams(generation=SHORT))

    assert [result.error.code if result.error else None for result in results] == ["out_of_memory"] * 2
    assert all(result.error and result.error.retryable for result in results)


def test_errors_that_are_not_about_memory_are_not_hidden(load: Callable[[str], Loaded]) -> None:
    loaded = load("marian")

    def fail(module: Any, args: Any) -> None:
        raise RuntimeError("device-side assert triggered")

    handle = loaded.model.get_encoder().register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="device-side assert"):
            loaded.run(documents_of("A cat."), TranslationParams(generation=SHORT))
    finally:
        handle.remove()


def test_a_shard_that_is_stopped_ends_between_two_batches(load: Callable[[str], Loaded]) -> None:
    loaded = load("marian")
    usage = Usage()
    documents = documents_of(*[text(20, seed) for seed in range(40)])
    prepared = loaded.engine.prepare(documents, TranslationParams(generation=SHORT), usage)

    results: list[Any] = []
    for batch in loaded.engine.run(prepared, usage, lambda: usage.batches == 2):
        results += batch

    assert usage.batches == 2
    assert 0 < len(results) < 40


def test_a_shard_is_tokenized_while_another_runs(load: Callable[[str], Loaded]) -> None:
    loaded = load("nllb")
    documents = documents_of(*[text(words, words) for words in range(1, 20)])
    french = TranslationParams(source_lang="fra_Latn", target_lang="deu_Latn", generation=SHORT)
    english = TranslationParams(source_lang="eng_Latn", target_lang="fra_Latn", generation=SHORT)
    expected = [draft.sources[0].tolist() for draft in loaded.engine.prepare(documents, english, Usage()).drafts]
    seen: list[list[list[int]]] = []

    def prepare() -> None:
        for _ in range(20):
            drafts = loaded.engine.prepare(documents, english, Usage()).drafts
            seen.append([draft.sources[0].tolist() for draft in drafts])

    beside = threading.Thread(target=prepare)
    beside.start()
    results = loaded.run(documents, french)
    beside.join()

    assert seen == [expected] * 20
    assert said(results) == said(loaded.run(documents, french))
