"""Options that several commands share, and what their texts mean.

Knows the client's constructor and `name=value`. Must not know commands.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from corpusmill_client import Client

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="CORPUSMILL_URL", help="Address of the server.", show_default="http://127.0.0.1:8000"),
]
TaskName = Literal["classification", "summarization", "translation"]
StatusName = Literal[
    "queued", "running", "paused", "cancelling", "completed", "completed_with_errors", "failed", "cancelled"
]


def _job_id(value: str) -> str:
    """Refuses what a path typed by mistake would be: a server cannot say more of it than that nothing is there."""
    if not re.fullmatch(r"[\w-]+", value):
        raise typer.BadParameter(f"{value!r} is no job's id; `corpusmill jobs` lists them.")
    return value


JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False, callback=_job_id)]
Limit = Annotated[int, typer.Option(min=1, help="Most to show.")]
Data = Annotated[Path | None, typer.Option("--data", help="Data directory, if not CORPUSMILL_DATA_DIR.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]


def connect(url: str | None) -> Client:
    """A client for the address. Raises typer.BadParameter where it is none."""
    from corpusmill_client import Client

    try:
        return Client(url)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None


def params_of(given: list[str]) -> dict[str, Any]:
    """Parameters from `name=value`: a value is JSON where it can be read so and a text otherwise; dots make objects.

    Raises typer.BadParameter, naming the one that is wrong.
    """
    params: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        parts = name.split(".")
        if not equals or not all(parts):
            raise typer.BadParameter(f"{each!r} is not NAME=VALUE.", param_hint="--param")
        place = params
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise typer.BadParameter(
                    f"{name!r} is inside a parameter that has a value already.", param_hint="--param"
                )
        if parts[-1] in place:
            raise typer.BadParameter(f"{name!r} is given twice.", param_hint="--param")
        place[parts[-1]] = value_of(value)
    return params


def value_of(text: str) -> Any:
    """`4` is a number, `true` a truth value, `"4"` a text; so is what is no JSON, and NaN and Infinity are none."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except ValueError:
        return text


def _no_number(name: str) -> Any:
    raise ValueError(name)
