"""Every setting of the service, read once from the environment into one frozen object.

Knows the names `CORPUSMILL_…`, their defaults and their ranges; `docs/settings.md` holds the same table and a test keeps
the two together. Must not read the environment at import.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from corpusmill.errors import InvalidSettings

PREFIX = "CORPUSMILL_"
_MIB = 1 << 20
#: A hundred years, in seconds: what is later has no date that everybody can read.
LONGEST_TTL = 100 * 31_557_600


class Settings(BaseModel):
    """The settings in force. Times are in seconds and sizes in bytes unless a name says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Field(Path("var"), description="Corpora, the embedded database and the embedded broker live here.")
    database_url: str = Field(
        "", description="`sqlite:///…` or `postgresql://…`; empty: a SQLite file in the data directory."
    )
    broker_url: str = Field(
        "", description="`redis://`, `rediss://` or `redis+socket://`; empty: the embedded Valkey that `up` starts."
    )
    models_root: Path | None = Field(None, description="Directory whose models may be used by their relative path.")
    hub_models: str = Field(
        "*", description="Hub models that may be used: comma-separated ids, each with `*` as wildcard; empty: none."
    )
    host: str = Field("127.0.0.1", description="Address the API binds.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port the API binds; 0 picks a free one.")
    api_key: str = Field("", description="The operator's key; required on every bind beyond loopback.", repr=False)
    api_threads: Annotated[int, Field(ge=2, le=256)] = Field(16, description="Threads of the API's one process.")
    allowed_hosts: str = Field(
        "", description="Host names, comma-separated, that requests may name besides the bound one and loopback."
    )
    max_upload_bytes: Annotated[int, Field(ge=1)] = Field(
        16 << 30, description="Largest upload, counted as it is received and again as it is decompressed."
    )
    max_document_bytes: Annotated[int, Field(ge=1024)] = Field(
        16 * _MIB, description="Longest line, field or document; longer ones are ingest errors (`too_long`)."
    )
    max_expansion: Annotated[int, Field(ge=2)] = Field(
        200, description="Largest ratio of decompressed to received bytes, judged after the first 10 MiB."
    )
    parquet_seconds: Annotated[int, Field(ge=1)] = Field(
        3600, description="Most processor time that reading a Parquet file may take; a damaged one could take any."
    )
    shard_documents: Annotated[int, Field(ge=0, le=100_000)] = Field(
        0, description="Most documents in a shard; 0: the task's own figure."
    )
    shard_bytes: Annotated[int, Field(ge=0)] = Field(
        0, description="Most bytes of text in a shard; 0: the task's own figure."
    )
    lease_seconds: Annotated[float, Field(gt=0)] = Field(
        30.0, description="How long a worker holds a shard, or a sweeper the run of a schedule, without a heartbeat."
    )
    sweep_seconds: Annotated[float, Field(gt=0)] = Field(
        5.0, description="How often the sweeper looks for what was never queued or whose lease ran out."
    )
    shard_limit_seconds: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="Hard limit for one shard: the worker's process is ended beyond it."
    )
    doorbell_window: Annotated[int, Field(ge=1)] = Field(
        256, description="Most messages waiting in the broker at once, whatever the corpora."
    )
    job_ttl_seconds: Annotated[int, Field(ge=0, le=LONGEST_TTL)] = Field(
        0, description="How long a job is kept after its end where it does not say so itself; 0: until it is deleted."
    )
    corpus_ttl_seconds: Annotated[int, Field(ge=0, le=LONGEST_TTL)] = Field(
        0, description="How long a corpus is kept where it does not say so itself; 0: until it is deleted."
    )
    places_file: Path | None = Field(
        None, description="TOML file of the databases, folders and labelling tools that schedules may name."
    )
    reuse_days: Annotated[float, Field(ge=0, le=36_525)] = Field(
        90.0,
        description="Days for which an output that jobs with `reuse` keep stays after its last use; 0: until it is dropped.",
    )
    run_days: Annotated[float, Field(ge=0, le=36_525)] = Field(
        400.0,
        description="Days for which the run of a schedule is kept after its end, with its report; 0: until that is deleted.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device of the workers.")
    workers: Annotated[int, Field(ge=0)] = Field(0, description="Workers that `up` starts; 0: one per device.")
    threads: Annotated[int, Field(ge=0)] = Field(
        0, description="CPU threads of one worker; 0: the cores divided by the workers."
    )
    batch_tokens: Annotated[int, Field(ge=0)] = Field(0, description="Token budget of a batch; 0: by device.")
    model_cache_bytes: Annotated[int, Field(ge=0)] = Field(
        0, description="Weights a worker keeps loaded before the least recently used is dropped; 0: half the memory."
    )
    pulse_file: Path | None = Field(
        None, description="File that a worker or sweeper of its own touches while it is well, for health checks."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`json` lines, `console` for people; `auto`: console on a terminal."
    )

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if url and not re.match(r"sqlite:///|postgres(ql)?(\+psycopg)?://", url):
            raise ValueError("not a database that can be used; give `sqlite:///PATH` or `postgresql://USER@HOST/NAME`.")
        return url

    @property
    def database(self) -> str:
        """The database URL in force, in SQLAlchemy's form."""
        if not self.database_url:
            return f"sqlite:///{self.data_dir.absolute() / 'corpusmill.sqlite3'}"
        for prefix in ("postgresql://", "postgres://"):
            if self.database_url.startswith(prefix):
                return "postgresql+psycopg://" + self.database_url.removeprefix(prefix)
        return self.database_url

    @property
    def reuse_noted_seconds(self) -> float:
        """How old the note of an output's last use may get before a use is noted again: a tenth of its time."""
        return (self.reuse_days or 90.0) * 8_640

    @property
    def loopback(self) -> bool:
        """Whether the API is reachable from this machine alone."""
        return self.host in {"localhost", "::1"} or self.host.startswith("127.")


def settings_from(environ: Mapping[str, str], **overrides: object) -> Settings:
    """The settings that an environment gives; `overrides` that are not None win.

    Raises InvalidSettings naming each wrong variable, and each `CORPUSMILL_…` variable that is no setting.
    """
    values: dict[str, object] = {}
    for name, value in environ.items():
        if name.startswith(PREFIX) and name not in CLIENT_VARIABLES:
            values[name.removeprefix(PREFIX).lower()] = value
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        faults = []
        for item in error.errors(include_url=False, include_context=False, include_input=False):
            variable = PREFIX + "_".join(str(part) for part in item["loc"]).upper()
            unknown = item["type"] == "extra_forbidden"
            faults.append(f"{variable}: {_unknown(variable) if unknown else item['msg'].removeprefix('Value error, ')}")
        raise InvalidSettings("; ".join(faults)) from error


def _unknown(variable: str) -> str:
    near = difflib.get_close_matches(variable.removeprefix(PREFIX).lower(), Settings.model_fields, n=1, cutoff=0.5)
    return "no such setting" + (f"; did you mean {PREFIX}{near[0].upper()}?" if near else "")


def refuse_open(settings: Settings) -> None:
    """Raises InvalidSettings where the API would be open to a network without a key."""
    if not settings.loopback and not settings.api_key:
        raise InvalidSettings(
            f"CORPUSMILL_API_KEY must be set to bind {settings.host}: anybody on the network could use this service. "
            "Set it to a long random text, or bind 127.0.0.1."
        )


def environ_of(settings: Settings) -> dict[str, str]:
    """The environment that gives these settings again, for the programs that a program starts."""
    values = settings.model_dump(mode="json", exclude_none=True)
    return {PREFIX + name.upper(): str(value) for name, value in values.items()}


#: Read by the client and the command line, not by the service.
CLIENT_VARIABLES = frozenset({"CORPUSMILL_URL"})
