"""What a causal model may be asked by prompt, and what is then in force; and that other models take no prompt.

Knows parameters and a ModelInfo's family. Must not know files, or how a prompt is run.
"""

from __future__ import annotations

from collections.abc import Iterable

from corpusmill import prompts
from corpusmill.errors import FieldFault
from corpusmill.models import ModelInfo
from corpusmill.tasks import ClassificationParams, Params, SummarizationParams, TranslationParams


def faults(info: ModelInfo, params: Params) -> list[FieldFault]:
    """One fault for each parameter that does not fit a causal model, or that only a causal model could use."""
    if info.family == "causal":
        if isinstance(params, ClassificationParams):
            return list(_labelling(info, params))
        shared = [*_generating(params), *(_vllm(params) if params.engine == "vllm" else ())]
        own = _translating(params) if isinstance(params, TranslationParams) else _summarizing(params)
        return [*shared, *own]
    return list(_elsewhere(info, params))


def in_force(params: Params) -> Params:
    """The parameters with the task's own prompt where none was given. Checking them again changes nothing."""
    if isinstance(params, SummarizationParams):
        return params.model_copy(update={"method": "abstractive", "prompt": params.prompt or prompts.SUMMARIZE})
    if isinstance(params, ClassificationParams):
        return params.model_copy(update={"prompt": params.prompt or prompts.CLASSIFY})
    return params.model_copy(update={"prompt": params.prompt or _translation(params)})


def _translation(params: TranslationParams) -> str:
    return prompts.TRANSLATE if params.source_lang else prompts.TRANSLATE_INTO


def _vllm(params: SummarizationParams | TranslationParams) -> Iterable[FieldFault]:
    """What vLLM's sampler does not have."""
    chosen = params.generation.chosen()
    fine: dict[str, object] = {"num_beams": 1, "no_repeat_ngram_size": 0}
    for name in ("num_beams", "no_repeat_ngram_size", "length_penalty", "early_stopping"):
        if name in chosen and chosen[name] != fine.get(name):
            yield FieldFault(
                f"/params/generation/{name}", "vLLM has no such thing: leave it out, or choose engine auto."
            )


def _elsewhere(info: ModelInfo, params: Params) -> Iterable[FieldFault]:
    if params.engine == "vllm":
        yield FieldFault(
            "/params/engine",
            f"vLLM runs causal language models here, and {info.id} is a {info.architecture or info.family}: leave it out.",
        )
    if isinstance(params, ClassificationParams) and params.labels is not None:
        own = f"{info.id} has labels of its own ({', '.join(info.labels[:12])}): leave labels out"
        yield FieldFault("/params/labels", f"{own}, or choose a causal language model, which is given its labels.")
    if params.prompt is not None and info.family != "echo":
        yield FieldFault(
            "/params/prompt",
            f"{info.id} ({info.architecture or info.family}) takes no prompt: leave it out, or choose a causal "
            "language model (…ForCausalLM).",
        )


def _labelling(info: ModelInfo, params: ClassificationParams) -> Iterable[FieldFault]:
    if params.engine == "vllm":
        yield FieldFault("/params/engine", "vLLM generates text here, it does not weigh labels: leave it out.")
    if params.labels is None:
        yield FieldFault("/params/labels", f"{info.id} has no labels of its own: list those to choose from.")
    if params.multi_label:
        yield FieldFault(
            "/params/multi_label", "Labels chosen by prompt compete with one another: leave multi_label out."
        )


def _generating(params: SummarizationParams | TranslationParams) -> Iterable[FieldFault]:
    if params.prefix is not None:
        yield FieldFault("/params/prefix", "A causal model is told what to do by its prompt: put it there.")


def _summarizing(params: SummarizationParams) -> Iterable[FieldFault]:
    fields = SummarizationParams.model_fields
    if params.method == "extractive":
        yield FieldFault(
            "/params/method", "A causal model writes summaries of its own: leave it out, or choose a sentence encoder."
        )
    elif params.max_sentences != fields["max_sentences"].default:
        yield FieldFault("/params/max_sentences", "It belongs to the method extractive: say it in the prompt.")


def _translating(params: TranslationParams) -> Iterable[FieldFault]:
    """Each language that the prompt names must be given. One that it does not name would change nothing, but for the
    source's, which also chooses the rules by which sentences are told apart."""
    named = prompts.parse(params.prompt or _translation(params)).names
    for field in (prompts.SOURCE, prompts.TARGET):
        if field in named and not getattr(params, field):
            yield FieldFault(f"/params/{field}", f"The prompt names {{{field}}}: say which language, as in German.")
    if params.target_lang and prompts.TARGET not in named:
        yield FieldFault(
            "/params/target_lang", "The prompt does not name {target_lang}: put it there, or leave the language out."
        )
