"""Models that take nothing unknown, what pydantic refuses as faults of the fields, and definitions that others have stored.

Knows how errors name a place in nested models. Must not know any one model.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from corpusmill.errors import FieldFault, NewerVersion

M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """What takes no field that it does not know, and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_stored(model: type[M], stored: Mapping[str, Any]) -> M:
    """What this or another version has stored of a model, with every field written out.

    A field that this version does not know is passed over where it is null: a later version has it, and it is not used.
    Raises NewerVersion where anything else cannot be read: to pass that over would be to do something else than was asked.
    """
    try:
        return model.model_validate(stored)
    except ValidationError as error:
        unknown = [
            _walk(model, item["loc"])[0]
            for item in error.errors(include_url=False, include_context=False)
            if item["type"] == "extra_forbidden" and item["input"] is None
        ]
        if not unknown:
            raise _newer(error, model) from error
    known = stored
    for path in unknown:
        known = _without(known, path)
    try:
        return model.model_validate(known)
    except ValidationError as error:
        raise _newer(error, model) from error


def _newer(error: ValidationError, model: type[BaseModel]) -> NewerVersion:
    places = ", ".join(fault.pointer for fault in faults_of(error, model))
    return NewerVersion(f"A newer version of Corpusmill stored what this one does not know: {places}.")


def _without(value: Any, path: list[str]) -> Any:
    """A copy of nested mappings and lists without the field at the end of a path."""
    head, rest = path[0], path[1:]
    if isinstance(value, Mapping):
        if not rest:
            return {name: kept for name, kept in value.items() if name != head}
        return {**value, head: _without(value[head], rest)}
    return [_without(kept, rest) if str(index) == head else kept for index, kept in enumerate(value)]


def faults_of(error: ValidationError, model: type[BaseModel], at: str = "") -> list[FieldFault]:
    """One fault for each field that pydantic refused; an unknown field names the nearest known one."""
    faults = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        path, known = _walk(model, item["loc"])
        pointer = at + "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "Unknown field." + _nearest(path[-1], known)
        faults.append(FieldFault(pointer or "/", message))
    return faults


def _walk(model: type[BaseModel], path: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """The path as a JSON pointer has it, and the fields known where it ends. Of several models that may stand at one
    place pydantic puts the one's `type` into the path: there is no such field in the request."""
    annotation: Any = model
    pointer: list[str] = []
    known: list[str] = []
    for part in path:
        items = _items(annotation)
        if items is not None:
            annotation, known = items, []
            pointer.append(str(part))
            continue
        models = _models_in(annotation)
        if len(models) > 1 and (chosen := [one for one in models if part in _types(one)]):
            annotation = chosen[0]
            continue
        fields = models[0].model_fields if len(models) == 1 else {}
        pointer.append(str(part))
        known = list(fields)
        annotation = fields[str(part)].annotation if part in fields else None
    return pointer, known


def _items(annotation: Any) -> Any:
    """What a list or mapping holds; None where it is neither."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    kind = get_origin(annotation)
    if kind in (tuple, list):
        return get_args(annotation)[0]
    return get_args(annotation)[1] if kind is dict else None


def _types(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["type"].annotation) if "type" in model.model_fields else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models of which one may stand at a place."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f" Did you mean {close[0]}?" if close else ""
