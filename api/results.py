"""Routes of results: pages, one by position, and the export of input and output together.

Knows pages and streams. Must not know how results were made.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import chain, islice
from typing import Any

from flask import Response

import db.jobs as job_rows
import db.results as rows
from api.blueprint import blueprint as make_blueprint
from api.blueprint import cursor_key
from api.schemas import ExportQuery, JobPath, ResultList, ResultPath, ResultResponse, ResultsQuery
from api.state import State, state
from api.views import missing_view, page_view, result_view
from corpora import Store, export
from corpusmill.documents import Document
from corpusmill.errors import Conflict, CorpusDamaged, NotFound
from corpusmill.shards import Slice
from corpusmill.status import ENDED
from db import files, references, shards
from db.corpora import store_directory
from db.engine import reading
from db.jobs import Job
from db.references import Version
from db.results import Selection

blueprint = make_blueprint("results", "What a model said of each document, or why it could not.")

#: Positions read in one transaction while a large answer streams: a slow reader must not hold a snapshot open.
_BLOCK = 2_000


@blueprint.get("/jobs/<string:job_id>/results", responses={200: ResultList})
def list_results(path: JobPath, query: ResultsQuery) -> dict[str, Any]:
    """Results by position, also while the job runs

    A page ends before the first document that has not ended; `next_cursor` is null only when the job has ended and all was
    read."""
    here, start = state(), cursor_key(query.cursor) or 0
    view = _View.of(here, path.job_id)
    chosen = Selection(
        start=start, stop=view.stop, status=query.status, label=query.label, min_score=query.min_score,
        max_score=query.max_score,
    )  # fmt: skip
    if view.complete_rows or query.label is not None or query.min_score is not None or query.max_score is not None:
        with reading(here.database) as connection:
            found = [result_view(row) for row in rows.read(connection, view.job.key, chosen, limit=query.limit)]
    else:
        wanted = (one for one in view.results(start) if query.status in (None, one["status"]))
        found = list(islice(wanted, query.limit))
    return page_view(found, view.next_cursor(found, query.limit, start))


@blueprint.get("/jobs/<string:job_id>/results/<int:position>", responses={200: ResultResponse})
def get_result(path: ResultPath) -> dict[str, Any]:
    """The result of one document"""
    view = _View.of(state(), path.job_id)
    if path.position >= view.total:
        raise NotFound(f"The job has {view.total} documents; the last position is {view.total - 1}.")
    if path.position >= view.stop:
        with reading(state().database) as connection:
            row = next(
                rows.read(connection, view.job.key, Selection(start=path.position, stop=path.position + 1)), None
            )
        if row is None:
            raise NotFound(f"The document at position {path.position} has not ended yet.")
        return result_view(row)
    return next(view.results(path.position))


@blueprint.get(
    "/jobs/<string:job_id>/export",
    responses={
        200: {
            "description": "The file, streamed",
            "content": {
                media_type: {"schema": {"type": "string", "format": "binary"}}
                for media_type in export.MEDIA_TYPES.values()
            },
        }
    },
)
def get_export(path: JobPath, query: ExportQuery) -> Response:
    """Input fields and outputs together, by position

    Where files of the corpus are damaged, the answer is a 409 (`corpus_damaged`); the results can still be read by page.
    Where its directory is gone altogether, as after its deletion, the outputs come alone."""
    view = _View.of(state(), path.job_id)
    if view.job.status not in ENDED and not query.partial:
        raise Conflict(
            f"The job is {view.job.status}: export it when it has ended, or with partial=true what is there so far."
        )
    pairs = view.pairs()
    with files.expected(state().database, state().data_dir, view.job.corpus_id):
        begun = list(islice(pairs, 1))  # what is damaged at once is still answered, and not broken off
    stream = export.write(chain(begun, pairs), query.format, task=view.job.task, raw=query.raw, **view.columns())
    name = f"{view.job.id}.{query.format}"
    return Response(
        stream,
        mimetype=export.MEDIA_TYPES[export.ExportFormat(query.format)],
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
    )


class _View:
    """A job's results as they stand: rows where there are some, and what stands for the documents that have none."""

    def __init__(
        self, here: State, job: Job, stop: int, gaps: list[tuple[Slice, str]], version: Version | None
    ) -> None:
        self._here = here
        self._version = version
        self.job = job
        self.total = job.counts.total if job.counts else 0
        self.stop = stop
        self._gaps = gaps
        self._gap_starts = [piece.start for piece, _ in gaps]

    @classmethod
    def of(cls, here: State, job_id: str) -> _View:
        """The view at this moment. Raises NotFound."""
        with reading(here.database) as connection:
            job = job_rows.get(connection, job_id)
            frontier = shards.ended_before(connection, job.key)
            gaps = shards.gaps(connection, job.key)
            version = references.current(connection, job.corpus_key) if job.corpus_key is not None else None
        total = job.counts.total if job.counts else 0
        return cls(here, job, total if frontier is None else frontier, gaps, version)

    @property
    def complete_rows(self) -> bool:
        """Whether every document that has ended has a row."""
        return not self._gaps

    def columns(self) -> dict[str, Any]:
        """What the corpus holds, for the columns of an export."""
        if self._store is None:
            return {}
        summary = self._store.summary
        return {
            "fields": summary.fields, "text_pair": bool(summary.text_pairs), "other_fields": summary.more_fields
        }  # fmt: skip

    def results(self, start: int) -> Iterator[dict[str, Any]]:
        """Views of the results from `start` up to the first document that has not ended."""
        for low in range(start, self.stop, _BLOCK):
            high = min(low + _BLOCK, self.stop)
            with reading(self._here.database) as connection:
                now = job_rows.by_key(connection, self.job.key)  # NotFound breaks a stream off: deleted meanwhile
                if self.job.status in ENDED and now.finished_at != self.job.finished_at:
                    raise Conflict("The job was opened again while its results were read.")
                found = {
                    row.position: row for row in rows.read(connection, self.job.key, Selection(start=low, stop=high))
                }
            for position in range(low, high):
                row = found.get(position)
                yield result_view(row) if row else self._missing(position)

    def pairs(self) -> Iterator[tuple[Document | None, dict[str, Any]]]:
        """Documents and results together; no documents where the corpus was deleted meanwhile."""
        results = self.results(0)
        if self._store is None:
            yield from ((None, result) for result in results)
        else:
            read = self._store.documents(0, self.stop)
            documents = references.attached(self._here.data_dir, self.job.corpus_id, self._version, read)
            yield from zip(documents, results, strict=True)

    def next_cursor(self, found: list[dict[str, Any]], limit: int, start: int) -> str | None:
        """Where the next page begins, or None where the job has ended and nothing is left."""
        if len(found) == limit:
            following = found[-1]["position"] + 1
            return str(following) if following < self.total or self.job.status not in ENDED else None
        return None if self.job.status in ENDED else str(max(start, self.stop))

    def _missing(self, position: int) -> dict[str, Any]:
        index = bisect_right(self._gap_starts, position) - 1
        state_ = self._gaps[index][1] if index >= 0 and position < self._gaps[index][0].stop else "cancelled"
        return missing_view(position, self._id_of(position), state_, self.job.error)

    def _id_of(self, position: int) -> str:
        """A document's id; its position where nobody can say any more. Results are read whatever became of the documents."""
        try:
            return self._store.document(position).id if self._store else str(position)
        except (CorpusDamaged, NotFound):
            return str(position)

    @cached_property
    def _store(self) -> Store | None:
        directory = store_directory(self._here.data_dir, self.job.corpus_id)
        return Store(directory) if self.job.corpus_key is not None and directory.exists() else None
