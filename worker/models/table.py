"""Which engine runs what: a table from a model's family, the task and its method to an engine's class.

Knows the engines' names and imports one only when it is needed. Must not know how any of them works.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from corpusmill.errors import ModelFault
from corpusmill.models import Family, ModelInfo
from corpusmill.tasks import Params, SummarizationParams, Task
from worker.device import Device, dtype_for
from worker.engines.base import Engine


@dataclass(frozen=True, slots=True)
class EngineClass:
    """An engine's class by its module and name."""

    module: str
    name: str

    def load(self) -> Any:
        return getattr(import_module(self.module), self.name)


ECHO = EngineClass("worker.engines.echo", "EchoEngine")
_CLASSIFICATION = EngineClass("worker.engines.classification", "ClassificationEngine")
_SEQ2SEQ = EngineClass("worker.engines.seq2seq", "Seq2SeqEngine")
_EXTRACTIVE = EngineClass("worker.engines.extractive", "ExtractiveEngine")

ENGINES: dict[tuple[Family, Task, str | None], EngineClass] = {
    ("sequence-classification", Task.CLASSIFICATION, None): _CLASSIFICATION,
    ("seq2seq", Task.SUMMARIZATION, "abstractive"): _SEQ2SEQ,
    ("seq2seq", Task.TRANSLATION, None): _SEQ2SEQ,
    ("sentence-encoder", Task.SUMMARIZATION, "extractive"): _EXTRACTIVE,
}


def engine_class(info: ModelInfo, task: Task, params: Params) -> EngineClass:
    """The engine for a task on a model. Raises ModelFault where there is none."""
    if info.family == "echo":
        return ECHO
    method = params.method if isinstance(params, SummarizationParams) else None
    if (info.family, task, method) not in ENGINES:
        by = f" by {method}" if method else ""
        raise ModelFault(f"{info.id} ({info.architecture}) cannot do {task}{by}.")
    return ENGINES[info.family, task, method]


def load_engine(info: ModelInfo, task: Task, params: Params, device: Device) -> Engine[Any]:
    """The model, loaded on the device and ready for the task. `info` has its directory as `path`.

    Raises ModelFault where it cannot be.
    """
    found = engine_class(info, task, params)
    engine: Engine[Any]
    if found is ECHO:
        engine = found.load()(info)
        return engine
    from worker.models.loading import load_model

    dtype = dtype_for(device, params.dtype)
    model, tokenizer = load_model(info, device, dtype)
    engine = found.load()(model, tokenizer, info, device, dtype)
    return engine
