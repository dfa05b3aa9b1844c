"""Lines that name documents and give their references, held against a corpus: which document each means, or why none.

Knows the lines' form and what is ambiguous. Must not know versions or jobs. Memory does not grow with lines or documents:
both meet in a scratch file (SQLite's, as a sorter that spills to the disk), which is removed at the end.

A line is `{"id": …, "reference": …}` or `{"position": …, "reference": …}`; a reference of null takes one away. Ids need not
be unique in a corpus: an id that several documents have names none of them, and is refused; so is a document that two lines
name. Either all lines are good or none counts.
"""

from __future__ import annotations

import difflib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from corpora.formats import Encoding
from corpora.jsonl import parsed, too_long
from corpora.lines import Overlong, lines
from corpora.options import Limits
from corpora.records import shown
from corpora.store import Store
from corpora.streams import Budget, Counted, Metered, Reads, decoded
from corpora.values import Refused, clean, id_of, kind_of, reference_of
from corpusmill.documents import IngestError, Reference
from corpusmill.errors import FieldFault, InvalidRequest, StorageFull

#: Faults that an answer names; there may be as many as lines.
MOST_FAULTS = 100
_BLOCK = 5_000
_FIELDS = ("id", "position", "reference")
#: A line as it is sorted: (line, id, position, reference as JSON).
_Row = tuple[int, str | None, int | None, str]


def resolve(
    body: Path, encoding: Encoding | None, store: Store, limits: Limits, *, scratch: Path,
    write: Callable[[Iterator[tuple[int, Reference | None]]], Any],
) -> Any:  # fmt: skip
    """Hand (position, reference or None), by position, to `write`, and return what it returns.

    `body` is the file of lines, `scratch` the path of a file that is made and removed. Raises InvalidRequest with a fault
    for each bad line (the first hundred), TooLarge, StorageFull.
    """
    scratch.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(scratch, isolation_level=None)) as sorter, body.open("rb") as file:
            for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-16384"):
                sorter.execute(f"PRAGMA {setting}")
            sorter.execute(
                "CREATE TABLE given (line INTEGER PRIMARY KEY, id TEXT, position INTEGER, reference TEXT NOT NULL, "
                "found INTEGER NOT NULL)"
            )
            received = Counted(file)
            source = Metered(decoded(received, encoding), Budget(limits, lambda: received.given))
            _take(sorter, source, limits, len(store))
            _find(sorter, store)
            _refuse(sorter)
            rows = sorter.execute("SELECT position, reference FROM given ORDER BY position")
            return write((position, json.loads(reference)) for position, reference in rows)
    except sqlite3.OperationalError as error:
        if "full" in str(error) or "disk I/O" in str(error):
            raise StorageFull("The disk of the data directory is full: nothing of the references was kept.") from error
        raise
    finally:
        scratch.unlink(missing_ok=True)


def _take(sorter: sqlite3.Connection, source: Reads, limits: Limits, documents: int) -> None:
    """Every line into the sorter. Raises InvalidRequest where some cannot be read."""
    faults: list[IngestError] = []
    good = _good(source, limits, documents, faults)
    sorter.execute("BEGIN")
    while block := list(islice(good, _BLOCK)):
        sorter.executemany("INSERT INTO given VALUES (?, ?, ?, ?, ?)", [(*row, row[2] is not None) for row in block])
    sorter.execute("COMMIT")
    if faults:
        raise _refused([(error.line, error.column, error.message) for error in faults])


def _good(source: Reads, limits: Limits, documents: int, faults: list[IngestError]) -> Iterator[_Row]:
    limit = limits.max_document_bytes
    for number, line in enumerate(lines(source, limit), 1):
        item: _Row | IngestError | None
        if isinstance(line, Overlong):
            item = too_long(number, limit)
        else:
            item = parsed(line, number, lambda record, number=number: _row(record, number, documents))  # type: ignore[misc]
        if isinstance(item, IngestError):
            faults.append(item)
            if len(faults) == MOST_FAULTS:
                return
        elif item is not None and not faults:
            yield item


def _row(record: dict[str, Any], number: int, documents: int) -> _Row:
    """What a line says. Raises Refused, with the field."""
    for name in record:
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            known = "a line has `id` or `position`, and `reference`"
            raise Refused("wrong_type", f"There is no field {shown(name)!r}: {known}.{hint}", name)
    if "reference" not in record:
        raise Refused("missing_field", "The field 'reference' is missing; null takes one away.", "reference")
    identifier, position = record.get("id"), record.get("position")
    if (identifier is None) == (position is None):
        raise Refused("missing_field", "Name the document by one of `id` and `position`.", "id")
    field = "reference"
    try:
        reference = reference_of(clean(record["reference"]))
        if identifier is not None:
            field = "id"
            return number, id_of(identifier, 0), None, json.dumps(reference, ensure_ascii=False)
    except Refused as refused:
        raise Refused(refused.code, str(refused), field) from refused
    if type(position) is not int:
        raise Refused("wrong_type", f"A position is a whole number, not {kind_of(position)}.", "position")
    if not 0 <= position < documents:
        message = f"The corpus has {documents} documents; there is none at position {position}."
        raise Refused("wrong_type", message, "position")
    return number, None, position, json.dumps(reference, ensure_ascii=False)


def _find(sorter: sqlite3.Connection, store: Store) -> None:
    """The position of every id: one reading of the corpus, and only where ids are given."""
    if sorter.execute("SELECT 1 FROM given WHERE id IS NOT NULL LIMIT 1").fetchone() is None:
        return
    sorter.execute("CREATE INDEX by_id ON given (id) WHERE id IS NOT NULL")
    documents = store.documents()
    sorter.execute("BEGIN")
    while block := [(document.position, document.id) for document in islice(documents, _BLOCK)]:
        sorter.executemany(
            "UPDATE given SET position = coalesce(position, ?), found = found + 1 WHERE id = ?", block
        )  # fmt: skip
    sorter.execute("COMMIT")


def _refuse(sorter: sqlite3.Connection) -> None:
    """Raises InvalidRequest for lines that name no document, several, or one that another line names too."""
    faults: list[tuple[int, str | None, str]] = []
    for line, identifier, found in sorter.execute(
        "SELECT line, id, found FROM given WHERE found <> 1 ORDER BY line LIMIT ?", (MOST_FAULTS,)
    ):
        name = shown(identifier)
        unknown = f"No document of the corpus has the id {name!r}."
        several = f"{found} documents of the corpus have the id {name!r}: name them by `position`."
        faults.append((line, "id", several if found else unknown))
    sorter.execute("CREATE INDEX by_position ON given (position, line)")
    for position, first, line in sorter.execute(
        "SELECT position, first, line FROM (SELECT position, line, lag(line) OVER (PARTITION BY position ORDER BY line) "
        "AS first FROM given WHERE found = 1) WHERE first IS NOT NULL ORDER BY line LIMIT ?",
        (MOST_FAULTS,),
    ):
        faults.append((line, None, f"Line {first} gives a reference for the document at position {position} too."))
    if faults:
        raise _refused(sorted(faults)[:MOST_FAULTS])


def _refused(faults: Iterable[tuple[int, str | None, str]]) -> InvalidRequest:
    made = [
        FieldFault(f"/{line}" + (f"/{field}" if field else ""), f"Line {line}: {text}") for line, field, text in faults
    ]
    return InvalidRequest(
        "The references cannot be used, and none was kept: " + " ".join(each.message for each in made[:3])
        + (f" ({len(made)} faults in all, or more.)" if len(made) > 3 else ""),
        *made, code="invalid_references",
    )  # fmt: skip


def merged(
    base: Iterable[tuple[int, Reference | None]], changes: Iterable[tuple[int, Reference | None]]
) -> Iterator[tuple[int, Reference]]:
    """References by position with changes, by position, put upon them; None takes one away."""
    left, right = iter(base), iter(changes)
    old, new = next(left, None), next(right, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old[0] < new[0]):
            assert old is not None
            chosen, old = old, next(left, None)
        else:
            if old is not None and old[0] == new[0]:
                old = next(left, None)
            chosen, new = new, next(right, None)
        if chosen[1] is not None:
            yield chosen[0], chosen[1]
