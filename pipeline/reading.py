"""The first stage: the source is read, held against the ledger, and what is new becomes a corpus.

Knows which documents a run takes. Must not know any source but by its shape, nor what is done with the corpus.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from corpusmill.schedules import ScheduleDefinition
from corpusmill.texts import text_hash
from db import corpora, ledger, runs
from db import schedules as schedule_rows
from db.corpora import upload_path
from db.engine import Connection, reading
from db.ledger import Wanted
from pipeline.places import load_places
from pipeline.sources import OpenSource, Source, SourceDocument
from pipeline.work import Step, Work, model_of, scope_of

_BATCH = 1_000
#: Names under which a corpus of ours keeps the parts of a document: no column of anybody's is called so.
FIELDS = {
    "text_field": "corpusmill text",
    "text_pair_field": "corpusmill text pair",
    "id_field": "corpusmill id",
    "reference_field": "corpusmill reference",
}


@dataclass(slots=True)
class _Seen:
    """Which documents of the ledger a scan has met: one bit for each, by its number."""

    bits: bytearray = field(default_factory=bytearray)
    count: int = 0

    def add(self, number: int) -> bool:
        """Whether it was not seen before."""
        at, bit = number >> 3, 1 << (number & 7)
        if at >= len(self.bits):
            self.bits.extend(bytes(at + 1 - len(self.bits) + len(self.bits) // 8))
        if self.bits[at] & bit:
            return False
        self.bits[at] |= bit
        self.count += 1
        return True

    def __contains__(self, number: int) -> bool:
        at = number >> 3
        return at < len(self.bits) and bool(self.bits[at] & 1 << (number & 7))


@dataclass(slots=True, kw_only=True)
class _Scan:
    """One reading of a source against the ledger."""

    work: Work
    scope: bytes
    relabel: bool
    number: int
    seen: _Seen = field(default_factory=_Seen)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("read", "new", "changed", "relabelled", "unchanged", "repeated", "unusable", "gone"), 0
        )
    )

    def take(self, documents: list[SourceDocument]) -> list[SourceDocument]:
        """Those of a batch that are new, noted as this run's."""
        run = self.work.run
        usable = [document for document in documents if _can_be_kept(document.id)]
        self.counts["read"] += len(documents)
        self.counts["unusable"] += len(documents) - len(usable)
        with reading(self.work.database) as connection:
            known = ledger.known(connection, run.schedule_key, {document.id for document in usable})
        taken: list[SourceDocument] = []
        wanted: dict[str, Wanted] = {}
        for document in usable:
            there = known.get(document.id)
            number = there.number if there else self.number
            if document.id in wanted or (there and not self.seen.add(number)):
                self.counts["repeated"] += 1
                continue
            if there is None:
                self.seen.add(number)
                self.number += 1
            own = text_hash(document.text, document.text_pair)
            what = self._what(there, own)
            self.counts[what] += 1
            if what != "unchanged":
                wanted[document.id] = Wanted(document_id=document.id, number=number, text_hash=own)
                taken.append(document)
        rows = list(wanted.values())
        if rows:
            self.work.write(lambda connection: ledger.want(connection, run.schedule_key, run.key, rows))
        return taken

    def _what(self, there: ledger.Known | None, own: bytes) -> str:
        if there is None or there.text_hash is None:
            return "new"
        if there.text_hash != own:
            return "changed"
        return "relabelled" if self.relabel and there.scope_hash != self.scope else "unchanged"

    def look_for_gone(self) -> None:
        """Note the documents that the ledger has and the source has not."""
        run, database = self.work.run, self.work.database
        with reading(database) as connection:
            if ledger.count(connection, run.schedule_key) == self.seen.count:
                return
        start = 0
        while True:
            self.work.go_on()
            with reading(database) as connection:
                numbers = ledger.numbers(connection, run.schedule_key, start)
            if not numbers:
                return
            start = numbers[-1] + 1
            gone = [number for number in numbers if number not in self.seen]
            if gone:
                self.counts["gone"] += len(gone)
                self.work.write(
                    lambda connection, gone=gone: ledger.mark_gone(connection, run.schedule_key, run.key, gone)  # type: ignore[misc]
                )


def read(work: Work, open_source: OpenSource) -> Step:
    """Read the source once. A reading that is cut off begins again: what it noted in the ledger is let go first."""
    begun = time.monotonic()
    run, definition = work.run, work.run.definition
    model, params = model_of(work.catalog, definition.job)
    scope = scope_of(definition.job.task, model, params.model_dump(mode="json", exclude_none=False))
    source = open_source(definition.source, load_places(work.settings), settings=work.settings, database=work.database)
    work.write(lambda connection: ledger.let_go(connection, run.schedule_key, run.key))
    with reading(work.database) as connection:
        schedule = schedule_rows.get(connection, run.schedule_id)
        number = ledger.next_number(connection, run.schedule_key)
    scan = _Scan(work=work, scope=scope, relabel=definition.on_new_revision == "relabel", number=number)
    corpus_id = "corpus_" + run.id.removeprefix("run_")
    path = upload_path(work.settings.data_dir, corpus_id)
    since = None if _from_the_start(definition, schedule.position, scope) else schedule.position
    upload = _write(path, _taken(scan, source, since), run.attempt)
    if source.complete:
        scan.look_for_gone()
    scan.counts["unusable"] += source.unusable
    values = {
        "position": {"source": dict(source.position()), "scope": scope.hex()},
        "corpus_id": corpus_id if upload.documents else None,
        "counts": work.counted(
            documents=scan.counts, seconds={"read": round(time.monotonic() - begun, 3)},
            model={"id": model.id, "revision": model.revision},
        ),
    }  # fmt: skip
    if not upload.documents:
        path.unlink()
        return Step(stage="deliver", values=values)

    def keep(connection: Connection) -> None:
        corpora.create(
            connection, id=corpus_id, name=definition.name, format="jsonl", encoding=None, bytes=upload.bytes,
            sha256=upload.sha256, options=FIELDS if upload.pairs else FIELDS | {"text_pair_field": None}, inline=True,
        )  # fmt: skip
        runs.advance(connection, work.held, **values)

    work.write(keep)
    return Step(stage="label", values=values)


def _from_the_start(definition: ScheduleDefinition, position: Mapping[str, Any] | None, scope: bytes) -> bool:
    """Whether everything is to be read: the first time, to mirror, and to label again with what has changed."""
    if position is None or definition.source.sync == "mirror":
        return True
    return definition.on_new_revision == "relabel" and position.get("scope") != scope.hex()


def _taken(scan: _Scan, source: Source, since: Mapping[str, Any] | None) -> Iterator[SourceDocument]:
    documents = iter(source.read(None if since is None else since.get("source")))
    while batch := list(islice(documents, _BATCH)):
        scan.work.go_on()
        yield from scan.take(batch)
    scan.work.hold()  # before the upload appears: it may be another's by now


@dataclass(slots=True)
class _Upload:
    """A file of JSON lines; `pairs`: its first document has a second text, and so should all."""

    documents: int = 0
    bytes: int = 0
    sha256: str = ""
    pairs: bool = False


def _write(path: Path, documents: Iterable[SourceDocument], attempt: int) -> _Upload:
    """An upload of the documents, whole on disk or not there; each attempt at a run writes it under a name of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}-{attempt}.part")
    digest, upload = hashlib.sha256(), _Upload()
    with part.open("wb") as file:
        for document in documents:
            line = _line(document)
            digest.update(line)
            upload.bytes += file.write(line)
            upload.pairs = upload.pairs if upload.documents else document.text_pair is not None
            upload.documents += 1
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    upload.sha256 = digest.hexdigest()
    return upload


def _line(document: SourceDocument) -> bytes:
    kept = dict(document.fields)
    kept[FIELDS["id_field"]] = document.id
    kept[FIELDS["text_field"]] = document.text
    if document.text_pair is not None:
        kept[FIELDS["text_pair_field"]] = document.text_pair
    if document.reference is not None:
        kept[FIELDS["reference_field"]] = document.reference
    return json.dumps(kept, ensure_ascii=True).encode() + b"\n"


def _can_be_kept(document_id: str) -> bool:
    """Whether both databases can hold it: no NUL, and no half of a surrogate pair."""
    try:
        document_id.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in document_id
