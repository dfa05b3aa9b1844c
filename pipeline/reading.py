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

from corpora.disk import synced
from corpora.values import MAX_ID
from corpusmill.documents import TOO_LONG_FIELD
from corpusmill.errors import PlaceFault
from corpusmill.schedules import CorpusSource, ScheduleDefinition
from corpusmill.texts import text_hash
from db import corpora, files, ledger, runs
from db import schedules as schedule_rows
from db.corpora import upload_path
from db.engine import Connection, reading
from db.ledger import Wanted
from pipeline.places import load_places
from pipeline.sources import OpenSource, Source, SourceDocument
from pipeline.work import Step, Work, model_of, scope_of

_BATCH = 1_000
#: From so many documents on, `most_gone` is held against what is gone; that all of them are is asked about always.
_BOUNDED_FROM = 20
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
    first: int
    number: int
    seen: _Seen = field(default_factory=_Seen)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("read", "new", "changed", "relabelled", "unchanged", "repeated", "unusable", "gone", "withheld"), 0
        )
    )

    def take(self, documents: list[SourceDocument]) -> list[SourceDocument]:
        """Those of a batch that are new, noted as this run's."""
        run = self.work.run
        usable = [document for document in documents if _can_be_kept(document.id)]
        self.counts["read"] += len(usable)
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

    def missing(self) -> tuple[int, int]:
        """How many of the documents that the ledger had before were not met, and how many it had."""
        with reading(self.work.database) as connection:
            there = ledger.count(connection, self.work.run.schedule_key)
        return there - self.seen.count, there - (self.number - self.first)

    def look_for_gone(self, most: float) -> None:
        """Note the documents that the ledger has and the source has not.

        Raises PlaceFault, with nothing noted, where they are all there were, or a larger share of them than `most`: so looks
        a table that is being filled again, a folder that is not mounted, a view with a wrong condition.
        """
        run, database = self.work.run, self.work.database
        gone_now, there = self.missing()
        if not gone_now:
            return
        if most < 1 and (gone_now == there or (there >= _BOUNDED_FROM and gone_now > most * there)):
            which = f"all {there:,}" if gone_now == there else f"{gone_now:,} of the {there:,}"
            raise PlaceFault(
                f"The source lacks {which} documents that it had, and its most_gone is {most:g}: nothing was taken out of "
                "the sinks. If that is meant, set most_gone to 1 in the source of the schedule and run it again."
            )
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
    scan = _Scan(work=work, scope=scope, relabel=definition.on_new_revision == "relabel", first=number, number=number)
    corpus_id = runs.corpus_of(run.id)
    path = upload_path(work.settings.data_dir, corpus_id)
    since = None if _from_the_start(definition, schedule.position, scope) else schedule.position
    files.make_folders(work.database, work.settings.data_dir)
    upload = _write(path, _taken(scan, source, since), most=work.settings.max_document_bytes, attempt=run.attempt)
    if source.complete:
        scan.look_for_gone(1.0 if isinstance(definition.source, CorpusSource) else definition.source.most_gone)
    elif definition.source.sync == "mirror":
        scan.counts["withheld"], _ = scan.missing()
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
        runs.advance(connection, work.held, stage="label", **values)  # at once: the corpus may be read from now on

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
    """A file of JSON lines; `pairs`: its documents have a second text, each of them."""

    documents: int = 0
    bytes: int = 0
    sha256: str = ""
    pairs: bool = False


def _write(path: Path, documents: Iterable[SourceDocument], *, most: int, attempt: int) -> _Upload:
    """An upload of the documents, whole on disk or not there; a line has `most` bytes at most. Each attempt at a run writes
    it under a name of its own.

    Raises PlaceFault where some have a second text and others have none: a job is over the one or the other.
    """
    part = path.with_name(f"{path.name}-{attempt}.part")
    digest, upload = hashlib.sha256(), _Upload()
    first = ""
    with part.open("wb") as file:
        for document in documents:
            pair = document.text_pair is not None
            if not upload.documents:
                first, upload.pairs = document.id, pair
            elif pair != upload.pairs:
                one, other = (document.id, first) if pair else (first, document.id)
                raise PlaceFault(
                    f"The document {one[:100]!r} has a second text and {other[:100]!r} has none: they cannot be labelled "
                    "together. Give every document one, or none; or read them with two schedules."
                )
            line = _line(document, most)
            digest.update(line)
            upload.bytes += file.write(line)
            upload.documents += 1
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    synced(path.parent)
    upload.sha256 = digest.hexdigest()
    return upload


def _line(document: SourceDocument, most: int) -> bytes:
    """The line of a document. One that is too long says so in its place: the document fails, as it would in any job, and no
    sink goes on with the label of the text before."""
    kept = dict(document.fields)
    kept[FIELDS["id_field"]] = document.id
    kept[FIELDS["text_field"]] = document.text
    if document.text_pair is not None:
        kept[FIELDS["text_pair_field"]] = document.text_pair
    if document.reference is not None:
        kept[FIELDS["reference_field"]] = document.reference
    line = json.dumps(kept, ensure_ascii=True).encode()
    if len(line) > most:
        said = f"It has {len(line):,} bytes; at most {most:,} are taken (CORPUSMILL_MAX_DOCUMENT_BYTES)."
        left = {FIELDS["id_field"]: document.id, FIELDS["text_field"]: "", TOO_LONG_FIELD: said}
        line = json.dumps(left | ({FIELDS["text_pair_field"]: ""} if document.text_pair is not None else {})).encode()
    return line + b"\n"


def _can_be_kept(document_id: str) -> bool:
    """Whether both databases can hold it: of a bounded length, no NUL, and no half of a surrogate pair."""
    try:
        document_id.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in document_id and len(document_id) <= MAX_ID
