"""Which engine a job may choose for a model: what int8, CTranslate2 and torch's compiler can run, known by names alone.

Knows architectures, tasks and parameters. Must not know the worker's device or what is installed there: what depends on
them fails in the worker, with a reason.
"""

from __future__ import annotations

from corpusmill.errors import FieldFault
from corpusmill.models import ModelInfo
from corpusmill.tasks import Params, SummarizationParams, Task, TranslationParams

#: What CTranslate2's converter reads and its runtime computes as transformers does.
CTRANSLATE2_CLASSIFIERS = frozenset({
    "BertForSequenceClassification", "CamembertForSequenceClassification", "DistilBertForSequenceClassification",
    "RobertaForSequenceClassification", "XLMRobertaForSequenceClassification",
})  # fmt: skip
CTRANSLATE2_SEQ2SEQ = frozenset({
    "BartForConditionalGeneration", "M2M100ForConditionalGeneration", "MBartForConditionalGeneration",
    "MT5ForConditionalGeneration", "MarianMTModel", "PegasusForConditionalGeneration", "T5ForConditionalGeneration",
})  # fmt: skip
_INT8_FAMILIES = frozenset({"sequence-classification", "seq2seq", "sentence-encoder"})


def faults(info: ModelInfo, task: Task, params: Params) -> list[FieldFault]:
    """A fault for each of `engine`, `dtype` and the generation fields that the chosen engine cannot do."""
    if params.dtype == "int8" and params.engine != "ctranslate2":
        return [_dtype("int8 as a dtype is for engine ctranslate2; for int8 by this program's own kernels, leave "
                       "dtype out and set engine to int8.")]  # fmt: skip
    if params.engine == "int8":
        return _int8(info, params)
    if params.engine == "ctranslate2":
        return _ctranslate2(info, task, params)
    if params.engine == "compiled" and info.family != "sequence-classification":
        return [_engine("compiled is for sequence classifiers: leave it out.")]
    return []


def _int8(info: ModelInfo, params: Params) -> list[FieldFault]:
    if info.family == "echo":
        return [_engine("echo has no weights that could be int8: leave it out.")]
    if info.family not in _INT8_FAMILIES:
        return [_engine(f"{info.architecture} is not run in int8: leave it out.")]
    if params.dtype not in {"auto", "float32"}:
        return [_dtype(f"int8 weights are made of float32 ones, and the rest stays float32, not {params.dtype}: leave "
                       "it out.")]  # fmt: skip
    return []


def _ctranslate2(info: ModelInfo, task: Task, params: Params) -> list[FieldFault]:
    known = CTRANSLATE2_CLASSIFIERS if task is Task.CLASSIFICATION else CTRANSLATE2_SEQ2SEQ
    if info.architecture not in known:
        return [_engine(f"CTranslate2 runs {', '.join(sorted(known))} for {task}, and {info.id} is a "
                        f"{info.architecture or info.family}: leave it out.")]  # fmt: skip
    found = []
    if params.dtype not in {"auto", "float32", "int8"}:
        found.append(_dtype(f"CTranslate2 runs here in float32 or int8, not {params.dtype}."))
    if isinstance(params, SummarizationParams | TranslationParams):
        found += _generation(params)
    return found


def _generation(params: SummarizationParams | TranslationParams) -> list[FieldFault]:
    """Fields whose meaning in CTranslate2 is another one, so that outputs would differ from `generate()`."""
    chosen = params.generation.chosen()
    reasons = {
        "do_sample": "CTranslate2 samples by a generator of its own, which no seed of this job sets",
        "early_stopping": "CTranslate2 ends a beam search by one rule, that of early_stopping true",
        "repetition_penalty": "CTranslate2 counts the start token otherwise",
    }
    fine: dict[str, object] = {"do_sample": False, "early_stopping": True, "repetition_penalty": 1.0}
    return [
        FieldFault(f"/params/generation/{name}", f"{why}: leave it out, or choose engine auto.")
        for name, why in reasons.items()
        if name in chosen and chosen[name] != fine[name]
    ]


def _engine(message: str) -> FieldFault:
    return FieldFault("/params/engine", message)


def _dtype(message: str) -> FieldFault:
    return FieldFault("/params/dtype", message)
