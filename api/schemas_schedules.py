"""Requests and responses of schedules, as the OpenAPI document has them.

Knows the contract's fields; those of a definition are `corpusmill.schedules`. Must not know rows.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.problems import names_fields
from api.schemas import PageQuery
from corpusmill.schedules import ScheduleDefinition


class ScheduleChange(BaseModel):
    """Any of the fields of a schedule."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"enabled": False}]})


@names_fields
class SchedulesQuery(PageQuery):
    """A page of schedules."""

    name: Annotated[str | None, Field(description="Only the schedule of this name.")] = None


class SchedulePath(BaseModel):
    schedule_id: str


class RunPath(SchedulePath):
    run_id: str


class ScheduleResponse(ScheduleDefinition):
    """A schedule with its defaults. `next_fires` are empty while it is not enabled; `revision` counts its changes."""

    id: str
    revision: int
    next_fires: list[str]
    created_at: str
    updated_at: str


class ScheduleList(BaseModel):
    data: list[ScheduleResponse]
    next_cursor: str | None


class RunResponse(BaseModel):
    """A run. `report` is there once it has succeeded; `error` says why it failed, or why it waits to try again."""

    id: str
    schedule: str
    fire_time: str
    trigger: Literal["cron", "tick", "manual"]
    status: Literal["waiting", "running", "paused", "succeeded", "failed", "skipped", "cancelled"]
    stage: Literal["read", "label", "deliver", "review", "report"]
    job: str | None
    corpus: str | None
    new_documents: int = Field(description="New, changed, or to be labelled again.")
    reused_documents: int
    failed_documents: int
    counts: dict[str, int]
    report: dict[str, Any] | None
    error: dict[str, Any] | None
    created_at: str
    started_at: str | None
    finished_at: str | None


class RunList(BaseModel):
    data: list[RunResponse]
    next_cursor: str | None
