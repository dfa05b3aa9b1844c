"""What an export says of a document and its result, under which names, whatever the format.

Knows names and values. Must not know how bytes are laid out.

Our own names never change: a program may rely on `status` or `label` whatever the corpus holds. A document's other
field whose name is one of ours comes back as `input_<name>` (with as many `_` after `input` as it takes to be unique).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from corpusmill.documents import Document
from corpusmill.tasks import Task

Kind = Literal["text", "integer", "float", "boolean"]
#: Of an output's keys, one column each, by task.
OUTPUTS: dict[Task, dict[str, Kind]] = {
    Task.CLASSIFICATION: {"label": "text", "score": "float", "scores": "text", "labels": "text"},
    Task.SUMMARIZATION: {"summary": "text"},
    Task.TRANSLATION: {"translation": "text"},
}
_INPUTS: dict[str, Kind] = {
    "id": "text",
    "position": "integer",
    "text": "text",
    "text_pair": "text",
    "reference": "text",
}
_FIGURES: dict[str, Kind] = {"n_tokens": "integer", "n_segments": "integer", "truncated": "boolean"}
_ERROR: dict[str, Kind] = {"error_code": "text", "error_message": "text"}
#: Where the names of a corpus's fields are too many to have a column each, what is left is here, as a JSON object.
OTHER_FIELDS = "other_fields"
_JSON = json.JSONEncoder(ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its name, what its values are, and how to get one from a document and its result."""

    name: str
    kind: Kind
    value: Callable[[Document | None, Mapping[str, Any]], Any]
    ours: bool = True


def json_record(document: Document | None, result: Mapping[str, Any]) -> dict[str, Any]:
    """A line of a JSON lines export: id, position, what came in, and what came out, each value as it is.

    `text_pair` and `reference` are there where the document has them.
    """
    inputs: dict[str, Any] = {}
    if document is not None:
        inputs["text"] = document.text
        if document.text_pair is not None:
            inputs["text_pair"] = document.text_pair
        if document.reference is not None:
            inputs["reference"] = document.reference
        inputs |= dict(zip(renamed(list(document.fields), _RECORD), document.fields.values(), strict=True))
    return {
        "id": result["id"],
        "position": result["position"],
        **inputs,
        "status": result["status"],
        "output": result["output"],
        "error": result["error"],
        **{name: result[name] for name in _FIGURES},
    }


_RECORD = frozenset({*_INPUTS, "status", "output", "error", *_FIGURES})


def columns(task: Task, fields: Sequence[str], *, text_pair: bool, other_fields: bool) -> list[Column]:
    """The columns of a table, in order: id, position, what came in, status, what came out, error and figures.

    `text_pair` and `other_fields` say whether there is such a column. Fields, references and scores that are no text
    are JSON in it.
    """
    inputs = {name: kind for name, kind in _INPUTS.items() if name != "text_pair" or text_pair}
    ours = frozenset({*_INPUTS, OTHER_FIELDS, "status", *OUTPUTS[task], *_ERROR, *_FIGURES})
    table = [Column(name, kind, _INPUT_VALUES[name]) for name, kind in inputs.items()]
    names = zip(renamed(fields, ours), fields, strict=True)
    table += [Column(shown, "text", _field(name), ours=False) for shown, name in names]
    if other_fields:
        table.append(Column(OTHER_FIELDS, "text", _others(frozenset(fields)), ours=False))
    table.append(Column("status", "text", _of_result("status")))
    table += [Column(name, kind, _of_part("output", name, kind)) for name, kind in OUTPUTS[task].items()]
    table += [Column(name, kind, _of_part("error", name.removeprefix("error_"), kind)) for name, kind in _ERROR.items()]
    table += [Column(name, kind, _of_result(name)) for name, kind in _FIGURES.items()]
    return table


def renamed(names: Sequence[str], ours: frozenset[str]) -> list[str]:
    """Names under which fields come back: their own, or `input_…` where that is one of ours."""
    taken = ours | set(names)
    shown = []
    for name in names:
        other = name
        if name in ours:
            prefix = "input_"
            while (other := prefix + name) in taken:
                prefix += "_"
            taken |= {other}
        shown.append(other)
    return shown


def as_text(value: Any) -> str | None:
    """A value as the text of a cell: itself where it is text, None for null, JSON otherwise."""
    return value if value is None or isinstance(value, str) else _JSON.encode(value)


_INPUT_VALUES: dict[str, Callable[[Document | None, Mapping[str, Any]], Any]] = {
    "id": lambda _, result: result["id"],
    "position": lambda _, result: result["position"],
    "text": lambda document, _: document.text if document else None,
    "text_pair": lambda document, _: document.text_pair if document else None,
    "reference": lambda document, _: as_text(document.reference) if document else None,
}


def _field(name: str) -> Callable[[Document | None, Mapping[str, Any]], Any]:
    return lambda document, _: document.fields.get(name) if document else None


def _others(known: frozenset[str]) -> Callable[[Document | None, Mapping[str, Any]], Any]:
    def value(document: Document | None, _: Mapping[str, Any]) -> Any:
        others = {name: item for name, item in document.fields.items() if name not in known} if document else {}
        return others or None

    return value


def _of_result(name: str) -> Callable[[Document | None, Mapping[str, Any]], Any]:
    return lambda _, result: result[name]


def _of_part(part: str, name: str, kind: Kind) -> Callable[[Document | None, Mapping[str, Any]], Any]:
    def value(_: Document | None, result: Mapping[str, Any]) -> Any:
        held = (result[part] or {}).get(name)
        return as_text(held) if kind == "text" else held

    return value
