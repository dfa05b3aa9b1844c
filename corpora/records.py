"""From a record (a JSON object, a row with its column names) to a document, or to the reason why it is none.

Knows the parts that fields play. Must not know formats or files.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from corpora.options import Options
from corpora.values import Refused, clean, id_of, kind_of, reference_of
from corpusmill.documents import Document, IngestError, IngestErrorCode
from corpusmill.errors import FieldFault, InvalidRequest

MAX_COLUMNS = 10_000
_MISSING = object()
_NAMES_SHOWN = 20
_NAME_SHOWN = 60


def document_of(record: dict[str, Any], position: int, line: int, options: Options) -> Document | IngestError:
    """The document that a clean record holds at `position`, or why it holds none. The record is used up."""
    text = record.pop(options.text_field, _MISSING)
    if type(text) is not str:
        return _text_fault(text, options.text_field, "text_field", record, line)
    pair = None
    if options.text_pair_field is not None:
        pair = record.pop(options.text_pair_field, _MISSING)
        if type(pair) is not str:
            return _text_fault(pair, options.text_pair_field, "text_pair_field", record, line)
    column = options.id_field
    try:
        identifier = id_of(record.pop(column, None), position)
        column = options.reference_field
        reference = reference_of(record.pop(column, None))
        column = ""
        for name, value in record.items():
            if type(value) is dict or type(value) is list:
                column = name
                record[name] = clean(value, 1)
    except Refused as refused:
        return fault(line, refused.code, str(refused), column)
    return Document(position=position, id=identifier, text=text, text_pair=pair, reference=reference, fields=record)


def documents_of(records: Iterable[object], options: Options) -> Iterator[Document | IngestError]:
    """The documents of records that were parsed elsewhere (the body of a request); `line` counts them from 1."""
    position = 0
    for line, record in enumerate(records, 1):
        if not isinstance(record, dict):
            yield fault(line, "wrong_type", f"A document is an object, not {kind_of(record)}.")
            continue
        try:
            item = document_of(clean(record), position, line, options)
        except Refused as refused:
            item = fault(line, refused.code, str(refused), refused.column)
        if isinstance(item, Document):
            position += 1
        yield item


def fault(line: int, code: IngestErrorCode, message: str, column: str | None = None) -> IngestError:
    """An ingest error whose column's name is cut to a length fit to be shown."""
    return IngestError(line=line, code=code, message=message, column=shown(column) if column else None)


def _text_fault(value: object, name: str, option: str, others: dict[str, Any], line: int) -> IngestError:
    if value is not _MISSING:
        message = f"The field {shown(name)!r} must be text, not {kind_of(value)}."
        return fault(line, "wrong_type", message, name)
    message = f"The field {shown(name)!r} is missing. {_there_are(list(others))}"
    return fault(line, "missing_field", f"{message} Say with {option} which field holds it.", name)


def check_columns(names: Sequence[str], options: Options) -> None:
    """Refuse a table whose columns are not usable as they are named.

    Raises InvalidRequest for names that are missing or given twice, and for a column that plays a part and is not
    there: the text, the text pair, and the id or the reference where the caller named one that is not the default.
    """
    if len(names) > MAX_COLUMNS:
        raise InvalidRequest(f"The table has {len(names)} columns; at most {MAX_COLUMNS} can be read.")
    nameless = [str(number) for number, name in enumerate(names, 1) if not name.strip()]
    if nameless:
        raise InvalidRequest(
            f"Column {_listed(nameless)} has no name. Give every column one in the first line "
            "(pandas writes its index as a nameless column unless told index=False)."
        )
    twice = [shown(name) for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InvalidRequest(f"More than one column is named {_listed(twice)}. Give every column its own name.")
    defaults = Options()
    wanted = [("text_field", options.text_field), ("text_pair_field", options.text_pair_field)]
    if options.id_field != defaults.id_field:
        wanted.append(("id_field", options.id_field))
    if options.reference_field != defaults.reference_field:
        wanted.append(("reference_field", options.reference_field))
    absent = [(option, name) for option, name in wanted if name is not None and name not in names]
    if absent:
        sentences = [
            f"There is no column {shown(name)!r}; say with {option}= which to take." for option, name in absent
        ]
        faults = [FieldFault(option, _nearest(name, names)) for option, name in absent]
        raise InvalidRequest(f"{' '.join(sentences)} {_there_are(names)}{_nearest(absent[0][1], names)}", *faults)


def shown(name: str) -> str:
    """A name cut to a length fit to be shown."""
    return name if len(name) <= _NAME_SHOWN else name[:_NAME_SHOWN] + "…"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(shown(name) for name in names[:_NAMES_SHOWN]) + more


def _there_are(names: Sequence[str]) -> str:
    return f"There are: {_listed(names)}." if names else "There are no others."


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(shown(name), [shown(other) for other in names[:1000]], n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
