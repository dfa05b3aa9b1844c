"""Linear layers in int8: what they compute, where they are put, and how their agreement with float32 is measured."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from catalog import Catalog, check
from corpusmill.documents import Document, Result
from corpusmill.errors import InvalidRequest, ModelFault
from corpusmill.tasks import Task, parse_params
from tests import tiny_seq2seq
from tests.tiny_models import make_classifier, make_encoder, texts_of
from worker.device import Device
from worker.engines import int8
from worker.engines.base import Engine, Usage, Work
from worker.engines.echo import EchoEngine
from worker.engines.int8 import Int8Linear, int8_bytes, int8_linear, quantize_linears
from worker.engines.measured import MeasuredEngine, agreement
from worker.models.table import load_engine

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses:UserWarning")

CPU = Device(kind="cpu", batch_tokens=256)
WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128}


def layer(inputs: int, outputs: int, *, bias: bool = True, seed: int = 0) -> torch.nn.Linear:
    torch.manual_seed(seed)
    return torch.nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


def documents_of(texts: list[str], first: int = 0) -> list[Document]:
    return [Document(position=first + at, id=str(at), text=text) for at, text in enumerate(texts)]


def run(engine: Engine[Any], documents: list[Document], params: Any, usage: Usage | None = None) -> list[Result]:
    usage = usage or Usage()
    prepared = engine.prepare(documents, params, usage)
    results = [result for batch in engine.run(prepared, usage, lambda: False) for result in batch]
    return sorted(results, key=lambda result: result.position)


def loaded(root: Path, task: Task, **raw: Any) -> tuple[Engine[Any], Any]:
    info = Catalog(root, "", root / "digests").resolve("model")
    params = check(info, task, parse_params(task, raw))
    return load_engine(info, task, params, CPU), params


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (96, 200), (768, 96), (1030, 65)])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 300])
def test_a_layer_in_int8_gives_nearly_what_it_gave(inputs: int, outputs: int, rows: int) -> None:
    exact = layer(inputs, outputs)
    rounded = Int8Linear(exact.weight, exact.bias)
    x = torch.randn(rows, inputs) * torch.logspace(-3, 3, rows).unsqueeze(1) + 0.3
    expected = exact(x) - exact.bias
    found = rounded(x) - exact.bias
    error = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(error.max()) < 0.03


def test_what_a_row_gives_depends_on_nothing_beside_it() -> None:
    rounded = int8_linear(layer(128, 96).weight)
    x = torch.randn(70, 128) * torch.rand(70, 1) * 10
    together = rounded(x)
    for row in (0, 1, 31, 69):
        assert torch.equal(rounded(x[row : row + 1])[0], together[row])


def test_any_number_of_leading_dimensions_and_none_of_rows() -> None:
    exact = layer(64, 80, bias=False)
    rounded = int8_linear(exact.weight)
    assert rounded(torch.randn(2, 3, 5, 64)).shape == (2, 3, 5, 80)
    assert rounded(torch.randn(64)).shape == (80,)
    assert rounded(torch.empty(0, 64)).shape == (0, 80)


def test_constant_rows_and_infinite_biases_are_kept() -> None:
    exact = layer(64, 64)
    bias = exact.bias.clone()
    bias[3] = float("-inf")
    rounded = int8_linear(exact.weight, bias)
    found = rounded(torch.cat([torch.zeros(1, 64), torch.full((1, 64), 2.5)]))
    assert found[0, :3].allclose(bias[:3])
    assert bool(torch.isneginf(found[:, 3]).all())
    expected = (exact.weight.double().sum(1) * 2.5 + bias.double())[4:]
    assert torch.allclose(found[1, 4:].double(), expected, atol=0.05)


def test_only_the_layers_of_stacks_are_replaced_and_their_weights_are_let_go_of(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    make_classifier(tmp_path, "bert", **WIDE)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    stacked = sum(
        weight.numel() for name, weight in model.named_parameters() if ".layer." in name and weight.dim() == 2
    )
    assert quantize_linears(model) == 12
    assert type(model.classifier) is torch.nn.Linear
    assert type(model.bert.pooler.dense) is torch.nn.Linear
    assert not any(".layer." in name and weight.dim() == 2 for name, weight in model.named_parameters())
    assert stacked <= int8_bytes(model) < 1.3 * stacked


def test_queries_keys_and_values_round_their_input_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForSequenceClassification

    make_classifier(tmp_path, "distilbert", dim=64, hidden_dim=128)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    alone = copy.deepcopy(model)
    quantize_linears(model)
    quantize_linears(alone)
    for module in alone.modules():
        if isinstance(module, Int8Linear):
            module.memo = None
    count = 0
    real = int8.rounded

    def counting(rows: torch.Tensor) -> int8.Rounded:
        nonlocal count
        count += 1
        return real(rows)

    monkeypatch.setattr(int8, "rounded", counting)
    with torch.inference_mode():
        model(input_ids=torch.arange(5, 25).unsqueeze(0))
        assert count == 2 * 4  # two layers: attention's input, its output, and two of the feed-forward
        # layer by layer: a whole forward repeated may differ in its last bits, and those be rounded to another level
        states = torch.randn(1, 20, 64)
        ours, theirs = (one.distilbert.transformer.layer[0].attention for one in (model, alone))
        for name in ("q_lin", "k_lin", "v_lin"):
            assert torch.allclose(getattr(ours, name)(states), getattr(theirs, name)(states), atol=1e-6)


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(ModelFault, match="no linear layers"):
        quantize_linears(torch.nn.Sequential(torch.nn.Linear(64, 64)))


def test_weights_that_are_not_float32_are_refused() -> None:
    with pytest.raises(ModelFault, match="float32"):
        quantize_linears(torch.nn.Sequential(torch.nn.ModuleList([torch.nn.Linear(64, 64).half()])))


def test_a_gpu_is_refused_with_a_reason(tmp_path: Path) -> None:
    make_classifier(tmp_path / "model", "bert", **WIDE)
    info = Catalog(tmp_path, "", tmp_path / "digests").resolve("model")
    params = parse_params(Task.CLASSIFICATION, {"engine": "int8"})
    with pytest.raises(ModelFault, match="runs on a CPU"):
        load_engine(info, Task.CLASSIFICATION, params, Device(kind="cuda"))


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "deberta-v2", "distilbert"])
def test_a_classifier_runs_in_int8_as_it_is_run_otherwise_and_says_how_far_it_agrees(kind: str, tmp_path: Path) -> None:
    shape: dict[str, Any] = {"dim": 64, "hidden_dim": 128} if kind == "distilbert" else WIDE
    make_classifier(tmp_path / "model", kind, **shape)
    documents = documents_of(texts_of([3, 9, 30, 1, 14, 14, 50, 7] * 6))
    plain, params = loaded(tmp_path, Task.CLASSIFICATION)
    engine, chosen = loaded(tmp_path, Task.CLASSIFICATION, engine="int8")
    usage = Usage()
    exact, found = run(plain, documents, params), run(engine, documents, chosen, usage)
    assert engine.runtime["engine"] == plain.runtime["engine"]
    assert engine.runtime["dtype"] == "int8"
    assert 0 < engine.weight_bytes < plain.weight_bytes
    assert usage.seconds["agreement"] > 0
    measured = engine.runtime["agreement"]
    expected = agreement(exact[:32], {result.position: result for result in found})
    assert measured == {name: pytest.approx(value, abs=1e-5) for name, value in expected.items()}
    assert measured["documents"] == 32
    assert 0 < measured["largest_score_difference"] < 0.25
    assert measured["equal"] >= 28


def test_a_documents_scores_in_int8_do_not_depend_on_its_batch(tmp_path: Path) -> None:
    make_classifier(tmp_path / "model", "bert", **WIDE)
    engine, params = loaded(tmp_path, Task.CLASSIFICATION, engine="int8")
    documents = documents_of(texts_of([3, 9, 30, 1, 14, 14, 50, 7]), first=1)
    together = run(engine, documents, params)
    for document, result in zip(documents, together, strict=True):
        (alone,) = run(engine, [document], params)
        # attention sums in another order beside other texts, which may tip a rounding: by a step, not by a score
        for label, score in (alone.output or {})["scores"].items():
            assert score == pytest.approx((result.output or {})["scores"][label], abs=0.02)
    assert "agreement" not in engine.runtime  # the first document of the corpus was not among these


def test_a_sentence_encoder_summarizes_in_int8(tmp_path: Path) -> None:
    make_encoder(tmp_path / "model", "bert", **WIDE)
    engine, params = loaded(tmp_path, Task.SUMMARIZATION, engine="int8")
    (result,) = run(engine, documents_of([" ".join(texts_of([60]))]), params)
    assert result.output
    assert engine.runtime["agreement"]["documents"] == 1
    assert "mean_word_match" in engine.runtime["agreement"]


def test_a_translator_decodes_in_slots_with_int8_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "_LEAST_SIDE", 16)
    tiny_seq2seq.make("marian", tmp_path / "model")
    engine, params = loaded(tmp_path, Task.TRANSLATION, engine="int8", generation={"num_beams": 1})
    documents = documents_of([tiny_seq2seq.text(4 + at, at) for at in range(8)])
    works = [Work(engine.prepare(part, params, Usage()), Usage(), lambda: False)
             for part in (documents[:5], documents[5:])]  # fmt: skip
    waiting = works[1:]
    assert isinstance(engine, MeasuredEngine)
    steps = list(engine.stream(works[0], lambda: waiting.pop() if waiting else None))
    positions = {id(work): sorted(result.position for step in steps if step.work is work for result in step.results)
                 for work in works}  # fmt: skip
    assert list(positions.values()) == [[0, 1, 2, 3, 4], [5, 6, 7]]
    assert sum(step.ended for step in steps) == 2
    assert engine.runtime["engine"] == "slots"
    assert engine.runtime["agreement"]["documents"] == 5


def echo() -> EchoEngine:
    from catalog.resolution import ECHO

    return EchoEngine(ECHO)


def test_agreement_is_measured_with_the_first_shard_of_each_job_and_then_left_out() -> None:
    made = []

    def reference() -> Engine[Any]:
        made.append(1)
        return echo()

    engine = MeasuredEngine(echo(), reference)
    params = parse_params(Task.CLASSIFICATION, {})
    first, later = documents_of([f"text {at}" for at in range(40)]), documents_of(["more"], first=40)
    run(engine, later, params)
    assert "agreement" not in engine.runtime
    run(engine, first, params)
    assert engine.runtime["agreement"] == {"documents": 32, "equal": 32, "largest_score_difference": 0.0}
    run(engine, later, params)
    assert "agreement" not in engine.runtime
    run(engine, first, params)
    assert len(made) == 2


def test_long_first_documents_are_measured_as_far_as_they_are_not_too_many_characters() -> None:
    engine = MeasuredEngine(echo(), echo)
    run(engine, documents_of(["a" * 30_000, "b" * 9_000, "c" * 9_000]), parse_params(Task.CLASSIFICATION, {}))
    assert engine.runtime["agreement"]["documents"] == 2


def test_a_reference_that_cannot_be_loaded_is_said_and_fails_nothing() -> None:
    def reference() -> Engine[Any]:
        raise ModelFault("no room")

    engine = MeasuredEngine(echo(), reference)
    assert len(run(engine, documents_of(["a", "b"]), parse_params(Task.CLASSIFICATION, {}))) == 2
    assert engine.runtime["agreement"] == {"documents": 0, "why": "no room"}


def test_texts_agree_by_equality_and_by_their_words() -> None:
    def said(position: int, text: str) -> Result:
        return Result(position=position, document_id="x", output={"translation": text})

    expected = [said(0, "one two three four"), said(1, "one two"), said(2, "gone")]
    found = {0: said(0, "one two three five"), 1: said(1, "one two")}
    assert agreement(expected, found) == {"documents": 3, "equal": 1, "mean_word_match": pytest.approx(1.75 / 3)}


@pytest.mark.parametrize(
    ("model", "raw", "pointer"),
    [
        ("echo", {"engine": "int8"}, "/params/engine"),
        ("model", {"engine": "int8", "dtype": "bfloat16"}, "/params/dtype"),
        ("model", {"dtype": "int8"}, "/params/dtype"),
    ],
)
def test_a_job_that_int8_cannot_run_is_refused_when_it_is_submitted(
    model: str, raw: dict[str, str], pointer: str, tmp_path: Path
) -> None:
    make_classifier(tmp_path / "model", "bert")
    info = Catalog(tmp_path, "", tmp_path / "digests").resolve(model)
    with pytest.raises(InvalidRequest) as caught:
        check(info, Task.CLASSIFICATION, parse_params(Task.CLASSIFICATION, raw))
    (fault,) = caught.value.faults
    assert fault.pointer == pointer
