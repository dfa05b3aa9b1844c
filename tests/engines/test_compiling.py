"""Compiled layers score as they did before, on packs of any size; the compiler never sees how documents lie in one.

The compiler's front runs here and what it found is run as it stands: making kernels of it takes a GPU, or minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from corpusmill.errors import ModelFault
from corpusmill.tasks import Task, parse_params
from tests.loaded_classifiers import Plain, classify, documents_of, engine_of, same
from tests.tiny_models import make_classifier, texts_of
from worker.device import Device
from worker.engines.classification import ClassificationEngine
from worker.models import load_engine
from worker.models.chosen import check_compiled
from worker.models.compiling import compile_layers

TEXTS = texts_of([1, 12, 3, 7, 1, 2, 12, 5, 9, 4, 3, 8, 1, 6])


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_compiled_layers_score_as_the_plain_model_does(kind: str, tmp_path: Path) -> None:
    plain = Plain(make_classifier(tmp_path / kind, kind))
    engine, params = engine_of(plain.path, 60)
    model = engine._forward._model  # type: ignore[attr-defined]
    check_compiled(engine, params, lambda: compile_layers(model, backend="eager"))
    # the last layer runs for one token of each text, and is not compiled
    assert engine.runtime["compiled_layers"] == plain.model.config.num_hidden_layers - 1
    for text, result in zip(TEXTS, classify(engine, params, documents_of(TEXTS)), strict=True):
        assert same(result, plain.logits(text).softmax(-1))


def test_packs_of_other_sizes_are_not_compiled_anew(tmp_path: Path) -> None:
    from torch._dynamo.testing import CompileCounter

    plain = Plain(make_classifier(tmp_path / "bert", "bert", num_hidden_layers=4))
    engine, params = engine_of(plain.path, 60)
    counter = CompileCounter()
    compile_layers(engine._forward._model, backend=counter)  # type: ignore[attr-defined]
    classify(engine, params, documents_of(TEXTS))
    compiled = counter.frame_count
    classify(engine, params, documents_of(texts_of(range(1, 14), seed=5)))
    assert counter.frame_count == compiled > 0


def test_scores_that_change_are_a_fault(tmp_path: Path) -> None:
    plain = Plain(make_classifier(tmp_path / "bert", "bert"))
    engine, params = engine_of(plain.path)

    def spoil() -> int:
        engine._forward._model.classifier.weight.data.neg_()  # type: ignore[attr-defined]
        return 1

    with pytest.raises(ModelFault, match="scores differ"):
        check_compiled(engine, params, spoil)


def test_a_model_without_a_stack_of_layers_is_a_fault(tmp_path: Path) -> None:
    plain = Plain(make_classifier(tmp_path / "bert", "bert"))
    engine, params = engine_of(plain.path)
    assert isinstance(engine, ClassificationEngine)
    with pytest.raises(ModelFault, match="no layers"):
        check_compiled(engine, params, lambda: 0)


def test_a_cpu_is_refused_with_a_reason(tmp_path: Path) -> None:
    plain = Plain(make_classifier(tmp_path / "bert", "bert"))
    _, _ = engine_of(plain.path)
    from catalog import Catalog

    info = Catalog(tmp_path, "", tmp_path / ".digests").resolve("bert")
    params = parse_params(Task.CLASSIFICATION, {"engine": "compiled"})
    with pytest.raises(ModelFault, match="runs on a GPU"):
        load_engine(info, Task.CLASSIFICATION, params, Device(kind="cpu"))
