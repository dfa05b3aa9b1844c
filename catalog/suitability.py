"""Whether a model can do what a job asks of it, and the parameters that are then in force.

Knows tasks, parameters and what a ModelInfo says. Must not know files or the Hub.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from catalog import engines, prompting
from corpusmill.errors import FieldFault, InvalidRequest, UnsuitableModel
from corpusmill.models import ModelInfo
from corpusmill.tasks import ClassificationParams, Params, SummarizationParams, Task, TranslationParams


def check(info: ModelInfo, task: Task, params: Params) -> Params:
    """The parameters in force for a model: what was left out and the model decides is filled in.

    Checking them again changes nothing. Raises UnsuitableModel where the model cannot do the task, InvalidRequest with
    a fault for each parameter that does not fit it.
    """
    if task not in info.tasks:
        raise UnsuitableModel(
            f"{info.id} ({info.architecture or info.family}) cannot do {task}; it can do {' and '.join(info.tasks)}.",
            FieldFault("/task", f"This model can do {' and '.join(info.tasks)}."),
        )
    if params.delay_ms is not None and info.family != "echo":
        _refuse(FieldFault("/params/delay_ms", "Only the model echo sleeps: leave it out."))
    _refuse(*prompting.faults(info, params), *engines.faults(info, task, params))
    if info.family == "causal":
        return prompting.in_force(params)
    if isinstance(params, ClassificationParams):
        return _classification(info, params)
    if info.family == "echo":
        return params
    if isinstance(params, SummarizationParams):
        return _summarization(info, params)
    return _translation(info, params)


def _refuse(*faults: FieldFault) -> None:
    if faults:
        raise InvalidRequest("The parameters do not fit the model.", *faults)


def _classification(info: ModelInfo, params: ClassificationParams) -> ClassificationParams:
    """A model trained for several labels a document gives several unless it was told not to.

    With `multi_label: true`, a model trained for one label scores each of its labels by itself (sigmoid instead of
    softmax). With `multi_label: false`, a model trained for several gives the best of them with that label's own score.
    """
    if info.multi_label and "multi_label" not in params.model_fields_set:
        return ClassificationParams.model_validate({**params.model_dump(exclude_unset=True), "multi_label": True})
    return params


def _summarization(info: ModelInfo, params: SummarizationParams) -> SummarizationParams:
    possible = "extractive" if info.family == "sentence-encoder" else "abstractive"
    if params.method not in {None, possible}:
        _refuse(
            FieldFault(
                "/params/method",
                f"{info.id} ({info.architecture}) can only summarize by {possible}: leave it out, or choose "
                + ("a text-to-text model." if possible == "extractive" else "a sentence encoder."),
            )
        )
    if possible == "extractive":
        _refuse(*_without_generation(params))
        return params.model_copy(update={"method": possible})
    _refuse(*_fields_without_use(params, {"max_sentences": "It belongs to the method extractive: leave it out."}))
    prefix = params.prefix if params.prefix is not None else dict(info.prefixes).get("summarization")
    return params.model_copy(update={"method": possible, "prefix": prefix})


def _without_generation(params: SummarizationParams) -> list[FieldFault]:
    why = "This model chooses sentences and generates none: leave it out."
    return _fields_without_use(params, dict.fromkeys(("generation", "prefix", "seed"), why))


def _fields_without_use(params: SummarizationParams, reasons: dict[str, str]) -> list[FieldFault]:
    """Faults for fields that would change nothing, where they are not at their default."""
    fields = type(params).model_fields
    return [
        FieldFault(f"/params/{name}", why)
        for name, why in reasons.items()
        if getattr(params, name) != fields[name].get_default(call_default_factory=True)
    ]


def _translation(info: ModelInfo, params: TranslationParams) -> TranslationParams:
    pairs = _pairs(info)
    if pairs and params.prefix is None:
        return _by_prefix(info, params, pairs)
    asked = {"source_lang": params.source_lang, "target_lang": params.target_lang}
    known = {"source_lang": info.source_langs, "target_lang": info.target_langs}
    if pairs:  # the prefix that was given says what to do
        known = {field: known[field] for field, value in asked.items() if value is not None}
    _refuse(*(fault for field in known if (fault := _language_fault(field, asked[field], known[field]))))
    only = {field: langs[0] for field, langs in known.items() if len(langs) == 1}
    return params.model_copy(update=only)


def _language_fault(field: str, value: str | None, known: Sequence[str]) -> FieldFault | None:
    if value is None and len(known) > 1:
        return FieldFault(f"/params/{field}", f"This model knows {len(known)} languages; name one: {_some(known)}.")
    if value is None or value in known:
        return None
    if not known:
        return FieldFault(f"/params/{field}", "This model does not name its languages: leave it out.")
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)
    return FieldFault(
        f"/params/{field}", f"This model does not know {value!r}. Did you mean {near[0]}? It knows {_some(known)}."
    )


def _pairs(info: ModelInfo) -> dict[tuple[str | None, str | None], str]:
    """The prefix of each language pair, for models (T5) that are told by it what to do."""
    named = ((name.removeprefix("translation_").partition("_to_"), prefix) for name, prefix in info.prefixes)
    return {(source, target): prefix for (source, to, target), prefix in named if to}


def _by_prefix(
    info: ModelInfo, params: TranslationParams, pairs: dict[tuple[str | None, str | None], str]
) -> TranslationParams:
    asked = (params.source_lang, params.target_lang)
    if asked == (None, None) and len(pairs) == 1:
        asked = next(iter(pairs))
    if asked in pairs:
        return params.model_copy(
            update={"source_lang": asked[0], "target_lang": asked[1], "prefix": pairs[asked]},
        )
    listed = ", ".join(f"{source} to {target}" for source, target in pairs)
    faults = []
    for field, value, known in (
        ("source_lang", params.source_lang, info.source_langs),
        ("target_lang", params.target_lang, info.target_langs),
    ):
        if value is None:
            faults.append(FieldFault(f"/params/{field}", f"Name one of the pairs {listed}, or give a prefix."))
        elif fault := _language_fault(field, value, known):
            faults.append(fault)
    _refuse(*(faults or [FieldFault("/params/target_lang", f"This model knows the pairs {listed}.")]))
    return params


def _some(known: Sequence[str], most: int = 12) -> str:
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")
