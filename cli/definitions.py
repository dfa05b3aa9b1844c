"""Schedules as files: TOML in, the difference to what is there out.

Knows the one or many definitions of a file, and how a definition is written down for people. Must not know servers.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from corpusmill.errors import InvalidRequest
from corpusmill.schedules import parse_definition

#: The table of a file that holds several.
_MANY = "schedule"


def definitions_of(file: Path) -> list[dict[str, Any]]:
    """The definitions of a file, with their defaults: one at its top, or several as `[[schedule]]`.

    Raises typer.BadParameter naming each field that is wrong.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} is not TOML: {error}", param_hint="FILE") from None
    found = content.pop(_MANY) if isinstance(content.get(_MANY), list) else [content]
    if content and found != [content]:
        raise typer.BadParameter(
            f"{file} has [[{_MANY}]] and, beside it, {', '.join(content)}: these belong into one.", param_hint="FILE"
        )
    definitions = [_one(file, each) for each in found]
    names = [definition["name"] for definition in definitions]
    if twice := {name for name in names if names.count(name) > 1}:
        raise typer.BadParameter(f"{file} has {', '.join(sorted(twice))} twice.", param_hint="FILE")
    return definitions


def _one(file: Path, raw: Any) -> dict[str, Any]:
    name = raw.get("name", "?") if isinstance(raw, dict) else "?"
    try:
        return parse_definition(raw).model_dump(mode="json")
    except InvalidRequest as error:
        faults = "; ".join(f"{fault.pointer}: {fault.message}" for fault in error.faults)
        raise typer.BadParameter(f"{file}, {name}: {error} {faults}", param_hint="FILE") from None


def difference(there: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> list[str]:
    """The lines of a unified diff from what is there to what is wanted; none where they are the same."""
    before = lines_of(there) if there is not None else []
    name = str(wanted["name"])
    return list(difflib.unified_diff(before, lines_of(wanted), f"server: {name}", f"file: {name}", lineterm="", n=2))


def lines_of(definition: Mapping[str, Any]) -> list[str]:
    """A definition as lines of TOML, a line for each value; what is not set is left out."""
    return list(_lines(definition, ""))


def _lines(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in values.items():
        key = f"{prefix}{_key(name)}"
        if isinstance(value, Mapping):
            yield from _lines(value, f"{key}.") if value else [f"{key} = {{}}"]
        elif value is not None:
            yield f"{key} = {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(name)} = {_value(each)}" for name, each in value.items() if each is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(each) for each in value)}]"
    # JSON's texts, numbers and truth values are TOML's
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    plain = name.replace("_", "").replace("-", "")
    return name if plain.isascii() and plain.isalnum() else json.dumps(name, ensure_ascii=False)
