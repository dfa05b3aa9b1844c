"""Which engine runs what: a table from a model's family, the task and its method to an engine's class.

Knows the engines' names and imports one only when it is needed. Must not know how any of them works.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from corpusmill.errors import ModelFault
from corpusmill.models import Family, ModelInfo
from corpusmill.tasks import Dtype, Params, SummarizationParams, Task
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
_CAUSAL = EngineClass("worker.engines.causal.generating", "CausalEngine")
_CAUSAL_LABELS = EngineClass("worker.engines.causal.labels", "CausalLabelsEngine")
_VLLM = EngineClass("worker.engines.causal.vllm", "VllmEngine")

ENGINES: dict[tuple[Family, Task, str | None], EngineClass] = {
    ("sequence-classification", Task.CLASSIFICATION, None): _CLASSIFICATION,
    ("seq2seq", Task.SUMMARIZATION, "abstractive"): _SEQ2SEQ,
    ("seq2seq", Task.TRANSLATION, None): _SEQ2SEQ,
    ("sentence-encoder", Task.SUMMARIZATION, "extractive"): _EXTRACTIVE,
    ("causal", Task.CLASSIFICATION, None): _CAUSAL_LABELS,
    ("causal", Task.SUMMARIZATION, "abstractive"): _CAUSAL,
    ("causal", Task.TRANSLATION, None): _CAUSAL,
}


def engine_class(info: ModelInfo, task: Task, params: Params) -> EngineClass:
    """The engine for a task on a model. Raises ModelFault where there is none."""
    if info.family == "echo":
        return ECHO
    method = params.method if isinstance(params, SummarizationParams) else None
    if (info.family, task, method) not in ENGINES:
        by = f" by {method}" if method else ""
        raise ModelFault(f"{info.id} ({info.architecture}) cannot do {task}{by}.")
    found = ENGINES[info.family, task, method]
    if params.engine != "vllm":
        return found
    if found is not _CAUSAL:
        raise ModelFault(f"vLLM generates text with causal models here, and {info.id} was asked for {task}.")
    return _VLLM


def load_engine(
    info: ModelInfo, task: Task, params: Params, device: Device, *, cache: Path | None = None
) -> Engine[Any]:
    """The model, loaded on the device and ready for the task. `info` has its directory as `path`.

    `cache` is where models converted for CTranslate2 are kept. Raises ModelFault where it cannot be.
    """
    make = engine_class(info, task, params).load()
    if params.engine == "auto" or info.family == "echo":
        return _plain(make, info, params.dtype, device)
    if params.engine == "vllm":
        engine: Engine[Any] = make(info, device, params.dtype)
        return engine

    def plain() -> Engine[Any]:
        return _plain(make, info, "float32", device)

    from worker.models import chosen

    if params.engine == "int8":
        return chosen.load_int8(make, info, params, device, plain)
    if params.engine == "compiled":
        return chosen.load_compiled(make, info, params, device, cache=cache)
    return chosen.load_ctranslate2(make, info, params, device, plain, cache=cache)


def _plain(make: Any, info: ModelInfo, asked: Dtype, device: Device) -> Engine[Any]:
    """The engine that gives what the plain model gives."""
    engine: Engine[Any]
    if info.family == "echo":
        engine = make(info)
        return engine
    from worker.models.loading import load_model

    if asked == "int8":
        raise ModelFault("int8 as a dtype is for engine ctranslate2: set engine to int8 and leave dtype out.")
    dtype = dtype_for(device, asked)
    model, tokenizer = load_model(info, device, dtype)
    if device.kind == "cpu" and info.family in {"sequence-classification", "sentence-encoder", "seq2seq"}:
        from worker.models import onednn

        encoder: Any = cast(Any, model).get_encoder() if info.family == "seq2seq" else model
        onednn.fuse(encoder)
        onednn.lay_out(encoder)
    engine = make(model, tokenizer, info, device, dtype)
    return engine
