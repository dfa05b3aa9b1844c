"""Linear layers laid out for oneDNN, alone and with the GELU that follows them, give what they gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from catalog import Catalog
from corpusmill.tasks import Task, TranslationParams
from tests import tiny_models, tiny_seq2seq
from worker.device import Device
from worker.models import onednn
from worker.models.loading import weight_bytes
from worker.models.onednn import LaidOut, fuse, lay_out
from worker.models.table import load_engine

pytestmark = pytest.mark.skipif(not torch._C._has_mkldnn, reason="this build of torch has no oneDNN")

MEASURED = onednn._pays


@pytest.fixture(autouse=True)
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where laid out layers are the faster ones."""
    monkeypatch.setattr(onednn, "_pays", lambda: True)


def model_of(kind: str, directory: Path, **chosen: Any) -> Any:
    made = AutoModelForSequenceClassification.from_pretrained(tiny_models.make_classifier(directory, kind, **chosen))
    return made.eval().requires_grad_(False)


def linears_in_stacks(model: torch.nn.Module) -> list[torch.nn.Module]:
    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    found = {id(module): module for stack in stacks for module in stack.modules() if type(module) is torch.nn.Linear}
    return list(found.values())


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra", "albert", "deberta-v2"])
def test_a_fused_model_scores_as_the_plain_one_does(kind: str, tmp_path: Path) -> None:
    plain, fused = model_of(kind, tmp_path), model_of(kind, tmp_path)
    activation = getattr(plain.config, "hidden_act", None) or getattr(plain.config, "activation", None)
    assert (fuse(fused) > 0) == (activation == "gelu")
    for length in (1, 7, 60):
        ids = torch.randint(5, 40, (2, length))
        with torch.inference_mode():
            assert torch.allclose(plain(ids).logits, fused(ids).logits, atol=1e-5)
    assert weight_bytes(fused) == weight_bytes(plain)


@pytest.mark.parametrize("kind", [*tiny_models.PACKED, "deberta-v2", "mpnet"])
def test_a_laid_out_model_scores_as_the_plain_one_does(kind: str, tmp_path: Path) -> None:
    plain, laid = model_of(kind, tmp_path), model_of(kind, tmp_path)
    fuse(laid)
    count = len(linears_in_stacks(laid))
    assert lay_out(laid) == count
    assert not linears_in_stacks(laid)
    assert (count > 0) == (kind != "gpt2"), "GPT-2 has matrices of its own"
    for length in (1, 7, 60):
        ids = torch.randint(5, 40, (1, length))
        with torch.inference_mode():
            assert torch.allclose(plain(ids).logits, laid(ids).logits, atol=1e-5)
    assert weight_bytes(laid) == weight_bytes(plain)


@pytest.mark.parametrize("kind", sorted(tiny_seq2seq.KINDS))
def test_a_laid_out_encoder_of_a_translator_gives_what_the_plain_one_gives(kind: str, tmp_path: Path) -> None:
    directory = tiny_seq2seq.make(kind, tmp_path)
    plain, laid = (AutoModelForSeq2SeqLM.from_pretrained(directory).eval().get_encoder() for _ in range(2))
    fuse(laid)
    assert lay_out(laid) > 0
    ids = torch.randint(5, 40, (2, 20))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    with torch.inference_mode():
        found, expected = (model(input_ids=ids, attention_mask=mask)[0] for model in (laid, plain))
    assert torch.allclose(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses:UserWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_translator_is_loaded_with_its_encoder_laid_out_and_its_decoder_as_it_was(dtype: Any, tmp_path: Path) -> None:
    tiny_seq2seq.make("marian", tmp_path / "marian")
    info = Catalog(tmp_path, "", tmp_path / "digests").resolve("marian")
    engine: Any = load_engine(info, Task.TRANSLATION, TranslationParams(dtype=dtype), Device(kind="cpu"))
    laid = {name for name, module in engine._model.named_modules() if isinstance(module, LaidOut)}
    assert bool(laid) == (dtype == "float32")
    assert all(".encoder." in f".{name}" for name in laid)


def test_a_head_and_embeddings_are_not_laid_out(tmp_path: Path) -> None:
    model = model_of("bert", tmp_path)
    lay_out(model)
    assert type(model.classifier) is type(model.bert.pooler.dense) is torch.nn.Linear


def test_a_model_that_looks_at_its_weights_itself_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("bert", tmp_path)
    before = linears_in_stacks(model)
    output = type(model.bert.encoder.layer[0].output)
    usual = output.forward

    def looking(self: Any, states: torch.Tensor, given: torch.Tensor) -> Any:
        return usual(self, states @ self.dense.weight.chunk(2)[0].t()[:, :1] * 0 + states, given)

    monkeypatch.setattr(output, "forward", looking)
    assert lay_out(model) == 0
    assert linears_in_stacks(model) == before


def test_layers_that_compute_something_else_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("bert", tmp_path)
    before = linears_in_stacks(model)
    usual = LaidOut.forward
    monkeypatch.setattr(LaidOut, "forward", lambda self, x: usual(self, x) * 1.001)
    assert lay_out(model) == 0
    assert linears_in_stacks(model) == before


def test_where_it_does_not_pay_nothing_is_laid_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_pays", lambda: False)
    model = model_of("bert", tmp_path)
    assert lay_out(model) == 0
    assert len(linears_in_stacks(model)) == 12


def test_whether_it_pays_is_measured_without_a_draw_from_the_common_generator() -> None:
    before = torch.get_rng_state()
    assert onednn._works.__wrapped__()
    assert MEASURED.__wrapped__() in {True, False}
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_no_exact_gelu_stays_as_it_is(tmp_path: Path) -> None:
    model = model_of("bert", tmp_path, hidden_act="gelu_new")
    assert fuse(model) == 0
    assert not any(isinstance(module, LaidOut) for module in model.modules())
