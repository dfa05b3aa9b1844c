"""What a stored corpus is, in figures: the one JSON file of its directory.

Knows names and numbers. Must not know how documents are stored.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from corpora.formats import Encoding, Format
from corpora.options import Limits, Options

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSummary:
    """What became of an upload.

    `documents` and `invalid` count documents and ingest errors, of which the first `errors_kept` can be read again.
    `text_bytes` is the UTF-8 size of all texts and text pairs. `references` and `text_pairs` count the documents that
    have one. `fields` names the documents' other fields in the order of first sight; `more_fields` says that there
    were more names than are kept. `bytes` is the size of the upload as received; it, `format` and `encoding` are None,
    and `options` the defaults, for documents that came in no file.
    """

    documents: int
    invalid: int
    errors_kept: int
    text_bytes: int
    references: int
    text_pairs: int
    fields: tuple[str, ...]
    more_fields: bool
    bytes: int | None = None
    format: Format | None = None
    encoding: Encoding | None = None
    options: Options = field(default_factory=Options)


def write_summary(summary: IngestSummary, path: Path) -> None:
    """Write a summary as JSON."""
    path.write_text(json.dumps({"version": VERSION, **asdict(summary)}, indent=1), encoding="utf-8")


def read_summary(path: Path) -> IngestSummary:
    """The summary in a file. Raises OSError where there is none; ValueError, KeyError, TypeError or AttributeError where it
    is damaged."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if values.pop("version") != VERSION:
        raise ValueError(f"{path.name} is of another version than {VERSION}")
    options = values.pop("options")
    values["options"] = Options(**options | {"limits": Limits(**options["limits"])})
    values["fields"] = tuple(values["fields"])
    values["format"] = Format(values["format"]) if values["format"] else None
    values["encoding"] = Encoding(values["encoding"]) if values["encoding"] else None
    summary = IngestSummary(**values)
    if not all(type(count) is int and count >= 0 for count in (summary.documents, summary.errors_kept)):
        raise ValueError(f"{path.name} counts what cannot be counted")
    return summary
