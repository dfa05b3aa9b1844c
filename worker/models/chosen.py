"""Engines that a job must choose: int8 and CTranslate2, whose outputs may differ from the plain model's, and layers made
into kernels by torch's compiler, whose first batch takes a minute.

Knows how each is put together, that the first two are held against the plain float32 engine on a job's first documents,
and the third against itself before it was compiled. Must not know how any of them computes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from corpusmill.documents import Document
from corpusmill.errors import ModelFault
from corpusmill.models import ModelInfo
from corpusmill.tasks import Params
from worker.device import Device, DtypeChoice, dtype_for, free_bytes
from worker.engines.base import Engine, Usage
from worker.engines.measured import MeasuredEngine
from worker.models.loading import first_line, load_model, weight_bytes, weights_folder

#: What the scores of a decoder in int8 may differ by from the exact one's, relative to the largest: rounding moves them by
#: hundredths, and weights read into the wrong places by about the whole.
_INT8_TOLERANCE = 0.25
#: What compiled layers may change a score by: sums in another order, which half precision shows in the third place.
_COMPILED_TOLERANCE = 2e-2
_TRIAL = Document(position=0, id="0", text="A short text to try it on. It has two sentences of some words each.")


def load_int8(
    make: Callable[..., Engine[Any]], info: ModelInfo, params: Params, device: Device, plain: Callable[[], Engine[Any]]
) -> Engine[Any]:
    """The engine that `make` makes, its linear layers in int8. `plain` loads the one it is measured against.

    The engine is made, and tries itself, in float32: what it finds out about packs and slots holds for the rounded
    weights too, while rounding alone would exceed what these trials allow. Raises ModelFault where int8 cannot be.
    """
    import torch

    from worker.engines.int8 import int8_bytes, int8_linear, quantize_linears

    if device.kind != "cpu":
        raise ModelFault(
            f"The engine int8 runs on a CPU, and this worker's device is {device.name}: choose engine auto, which runs "
            "in half precision here."
        )
    model, tokenizer = load_model(info, device, torch.float32)
    before = weight_bytes(model)
    own = {"linear": int8_linear, "tolerance": _INT8_TOLERANCE} if info.family == "seq2seq" else {}
    engine = make(model, tokenizer, info, device, torch.float32, **own)
    layers = quantize_linears(model)
    engine.weight_bytes += weight_bytes(model) + int8_bytes(model) - before
    _try(engine, model, info, params)
    facts = {"dtype": "int8", "int8_layers": layers}
    return MeasuredEngine(engine, _if_room(info, device, plain), facts)


def _try(engine: Engine[Any], model: Any, info: ModelInfo, params: Params) -> None:
    """Run the model once: some read the weights of their layers themselves, and find none where bytes are."""
    import torch

    try:
        if info.family == "seq2seq":
            ids = torch.zeros(1, 2, dtype=torch.int64)
            with torch.inference_mode():
                model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=ids, use_cache=False)
            return
        prepared = engine.prepare([_TRIAL], params, Usage())
        results = [result for batch in engine.run(prepared, Usage(), lambda: False) for result in batch]
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise ModelFault(f"{info.id} cannot be run in int8: {first_line(error)}. Choose engine auto.") from error
    failures = [result.error.message for result in results if result.error and result.error.code == "internal"]
    if failures:
        raise ModelFault(f"{info.id} cannot be run in int8: {failures[0]} Choose engine auto.")


def load_ctranslate2(
    make: Callable[..., Engine[Any]],
    info: ModelInfo,
    params: Params,
    device: Device,
    plain: Callable[[], Engine[Any]],
    *,
    cache: Path | None,
) -> Engine[Any]:
    """The engine that `make` makes, with CTranslate2 in the place of the model's own forward.

    `cache` is where converted models are kept; without it they are made anew. Raises ModelFault where CTranslate2 is not
    installed or cannot run the model.
    """
    import torch

    from worker.engines.ctranslate import Loaded
    from worker.models.conversion import converted, refuse_absent

    refuse_absent()
    if device.kind != "cpu":
        raise ModelFault(
            f"CTranslate2 runs here on a CPU, and this worker's device is {device.name}: choose engine auto."
        )
    compute = "int8" if params.dtype == "int8" else "float32"
    model, tokenizer = load_model(info, device, torch.float32)
    with converted(info, model, cache) as folder:
        loaded = Loaded(info, model, folder)
        del model
        engine = make(loaded.model, tokenizer, info, device, torch.float32)
        loaded.compute_in(compute)
    engine.weight_bytes = weight_bytes(loaded.model) + loaded.own_bytes
    versions = {**engine.runtime["versions"], "ctranslate2": version("ctranslate2")}
    facts = {"engine": "ctranslate2", "architecture": info.architecture, "dtype": compute, "versions": versions}  # fmt: skip
    return MeasuredEngine(engine, _if_room(info, device, plain), facts)


def load_compiled(
    make: Callable[..., Engine[Any]], info: ModelInfo, params: Params, device: Device, *, cache: Path | None
) -> Engine[Any]:
    """The engine that `make` makes, its layers compiled; what was compiled is kept below `cache` for the next process.

    Raises ModelFault where there is no GPU, where nothing can be compiled, or where the outputs are not those of the layers
    as they were.
    """
    if device.kind != "cuda":
        raise ModelFault(f"The engine compiled runs on a GPU, and this worker's device is {device.name}: choose auto.")
    from worker.models.compiling import compile_layers, keep_compiled

    if cache is not None:
        keep_compiled(cache / "compiled")
    dtype = dtype_for(device, cast(DtypeChoice, params.dtype))  # int8 was refused with the job
    model, tokenizer = load_model(info, device, dtype)
    engine = make(model, tokenizer, info, device, dtype)
    check_compiled(engine, params, lambda: compile_layers(model))
    return engine


def check_compiled(engine: Engine[Any], params: Params, compile_: Callable[[], int]) -> None:
    """Compile an engine's layers and hold its scores of some texts against those from before; the job's record says how
    many layers. Raises ModelFault where there are none, they cannot be run, or the scores are others."""
    before = _scores(engine, params)
    layers = compile_()
    if not layers:
        raise ModelFault("The model has no layers that can be compiled: choose engine auto.")
    try:
        after = _scores(engine, params)
    except Exception as error:
        raise ModelFault(
            f"The layers cannot be compiled: {type(error).__name__}: {first_line(error)}. Choose auto."
        ) from error
    apart = max(abs(one - other) for one, other in zip(before, after, strict=True))
    if not apart <= _COMPILED_TOLERANCE:
        raise ModelFault(f"Compiled, the model's scores differ by {apart:.1g} from its own: choose engine auto.")
    engine.runtime["compiled_layers"] = layers


def _scores(engine: Engine[Any], params: Params) -> list[float]:
    """The scores of a few texts of different lengths, by position and label. Raises RuntimeError where one fails."""
    text = _TRIAL.text.split()
    documents = [
        Document(position=count, id=str(count), text=" ".join(text[: 1 + count % len(text)])) for count in range(24)
    ]
    prepared = engine.prepare(documents, params, Usage())
    results = [result for batch in engine.run(prepared, Usage(), lambda: False) for result in batch]
    if failures := [result.error.message for result in results if result.error]:
        raise RuntimeError(failures[0])
    ordered = sorted(results, key=lambda result: result.position)
    return [
        result.output["scores"][label]
        for result in ordered
        if result.output
        for label in sorted(result.output["scores"])
    ]


def _if_room(info: ModelInfo, device: Device, plain: Callable[[], Engine[Any]]) -> Callable[[], Engine[Any]]:
    """The same, but raising ModelFault where the memory has no room for a second set of weights."""

    def load() -> Engine[Any]:
        files = weights_folder(info).glob("model*.safetensors")
        # Half-precision files come to twice their size in float32, and loading holds a part of them twice.
        wanted = 3 * sum(path.stat().st_size for path in files)
        if wanted > free_bytes(device):
            raise ModelFault("The memory has no room for the float32 weights beside those that run.")
        return plain()

    return load
