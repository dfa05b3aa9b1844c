"""The tasks and their parameters, as the HTTP contract names them.

Knows every parameter's name, range and default. Must not know which model can do what: `catalog` does.
"""

from __future__ import annotations

import difflib
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from corpusmill.errors import FieldFault, InvalidRequest


class Task(StrEnum):
    """What is done to a document, in Hugging Face's words."""

    CLASSIFICATION = "classification"
    SUMMARIZATION = "summarization"
    TRANSLATION = "translation"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Generation(_Strict):
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


class _Common(_Strict):
    long_documents: Literal["split", "truncate", "fail"] = "split"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    engine: Literal["auto"] = "auto"
    delay_ms: Annotated[float, Field(ge=0, le=60_000)] | None = Field(
        None, description="Only for the model `echo`: milliseconds to sleep for each document."
    )


class ClassificationParams(_Common):
    """`threshold` is the score from which a label counts when several may hold (default 0.5)."""

    multi_label: bool = False
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1, le=10_000)] = 5

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
    """`method` is chosen by the model's architecture where it is left out."""

    method: Literal["abstractive", "extractive"] | None = None
    max_sentences: Annotated[int, Field(ge=1, le=100)] = 3
    prefix: str | None = None
    generation: Generation = Generation()
    seed: int | None = None


class TranslationParams(_Common):
    """`source_lang` and `target_lang` are the model's own language codes, where it has several."""

    source_lang: str | None = None
    target_lang: str | None = None
    segment_by: Literal["document", "sentence"] = "document"
    prefix: str | None = None
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


def faults_of(error: ValidationError, model: type[BaseModel], at: str = "") -> list[FieldFault]:
    """One fault for each field that pydantic refused; an unknown field names the nearest known one."""
    faults = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        path = [str(part) for part in item["loc"]]
        pointer = at + "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "Unknown field." + _nearest(path[-1], _fields_at(model, path[:-1]))
        faults.append(FieldFault(pointer or "/", message))
    return faults


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f" Did you mean {close[0]}?" if close else ""
