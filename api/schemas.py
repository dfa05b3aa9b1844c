"""Requests and responses as pydantic models: what is accepted, and what the OpenAPI document says.

Knows the contract's fields. Must not know rows.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from api.problems import names_fields
from corpusmill.settings import LONGEST_TTL
from corpusmill.status import Status
from corpusmill.tasks import Task

#: Documents in the body of a job; a larger set belongs in a corpus, which is streamed.
MOST_INLINE_DOCUMENTS = 10_000


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


@names_fields
class InlineDocument(_Request):
    """A document in the body of a job; other fields are kept and come back in exports."""

    model_config = ConfigDict(extra="allow")

    text: str
    text_pair: Annotated[str | None, Field(description="The second text of a pair.")] = None
    id: Annotated[str | int | None, Field(description="Its own id; without one, its position.")] = None
    reference: Annotated[
        str | bool | int | float | list[str] | None,
        Field(description="A gold label, a list of labels, a reference text, or a list of them."),
    ] = None


_JOB_EXAMPLE: dict[str, JsonValue] = {
    "task": "classification",
    "model": "demo/classifier",
    "documents": [{"id": "a", "text": "A warm and funny film.", "reference": "positive"}],
    "params": {"top_k": 2},
}


@names_fields
class JobRequest(_Request):
    """What to do (task, model, parameters) with which documents (a corpus, or the documents themselves)."""

    model_config = ConfigDict(json_schema_extra={"examples": [_JOB_EXAMPLE]})

    task: Task
    model: Annotated[
        str, Field(min_length=1, max_length=200, description="A model's id: `GET /models` has those here.")
    ]
    revision: Annotated[
        Annotated[str, Field(min_length=1, max_length=100)] | None,
        Field(description="The model's commit, tag or branch; without one, the newest."),
    ] = None
    corpus: Annotated[str | None, Field(description="The id of a corpus; or else `documents`.")] = None
    documents: Annotated[
        Annotated[list[InlineDocument], Field(min_length=1, max_length=MOST_INLINE_DOCUMENTS)] | None,
        Field(description="The documents themselves, for a small job; or else `corpus`."),
    ] = None
    name: Annotated[Annotated[str, Field(max_length=200)] | None, Field(description="A name for people.")] = None
    params: Annotated[
        dict[str, Any],
        Field(description="Parameters of the task; the job's answer has all in force, with the defaults."),
    ] = {}
    priority: Annotated[int, Field(ge=-100, le=100, description="Jobs of higher priority run first.")] = 0
    metadata: Annotated[dict[str, Any], Field(description="Kept with the job and given back, never read.")] = {}
    reuse: Annotated[
        bool,
        Field(
            description="Take the outputs kept of texts that went through the same model with the same parameters before, "
            "and keep this job's for others; they outlive it."
        ),
    ] = False
    ttl_seconds: Annotated[
        Annotated[int, Field(ge=1, le=LONGEST_TTL)] | None,
        Field(
            description="Delete the job with its results this long after its end; by default as the operator has set."
        ),
    ] = None

    @field_validator("metadata")
    @classmethod
    def _json(cls, metadata: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode()
        except ValueError as error:
            raise ValueError(
                "not JSON that everybody can read: it holds NaN, an infinity or half a surrogate pair"
            ) from error
        return metadata

    @model_validator(mode="after")
    def _one_source(self) -> JobRequest:
        if (self.corpus is None) == (self.documents is None):
            raise ValueError("give either corpus (an id) or documents (a list), and not both")
        return self


@names_fields
class UploadQuery(_Request):
    """How the fields of an upload are to be read."""

    name: Annotated[
        Annotated[str, Field(max_length=200)] | None,
        Field(description="A name for people; the file's, where it has one."),
    ] = None
    text_field: Annotated[str, Field(min_length=1, description="Field of the text.")] = "text"
    text_pair_field: Annotated[
        Annotated[str, Field(min_length=1)] | None,
        Field(description="Field of a second text, for models that judge pairs; none by default."),
    ] = None
    id_field: Annotated[str, Field(min_length=1, description="Field of the document's own id.")] = "id"
    reference_field: Annotated[str, Field(min_length=1, description="Field of the gold label or text.")] = "reference"
    ttl_seconds: Annotated[
        Annotated[int, Field(ge=1, le=LONGEST_TTL)] | None,
        Field(
            description="Delete the corpus after this time, once no open job uses it; by default as the operator has set."
        ),
    ] = None


@names_fields
class PageQuery(_Request):
    """A page of a list."""

    limit: Annotated[int, Field(ge=1, le=1000, description="Most to answer with.")] = 100
    cursor: Annotated[
        Annotated[str, Field(pattern=r"^[0-9]{1,18}$")] | None, Field(description="`next_cursor` of the page before.")
    ] = None


@names_fields
class JobsQuery(PageQuery):
    """A page of jobs; `status` may be repeated."""

    status: Annotated[list[Status] | None, Field(description="Only jobs of this status; may be repeated.")] = None
    task: Annotated[Task | None, Field(description="Only jobs of this task.")] = None


@names_fields
class JobQuery(_Request):
    """Seconds to wait for the job to change (at most 60), from what `If-None-Match` names or from now."""

    wait: Annotated[
        Annotated[float, Field(ge=0, le=60)] | None,
        Field(description="Seconds to hold the answer while the job does not change."),
    ] = None


@names_fields
class ResultsQuery(PageQuery):
    """A page of results."""

    status: Literal["succeeded", "failed", "cancelled"] | None = None
    label: Annotated[str | None, Field(description="Only documents with this label.")] = None
    min_score: Annotated[float | None, Field(description="Only documents with this score or a higher one.")] = None
    max_score: Annotated[float | None, Field(description="Only documents with this score or a lower one.")] = None


@names_fields
class ExportQuery(_Request):
    """The file format; `partial` exports what is there before the job has ended; `raw` leaves CSV cells that a
    spreadsheet would run as formulas as they are."""

    format: Literal["jsonl", "csv", "parquet"] = "jsonl"
    partial: Annotated[bool, Field(description="What is there before the job has ended.")] = False
    raw: Annotated[bool, Field(description="CSV cells that a spreadsheet would run as formulas, as they are.")] = False


class CorpusPath(BaseModel):
    corpus_id: str


class ReferencesResponse(BaseModel):
    """A version of a corpus's references. `documents` is how many have one, `sha256` that of the references themselves."""

    corpus: str
    version: int
    documents: int
    sha256: str
    created_at: str


class ReferencesList(BaseModel):
    data: list[ReferencesResponse]
    next_cursor: str | None


class JobPath(BaseModel):
    job_id: str


class ResultPath(JobPath):
    position: Annotated[int, Field(ge=0)]


class CorpusResponse(BaseModel):
    """A corpus. `error` says why it was rejected."""

    id: str
    name: str | None
    status: Literal["validating", "ready", "rejected"]
    format: str
    bytes: int
    sha256: str
    documents: int
    invalid: int
    fields: list[str]
    error: dict[str, Any] | None
    created_at: str
    expires_at: str | None
    references_version: int = Field(description="0: the references that came with the documents.")


class IngestErrorResponse(BaseModel):
    line: int
    column: str | None
    code: Literal["invalid_json", "missing_field", "wrong_type", "bad_encoding", "too_long"]
    message: str


class DocumentResponse(BaseModel):
    id: str
    position: int
    text: str
    text_pair: str | None = None
    reference: str | list[str] | None
    fields: dict[str, Any]


class ModelReference(BaseModel):
    id: str
    revision: str


class CountsResponse(BaseModel):
    total: int
    succeeded: int
    failed: int
    cancelled: int
    pending: int


class JobResponse(BaseModel):
    """A job; its counts always add up to `total`."""

    id: str
    name: str | None
    task: Task
    model: ModelReference
    corpus: str
    corpus_invalid: int
    params: dict[str, Any]
    priority: int
    status: Status
    counts: CountsResponse
    reuse: bool
    reused: int = Field(
        description="Documents whose results were taken from outputs kept before; they are in `counts`."
    )
    progress: float
    documents_per_second: float | None
    eta_seconds: float | None
    queue_position: int | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    expires_at: str | None
    error: dict[str, Any] | None
    runtime: dict[str, Any] | None
    metadata: dict[str, Any]
    references_version: int = Field(description="The version of the corpus's references that its metrics are of.")


class ResultError(BaseModel):
    code: str
    message: str
    retryable: bool


class ResultResponse(BaseModel):
    id: str
    position: int
    status: Literal["succeeded", "failed", "cancelled"]
    output: dict[str, Any] | None
    n_tokens: int
    n_segments: int
    truncated: bool
    error: ResultError | None


class MetricResponse(BaseModel):
    name: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None
    coverage: float | None
    signature: str | None


class ConfusionMatrixResponse(BaseModel):
    """Rows are references, columns what the model said, both in the order of `labels`."""

    labels: list[str]
    counts: list[list[int]]


class MetricsResponse(BaseModel):
    metrics: list[MetricResponse]
    confusion_matrix: ConfusionMatrixResponse | None
    references_version: int = Field(
        description="The version of the corpus's references that the metrics are of; while others are being taken in, the "
        "older one."
    )


class ModelResponse(BaseModel):
    id: str
    revision: str
    tasks: list[Task]
    labels: list[str]
    source_langs: list[str]
    target_langs: list[str]
    loaded_on: list[str]


class LoadedModel(BaseModel):
    id: str
    revision: str


class ShardInHand(BaseModel):
    """Documents `start` (included) to `stop` (excluded) of a job."""

    job: str
    start: int
    stop: int


class WorkerResponse(BaseModel):
    id: str
    hostname: str
    device: str
    models: list[LoadedModel]
    memory: dict[str, int] = Field(
        description="Bytes: `resident` on the host; of a GPU `device_used` and `device_total`."
    )
    shard: ShardInHand | None
    started_at: str
    seen_at: str


class WorkerList(BaseModel):
    data: list[WorkerResponse]
    next_cursor: str | None


class CorpusList(BaseModel):
    data: list[CorpusResponse]
    next_cursor: str | None


class IngestErrorList(BaseModel):
    data: list[IngestErrorResponse]
    next_cursor: str | None


class DocumentList(BaseModel):
    data: list[DocumentResponse]
    next_cursor: str | None


class JobList(BaseModel):
    data: list[JobResponse]
    next_cursor: str | None


class ResultList(BaseModel):
    data: list[ResultResponse]
    next_cursor: str | None


class ModelList(BaseModel):
    data: list[ModelResponse]
    next_cursor: str | None
