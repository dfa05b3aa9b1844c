"""Parameters of the tasks: defaults in force, and refusals that say how to mend them."""

from __future__ import annotations

import pytest

from corpusmill.errors import InvalidRequest
from corpusmill.tasks import ClassificationParams, Task, parse_params


def test_defaults_are_in_force() -> None:
    params = parse_params(Task.CLASSIFICATION, {})
    assert isinstance(params, ClassificationParams)
    assert params.model_dump() == {
        "long_documents": "split", "dtype": "auto", "engine": "auto", "delay_ms": None, "multi_label": False,
        "threshold": None, "top_k": 5, "labels": None, "prompt": None,
    }  # fmt: skip


def test_several_labels_count_from_a_half_unless_said_otherwise() -> None:
    assert parse_params(Task.CLASSIFICATION, {"multi_label": True}).model_dump()["threshold"] == 0.5


@pytest.mark.parametrize(
    ("task", "raw", "pointer", "message"),
    [
        (Task.CLASSIFICATION, {"topk": 3}, "/params/topk", "Unknown field. Did you mean top_k?"),
        (Task.CLASSIFICATION, {"top_k": 0}, "/params/top_k", "greater than or equal to 1"),
        (Task.CLASSIFICATION, {"threshold": 0.4}, "/params", "multi_label"),
        (Task.TRANSLATION, {"generation": {"num_beam": 4}}, "/params/generation/num_beam", "num_beams"),
        (Task.SUMMARIZATION, {"method": "magic"}, "/params/method", "abstractive"),
        (Task.SUMMARIZATION, {"long_documents": "cut"}, "/params/long_documents", "truncate"),
        (Task.SUMMARIZATION, {"prompt": "Shorten it."}, "/params/prompt", "{text} is missing"),
        (Task.TRANSLATION, {"prompt": "{text} {target}"}, "/params/prompt", "Did you mean {target_lang}?"),
        (Task.CLASSIFICATION, {"prompt": "x" * 20_001}, "/params/prompt", "20000 characters"),
        (Task.CLASSIFICATION, {"labels": ["a"]}, "/params/labels", "at least 2 items"),
        (Task.CLASSIFICATION, {"labels": [str(number) for number in range(1_001)]}, "/params/labels", "at most 1000"),
        (Task.CLASSIFICATION, {"labels": ["a", "b", "a"]}, "/params/labels", "stands there twice"),
        (Task.CLASSIFICATION, {"labels": ["a", "x" * 201]}, "/params/labels", "200 characters"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_wrong(
    task: Task, raw: dict[str, object], pointer: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_params(task, raw)
    (fault,) = caught.value.faults
    assert fault.pointer == pointer
    assert message in fault.message


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("engine", ["auto", "int8", "ctranslate2"])
def test_every_task_takes_the_engines_by_name(task: Task, engine: str) -> None:
    assert parse_params(task, {"engine": engine}).engine == engine


def test_an_unknown_engine_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_params(Task.CLASSIFICATION, {"engine": "onnx"})
    (fault,) = caught.value.faults
    assert fault.pointer == "/params/engine"
    assert "ctranslate2" in fault.message
