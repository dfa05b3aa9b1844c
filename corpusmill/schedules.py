"""Schedules: what is done every night, with which documents, where the labels go, and who looks at the doubtful ones.

Knows a definition's fields, their ranges and defaults. Must not know the time, what the operator's places are, or how any
of it is done. When a schedule fires is `corpusmill.cron`.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from corpusmill import cron
from corpusmill.errors import FieldFault, InvalidRequest
from corpusmill.tasks import Params, Task, parse_params
from corpusmill.validation import Strict, faults_of

#: A configured place's name: what a definition may say of the operator's systems.
PlaceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
_Column = Annotated[str, Field(min_length=1, max_length=200)]
_Path = Annotated[str, Field(min_length=1, max_length=500)]
_Share = Annotated[float, Field(ge=0, le=1)]


def _clock(value: str) -> str:
    datetime.time.fromisoformat(value)
    return value


_ClockTime = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$"), AfterValidator(_clock)]


class Window(Strict):
    """The hours in which a run may use the device, on the clock of the schedule's zone; over midnight where the start is
    later than the end."""

    start: _ClockTime
    end: _ClockTime

    @model_validator(mode="after")
    def _not_empty(self) -> Window:
        if self.start == self.end:
            raise ValueError("the window begins when it ends: leave it out, and a run goes on at any hour")
        return self

    @property
    def times(self) -> tuple[datetime.time, datetime.time]:
        """Start (included) and end (excluded)."""
        return datetime.time.fromisoformat(self.start), datetime.time.fromisoformat(self.end)


class _Fields(Strict):
    """Which fields of what is read are a document's text, its second text, its id and its reference."""

    text_field: _Column = "text"
    text_pair_field: _Column | None = None
    reference_field: _Column | None = "reference"


class FolderSource(_Fields):
    """New and changed files below a configured folder; `pattern` is a glob, with `**` for any depth.

    `most_gone` is the share of the documents that a mirror may lose in one night: a source that has lost more is taken for
    one that is not whole. With 1 it may lose all of them."""

    type: Literal["folder"]
    place: PlaceName
    pattern: _Path = "**/*"
    id_field: _Column = "id"
    sync: Literal["append", "mirror"] = "append"
    most_gone: _Share = 0.5


class SqlSource(_Fields):
    """Rows of a configured database, of a table or a query, in the order of a unique `key`, which is the document's id.

    `append` follows `watermark`, a column that never falls (without one, the key itself): rows above what the last run
    saw. `mirror` reads all there is, and what is gone goes out of the sinks; `most_gone` bounds it as in a folder.
    """

    type: Literal["sql"]
    place: PlaceName
    table: _Column | None = None
    query: Annotated[str, Field(min_length=1, max_length=20_000)] | None = None
    key: _Column
    watermark: _Column | None = None
    sync: Literal["append", "mirror"] = "append"
    most_gone: _Share = 0.5

    @model_validator(mode="after")
    def _one_origin(self) -> SqlSource:
        if (self.table is None) == (self.query is None):
            raise ValueError("give either table or query, and not both")
        if self.sync == "mirror" and self.watermark is not None:
            raise ValueError("watermark is for sync append: mirror reads every row")
        return self


class CorpusSource(Strict):
    """Every corpus of this name that was uploaded since the last run."""

    type: Literal["corpus"]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    sync: Literal["append"] = "append"


SourceDefinition = Annotated[FolderSource | SqlSource | CorpusSource, Field(discriminator="type")]


class TableSink(Strict):
    """A table of a configured database: a row for each document, written over by its id; made where it is not there."""

    type: Literal["table"]
    place: PlaceName
    table: _Column


class FilesSink(Strict):
    """One file for each run below a configured folder, written aside and renamed; `{run}` in its path, and `{date}`."""

    type: Literal["files"]
    place: PlaceName
    path: _Path
    format: Literal["parquet", "csv", "jsonl"] = "parquet"


SinkDefinition = Annotated[TableSink | FilesSink, Field(discriminator="type")]


class LabelStudioTarget(Strict):
    """A project of a configured Label Studio."""

    type: Literal["label_studio"]
    place: PlaceName
    project: Annotated[int, Field(ge=1)]


class ArgillaTarget(Strict):
    """A dataset of a configured Argilla."""

    type: Literal["argilla"]
    place: PlaceName
    dataset: Annotated[str, Field(min_length=1, max_length=200)]
    workspace: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class ReviewFile(Strict):
    """A file for each run below a configured folder, in the form that a labelling tool imports; `{run}` in its path, and
    `{date}`."""

    type: Literal["file"]
    place: PlaceName
    path: _Path
    format: Literal["label_studio", "argilla"]


ReviewTarget = Annotated[LabelStudioTarget | ArgillaTarget | ReviewFile, Field(discriminator="type")]


class Review(Strict):
    """Which documents people look at. A label's score below its threshold (`default` where it has none of its own), a
    lead over the second label below `margin`, or an entropy (0 to 1, of the label scores) above `entropy` sends a
    document; so does the draw of `audit`, a share of all others. At most `most` in one run."""

    thresholds: dict[str, _Share] = Field({})
    default: _Share | None = None
    margin: _Share | None = None
    entropy: _Share | None = None
    audit: _Share = 0.0
    most: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    to: ReviewTarget

    @model_validator(mode="after")
    def _some_rule(self) -> Review:
        if not (self.thresholds or self.audit) and (self.default, self.margin, self.entropy) == (None, None, None):
            raise ValueError("no rule sends anything: give thresholds, default, margin, entropy or audit")
        return self


class Rule(Strict):
    """A figure of the report, and the bound beyond which the morning is not well."""

    figure: Annotated[str, Field(min_length=1, max_length=200)]
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Rule:
        if (self.above is None) == (self.below is None):
            raise ValueError("give either above or below, and not both")
        return self


class ReportFiles(Strict):
    """Where the report is written: `path` without a suffix, for a `.json` and a `.md`; `{date}` and `{run}` in it. Without
    `{run}` a later report takes an earlier one's place: each run has its own beside the files."""

    place: PlaceName
    path: _Path


class ReportDefinition(Strict):
    """With how many earlier nights a night is compared, and which figures are alarms."""

    nights: Annotated[int, Field(ge=1, le=366)] = 7
    fail_if: Annotated[tuple[Rule, ...], Field(max_length=100)] = ()
    to: ReportFiles | None = None

    @property
    def looked_at(self) -> int:
        """How many runs before it a report reads: nights on which nothing was labelled are passed over."""
        return 4 * self.nights


class ScheduledJob(Strict):
    """What is done to each document; without `revision` the newest is taken each night."""

    task: Task
    model: Annotated[str, Field(min_length=1, max_length=200)]
    revision: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    params: dict[str, Any] = Field({})
    priority: Annotated[int, Field(ge=-100, le=100)] = 0

    @property
    def parsed(self) -> Params:
        """The parameters with the defaults of the task. Raises InvalidRequest."""
        return parse_params(self.task, self.params)


class ScheduleDefinition(Strict):
    """What fires, when, and what is then done."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    cron: Annotated[str, Field(max_length=200), AfterValidator(cron.check)]
    timezone: Annotated[str, Field(max_length=100)] = "UTC"
    catch_up: Literal["none", "latest", "all"] = "latest"
    overlap: Literal["skip", "queue", "cancel"] = "skip"
    window: Window | None = None
    source: SourceDefinition
    job: ScheduledJob
    on_new_revision: Literal["keep", "relabel"] = "keep"
    reuse: bool = True
    sinks: Annotated[tuple[SinkDefinition, ...], Field(max_length=20)] = ()
    review: Review | None = None
    report: ReportDefinition | None = None
    enabled: bool = True

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        cron.zone_of(name)
        return name

    @property
    def places(self) -> list[tuple[str, str, str]]:
        """(JSON pointer, kind, name) of every place that is named here."""
        kinds = {"folder": "folders", "sql": "databases", "table": "databases", "files": "folders", "file": "folders"}
        found = []
        if not isinstance(self.source, CorpusSource):
            found.append(("/source/place", kinds[self.source.type], self.source.place))
        found += [(f"/sinks/{at}/place", kinds[sink.type], sink.place) for at, sink in enumerate(self.sinks)]
        if self.review is not None:
            target = self.review.to
            found.append(("/review/to/place", kinds.get(target.type, target.type), target.place))
        if self.report is not None and self.report.to is not None:
            found.append(("/report/to/place", "folders", self.report.to.place))
        return found


def parse_definition(raw: dict[str, Any]) -> ScheduleDefinition:
    """A definition with its defaults.

    Raises InvalidRequest with one fault for each wrong field; an unknown one names the nearest known.
    """
    try:
        definition = ScheduleDefinition.model_validate(raw)
    except ValidationError as error:
        raise InvalidRequest("The schedule cannot be used.", *faults_of(error, ScheduleDefinition)) from error
    check_params(definition)
    check_paths(definition)
    return definition


def check_paths(definition: ScheduleDefinition) -> None:
    """Raises InvalidRequest, one fault for each path that leads out of its folder, and for each file that a later run would
    write over: labels go into a file once, and the ledger then has them as delivered.

    No part of the definition's own validation: what another version has stored can still be read.
    """
    _check_inside(definition)
    files = [(f"/sinks/{at}/path", sink) for at, sink in enumerate(definition.sinks) if isinstance(sink, FilesSink)]
    paths = [(pointer, sink.path) for pointer, sink in files]
    if definition.review is not None and isinstance(definition.review.to, ReviewFile):
        paths.append(("/review/to/path", definition.review.to.path))
    faults = [
        FieldFault(
            pointer, f"Put {{run}} into the path, such as `{_with_run(path)}`: each run writes a file of its own."
        )
        for pointer, path in paths
        if "{run}" not in path
    ]
    if faults:
        raise InvalidRequest("A run would write over the file of another.", *faults)


def leads_out(path: str) -> bool:
    """Whether a path or pattern, with / between names, means more than what lies below the folder where it begins."""
    return path.startswith("/") or ".." in path.split("/") or "\\" in path or "\0" in path


def _check_inside(definition: ScheduleDefinition) -> None:
    paths = {f"/sinks/{at}/path": sink.path for at, sink in enumerate(definition.sinks) if isinstance(sink, FilesSink)}
    if isinstance(definition.source, FolderSource):
        paths["/source/pattern"] = definition.source.pattern
    if definition.review is not None and isinstance(definition.review.to, ReviewFile):
        paths["/review/to/path"] = definition.review.to.path
    if definition.report is not None and definition.report.to is not None:
        paths["/report/to/path"] = definition.report.to.path
    faults = [
        FieldFault(pointer, "It leads out of the folder: it begins below it, with / between names.")
        for pointer, path in paths.items()
        if leads_out(path)
    ]
    if faults:
        raise InvalidRequest("A path leads out of the folder that the operator has configured.", *faults)


def _with_run(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    stem, dot, suffix = name.partition(".")
    return f"{folder}{slash}{stem}-{{run}}{dot}{suffix}"


def check_params(definition: ScheduleDefinition) -> Params:
    """The parameters of its job with the defaults of the task. Raises InvalidRequest, which points below `/job`."""
    try:
        return definition.job.parsed
    except InvalidRequest as error:
        moved = [FieldFault("/job" + fault.pointer, fault.message) for fault in error.faults]
        raise InvalidRequest(str(error), *moved) from error
