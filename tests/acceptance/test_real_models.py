"""Models of many architectures, run as jobs over HTTP, say what the plain model says of each document alone.

The models are tiny and their weights random; what they say means nothing, and is different for each document.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

from tests import tiny_models, tiny_seq2seq

from .stack import Stack, jsonl

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses:UserWarning")

TOLERANCE = 1e-5
LENGTHS = [1, 12, 3, 7, 1, 2, 14, 5, 9, 4, 3, 8, 1, 6, 11, 2, 5, 1, 13, 3, 8, 2, 4, 10, 6, 1, 7, 2, 9, 3] * 2
GENERATION = ({"num_beams": 1, "max_new_tokens": 14}, {"num_beams": 3, "max_new_tokens": 14, "early_stopping": True})


def run(stack: Stack, texts: Sequence[str], **body: Any) -> list[dict[str, Any]]:
    """The results of a job over these texts, every one of which succeeded."""
    corpus = stack.upload(jsonl([{"text": text} for text in texts]))
    job = stack.wait(stack.submit(corpus=corpus["id"], **body)["id"])
    assert job["status"] == "completed", job["error"]
    results = stack.results(job["id"])
    assert [result["position"] for result in results] == list(range(len(texts)))
    return results


# --- classification


@pytest.mark.parametrize("model_type", tiny_models.CLASSIFIERS)
def test_labels_and_scores_are_those_of_the_plain_forward_of_each_document(
    stack: Stack, models_root: Path, model_type: str
) -> None:
    path = tiny_models.make_classifier(models_root / model_type, model_type)
    texts = tiny_models.texts_of(LENGTHS)
    results = run(stack, texts, task="classification", model=model_type, params={"dtype": "float32"})

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    for text, result in zip(texts, results, strict=True):
        encoded = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            scores = model(**encoded).logits[0].softmax(-1)
        expected = {model.config.id2label[index]: float(score) for index, score in enumerate(scores)}
        output = result["output"]
        assert output["scores"] == pytest.approx(expected, abs=TOLERANCE)
        assert output["label"] == max(expected, key=expected.__getitem__)
        assert output["score"] == output["scores"][output["label"]]
        assert (result["n_tokens"], result["n_segments"]) == (encoded["input_ids"].shape[1], 1)
    assert len({round(result["output"]["score"], 4) for result in results}) > 10, "scores too alike to tell anything"


# --- translation and summarization

OUTPUT = {"translation": "translation", "summarization": "summary"}
#: What is asked of each kind, and what the plain call puts before a text and gives to `generate()` for the same.
ASKED: dict[str, tuple[dict[str, Any], str, dict[str, str]]] = {
    "marian": ({"task": "translation"}, "", {}),
    "t5": ({"task": "summarization"}, "summarize: ", {}),
    "bart": ({"task": "summarization"}, "", {}),
    "pegasus": ({"task": "summarization"}, "", {}),
    "mbart": (
        {"task": "translation", "params": {"source_lang": "en_XX", "target_lang": "de_DE"}},
        "",
        {"decoder_start_token_id": "de_DE"},
    ),
    "m2m100": (
        {"task": "translation", "params": {"source_lang": "en", "target_lang": "de"}},
        "",
        {"forced_bos_token_id": "__de__"},
    ),
}


@pytest.mark.parametrize("generation", GENERATION, ids=["greedy", "beams"])
@pytest.mark.parametrize("kind", ASKED)
def test_texts_are_those_that_generate_gives_for_each_document(
    stack: Stack, models_root: Path, kind: str, generation: dict[str, Any]
) -> None:
    path = models_root / "seq2seq" / kind
    if not path.exists():
        tiny_seq2seq.make(kind, path)
    asked, prefix, told = ASKED[kind]
    texts = [tiny_seq2seq.text(words, seed) for seed, words in enumerate(LENGTHS[:40])]
    params = {**asked.get("params", {}), "dtype": "float32", "generation": generation}
    results = run(stack, texts, task=asked["task"], model=f"seq2seq/{kind}", params=params)

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSeq2SeqLM.from_pretrained(path).eval()
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in told.items()}
    if source := params.get("source_lang"):
        tokenizer.src_lang = source
    said = [result["output"][OUTPUT[asked["task"]]] for result in results]
    for text, result, output in zip(texts, results, said, strict=True):
        encoded = tokenizer(prefix + text, return_tensors="pt")
        tokens = model.generate(**encoded, **ids, **generation)[0]
        # No database of ours holds NUL, which a model of bytes may say.
        assert output == tokenizer.decode(tokens, skip_special_tokens=True).replace("\0", "\ufffd")
        assert result["n_segments"] == 1
    assert len(set(said)) > len(said) / 2, "outputs too alike to tell anything"


# --- what cannot be run


def refused(stack: Stack, **body: Any) -> dict[str, Any]:
    """The problem with which a job is refused at submission."""
    response = stack.http.post("/api/v1/jobs", json={"documents": [{"text": "some text"}], **body})
    assert response.status_code == 422, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    return problem


@pytest.fixture
def another(stack: Stack) -> dict[str, Any]:
    """A job that is at work while others are refused or fail."""
    documents = [{"text": f"document {k}"} for k in range(200)]
    job = stack.submit(task="classification", model="echo", documents=documents, params={"delay_ms": 10})
    running: dict[str, Any] = stack.wait(job["id"], lambda job: job["status"] == "running")
    return running


def assert_completes(stack: Stack, job: dict[str, Any]) -> None:
    ended = stack.wait(job["id"])
    assert (ended["status"], ended["counts"]["succeeded"]) == ("completed", 200)


def test_a_model_of_nothing_but_pickles_is_refused_and_not_opened(
    stack: Stack, models_root: Path, another: dict[str, Any], tmp_path: Path
) -> None:
    path = tiny_models.make_classifier(models_root / "pickled", "bert")
    (path / "model.safetensors").unlink()
    opened = tmp_path / "opened"
    (path / "pytorch_model.bin").write_text(f"cos\nsystem\n(S'touch {opened}'\ntR.", encoding="ascii")
    problem = refused(stack, task="classification", model="pickled")
    assert problem["code"] == "unsuitable_model"
    assert "pickle" in problem["detail"]
    assert "safetensors" in problem["detail"]
    assert_completes(stack, another)
    assert not opened.exists()


def test_a_model_without_a_tokenizer_is_refused(stack: Stack, models_root: Path, another: dict[str, Any]) -> None:
    path = tiny_models.make_classifier(models_root / "untokenized", "bert")
    for file in path.glob("*token*"):
        file.unlink()
    problem = refused(stack, task="classification", model="untokenized")
    assert problem["code"] == "unsuitable_model"
    assert "tokenizer of untokenized is missing" in problem["detail"]
    assert_completes(stack, another)


def test_a_task_that_the_architecture_cannot_do_is_refused(
    stack: Stack, models_root: Path, another: dict[str, Any]
) -> None:
    tiny_models.make_classifier(models_root / "labels-only", "bert")
    problem = refused(stack, task="translation", model="labels-only")
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("unsuitable_model", "/task")
    assert "BertForSequenceClassification" in problem["detail"]
    assert "classification" in problem["errors"][0]["message"]
    assert_completes(stack, another)


def test_a_model_that_is_not_there_is_refused(stack: Stack) -> None:
    assert refused(stack, task="classification", model="nowhere/at-all")["code"] == "unknown_model"


def test_weights_that_turn_out_to_be_damaged_fail_their_job_with_the_reason_and_no_other(
    stack: Stack, models_root: Path, another: dict[str, Any]
) -> None:
    path = tiny_models.make_classifier(models_root / "damaged", "bert")
    (path / "model.safetensors").write_bytes(b"these are no tensors")
    job = stack.submit(task="classification", model="damaged", documents=[{"text": "some text"}])
    failed = stack.wait(job["id"])
    assert failed["status"] == "failed"
    assert "weights of damaged cannot be loaded" in failed["error"]["message"]
    assert str(models_root) not in failed["error"]["message"]
    assert_completes(stack, another)


def test_models_below_the_root_are_listed_with_what_they_can_do(stack: Stack, models_root: Path) -> None:
    tiny_models.make_classifier(models_root / "listed", "bert", labels=("no", "yes"))
    listed = {model["id"]: model for model in stack.get("/models", limit=1000)["data"]}
    assert listed["listed"]["tasks"] == ["classification"]
    assert listed["listed"]["labels"] == ["no", "yes"]
    assert "pickled" not in listed
