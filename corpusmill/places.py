"""Places: the operator's databases, folders and labelling tools, by the names that schedules may say.

Knows the file's tables and their fields, and how a secret is named. Must not read a file, nor ask any place: `pipeline`
does. A schedule comes over HTTP and says names only, so that nobody who may make one can reach what was not configured.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo

from corpusmill.errors import FieldFault, InvalidRequest, InvalidSettings
from corpusmill.schedules import PlaceName, ScheduleDefinition, check_paths
from corpusmill.validation import Strict, faults_of


def _from_environment(value: Any, info: ValidationInfo) -> Any:
    """A text as it stands, or what the environment holds where it is `{env = "VARIABLE"}`."""
    if not isinstance(value, dict):
        return value
    name = value.get("env")
    if set(value) != {"env"} or not isinstance(name, str):
        raise ValueError('give a text, or {env = "VARIABLE"}')
    environ: Mapping[str, str] = info.context or {}
    if name not in environ:
        raise ValueError(f"the environment has no variable {name}")
    return environ[name]


_Place = TypeVar("_Place")
_Secret = Annotated[SecretStr, BeforeValidator(_from_environment)]


class DatabasePlace(Strict):
    """A database by its SQLAlchemy URL, which may hold a password."""

    url: _Secret


class FolderPlace(Strict):
    """A folder; nothing outside it is read or written."""

    path: Path


class LabelStudioPlace(Strict):
    """A Label Studio, and a token of a user of it. `sdk_python` is a Python that has `label-studio-sdk`, whose validator
    then judges what is pushed; it pins versions that keep it out of our own environment."""

    url: str
    token: _Secret
    sdk_python: Path | None = None


class ArgillaPlace(Strict):
    """An Argilla, and an API key of it."""

    url: str
    api_key: _Secret


class Places(Strict):
    """Every configured place, by kind and name."""

    databases: dict[PlaceName, DatabasePlace] = Field({})
    folders: dict[PlaceName, FolderPlace] = Field({})
    label_studio: dict[PlaceName, LabelStudioPlace] = Field({})
    argilla: dict[PlaceName, ArgillaPlace] = Field({})

    def database(self, name: str) -> DatabasePlace:
        """Raises InvalidRequest where there is none of that name; so do the other three."""
        return _one("databases", self.databases, name)

    def folder(self, name: str) -> FolderPlace:
        return _one("folders", self.folders, name)

    def label_studio_of(self, name: str) -> LabelStudioPlace:
        return _one("label_studio", self.label_studio, name)

    def argilla_of(self, name: str) -> ArgillaPlace:
        return _one("argilla", self.argilla, name)


def _one(kind: str, known: Mapping[str, _Place], name: str) -> _Place:
    if name not in known:
        raise InvalidRequest(_unknown(kind, known, name))
    return known[name]


def parse_places(text: str, environ: Mapping[str, str]) -> Places:
    """The places that a TOML file names, with secrets from the environment. Raises InvalidSettings naming what is wrong."""
    try:
        return Places.model_validate(tomllib.loads(text), context=environ)
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(f"The places file is not TOML: {error}.") from error
    except ValidationError as error:
        faults = "; ".join(f"{fault.pointer}: {fault.message}" for fault in faults_of(error, Places))
        raise InvalidSettings(f"The places file: {faults}") from error


def require_places(definition: ScheduleDefinition, places: Places) -> None:
    """Raises InvalidRequest, one fault for each place that a schedule names and that is not configured, and for each path
    there at which a run would write over the file of another."""
    check_paths(definition)
    faults = []
    for pointer, kind, name in definition.places:
        known: Mapping[str, Any] = getattr(places, kind)
        if name not in known:
            faults.append(FieldFault(pointer, _unknown(kind, known, name)))
    if faults:
        raise InvalidRequest("The schedule names a place that the operator has not configured.", *faults)


def _unknown(kind: str, known: Mapping[str, Any], name: str) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    also = f" Did you mean {near[0]}?" if near else ""
    return f"There is no [{kind}.{name}] in the file that CORPUSMILL_PLACES_FILE names.{also}"
