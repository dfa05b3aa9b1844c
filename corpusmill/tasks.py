"""The tasks and their parameters, as the HTTP contract names them.

Knows every parameter's name, range and default. Must not know which model can do what: `catalog` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from corpusmill import prompts
from corpusmill.errors import InvalidRequest
from corpusmill.validation import Strict, faults_of, read_stored


class Task(StrEnum):
    """What is done to a document, in Hugging Face's words."""

    CLASSIFICATION = "classification"
    SUMMARIZATION = "summarization"
    TRANSLATION = "translation"


#: The precision of weights. `int8` is for the engine `ctranslate2`; the engine `int8` makes its bytes of float32.
Dtype = Literal["auto", "float32", "float16", "bfloat16", "int8"]
#: What runs a model: `auto` gives what the plain model gives; the others are chosen, never taken.
EngineChoice = Literal["auto", "int8", "ctranslate2", "compiled", "vllm"]


def _template(*known: str) -> AfterValidator:
    """A prompt whose placeholders are known and hold the text's own."""
    return AfterValidator(lambda template: prompts.check_template(template, known))


#: What a causal model is asked: at most so many characters, white space counted.
_Prompt = Annotated[str, Field(max_length=prompts.MOST_CHARACTERS)]
_Language = Annotated[str, Field(max_length=100)]


class Generation(Strict):
    """`GenerationConfig` fields a job may set; what is left out comes from the model's own `generation_config`."""

    num_beams: Annotated[int, Field(ge=1, le=64)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] | None = None
    min_new_tokens: Annotated[int, Field(ge=0, le=8192)] | None = None
    max_length: Annotated[int, Field(ge=1, le=8192)] | None = None
    min_length: Annotated[int, Field(ge=0, le=8192)] | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=64)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, Field(gt=0)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None

    def chosen(self) -> dict[str, Any]:
        """The fields that were set."""
        return self.model_dump(exclude_none=True)


class _Common(Strict):
    long_documents: Literal["split", "truncate", "fail"] = "split"
    dtype: Dtype = "auto"
    engine: EngineChoice = "auto"
    delay_ms: Annotated[float, Field(ge=0, le=60_000)] | None = Field(
        None, description="Only for the model `echo`: milliseconds to sleep for each document."
    )


class ClassificationParams(_Common):
    """`threshold` is the score from which a label counts when several may hold (default 0.5).

    `labels` and `prompt` (with `{text}`, and `{labels}` where they are to be named) are for causal models only.
    """

    multi_label: bool = False
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1, le=10_000)] = 5
    labels: (
        Annotated[tuple[str, ...], Field(min_length=2, max_length=1_000), AfterValidator(prompts.check_labels)] | None
    ) = None
    prompt: Annotated[_Prompt, _template(prompts.TEXT, prompts.LABELS)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _threshold_in_force(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("multi_label") is True and values.get("threshold") is None:
            return {**values, "threshold": 0.5}
        return values

    @model_validator(mode="after")
    def _threshold_needs_multi_label(self) -> ClassificationParams:
        if self.threshold is not None and not self.multi_label:
            raise ValueError("threshold applies only with multi_label: true")
        return self


class SummarizationParams(_Common):
    """`method` is chosen by the model's architecture where it is left out.

    `prompt` (with `{text}`) is for causal models only.
    """

    method: Literal["abstractive", "extractive"] | None = None
    max_sentences: Annotated[int, Field(ge=1, le=100)] = 3
    prefix: str | None = None
    prompt: Annotated[_Prompt, _template(prompts.TEXT)] | None = None
    generation: Generation = Generation()
    seed: int | None = None


class TranslationParams(_Common):
    """`source_lang` and `target_lang` are the model's own language codes, where it has several.

    For a causal model they are what the prompt is to name (`German`), and `prompt` (with `{text}`, and `{source_lang}`
    and `{target_lang}` where they are to be named) is for these models only.
    """

    source_lang: _Language | None = None
    target_lang: _Language | None = None
    segment_by: Literal["document", "sentence"] = "document"
    prefix: str | None = None
    prompt: Annotated[_Prompt, _template(prompts.TEXT, prompts.SOURCE, prompts.TARGET)] | None = None
    generation: Generation = Generation()
    seed: int | None = None


Params = ClassificationParams | SummarizationParams | TranslationParams
PARAMS: dict[Task, type[ClassificationParams] | type[SummarizationParams] | type[TranslationParams]] = {
    Task.CLASSIFICATION: ClassificationParams,
    Task.SUMMARIZATION: SummarizationParams,
    Task.TRANSLATION: TranslationParams,
}


def parse_params(task: Task, raw: dict[str, Any]) -> Params:
    """The parameters in force, defaults included.

    Raises InvalidRequest with one fault for each wrong field.
    """
    try:
        return PARAMS[task].model_validate(raw)
    except ValidationError as error:
        faults = faults_of(error, PARAMS[task], "/params")
        raise InvalidRequest(f"The parameters do not fit the task {task}.", *faults) from error


def stored_params(task: Task, stored: Mapping[str, Any]) -> Params:
    """A job's parameters as they were stored, maybe by a later version. Raises NewerVersion."""
    return read_stored(PARAMS[task], stored)
