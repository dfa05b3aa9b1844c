"""A job as a caller sees it: how it stands, its results, its exports and its metrics.

Knows the job endpoints and their shapes. Must not know how requests are repeated (`transport`) or
followed (`waiting`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpusmill_client.errors import CorpusmillError
from corpusmill_client.exports import ExportProgress, export_format, flat, rows_of, save
from corpusmill_client.pages import PAGE, page, path_of
from corpusmill_client.resource import Resource
from corpusmill_client.transport import Transport, backoff
from corpusmill_client.views import Counts, Metrics, Result, metrics_of, sentence_of, shaped, time_of
from corpusmill_client.waiting import ENDED, changes

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped, import-not-found, unused-ignore]

#: Called with the job whenever it has changed, and when the server stops or starts answering (`job.trouble`).
JobProgress = Callable[["Job"], object]


class Job(Resource):
    """One task, model and parameter set over one corpus, as it stood when last asked for.

    `refresh`, `wait` and `cancel` bring it up to date and return it.
    """

    def __init__(self, transport: Transport, data: Mapping[str, Any]) -> None:
        super().__init__(transport, data)
        self._trouble: str | None = None

    @property
    def _path(self) -> str:
        return path_of("jobs", self.id)

    @property
    def name(self) -> str | None:
        return self._data.get("name")

    @property
    def task(self) -> str:
        return str(self._data["task"])

    @property
    def model(self) -> str:
        """The model's id."""
        return str((self._data.get("model") or {}).get("id"))

    @property
    def revision(self) -> str | None:
        """The commit or content hash of the model that runs."""
        return (self._data.get("model") or {}).get("revision")

    @property
    def corpus(self) -> str | None:
        """The id of its corpus."""
        return self._data.get("corpus")

    @property
    def corpus_invalid(self) -> int:
        """How many lines of its corpus could not be read: they are in no count."""
        return int(self._data.get("corpus_invalid") or 0)

    @property
    def params(self) -> Mapping[str, Any]:
        """Every parameter in force, defaults included."""
        return self._data.get("params") or {}

    @property
    def status(self) -> str:
        """queued, running, paused or cancelling; in the end completed, completed_with_errors, failed or cancelled."""
        return str(self._data["status"])

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def counts(self) -> Counts:
        return shaped(Counts, self._data.get("counts") or {})

    @property
    def reused(self) -> int:
        """How many of the results were taken from outputs that were kept of the same texts (`reuse`)."""
        return int(self._data.get("reused") or 0)

    @property
    def progress(self) -> float:
        """The share of documents that have ended, from 0 to 1."""
        return float(self._data.get("progress") or 0.0)

    @property
    def documents_per_second(self) -> float | None:
        return self._data.get("documents_per_second")

    @property
    def eta_seconds(self) -> float | None:
        return self._data.get("eta_seconds")

    @property
    def queue_position(self) -> int | None:
        return self._data.get("queue_position")

    @property
    def started_at(self) -> datetime | None:
        return time_of(self._data.get("started_at"))

    @property
    def finished_at(self) -> datetime | None:
        return time_of(self._data.get("finished_at"))

    @property
    def expires_at(self) -> datetime | None:
        return time_of(self._data.get("expires_at"))

    @property
    def error(self) -> str | None:
        """Why the job as a whole failed; a single document's error is in its result."""
        return sentence_of(self._data.get("error"))

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._data.get("metadata") or {}

    @property
    def trouble(self) -> str | None:
        """While waiting: why the server cannot be asked just now; None when it answers."""
        return self._trouble

    def wait(self, timeout: float | None = None, progress: JobProgress | None = None) -> Job:
        """Waits until the job has ended and returns it, whatever the outcome (`status`, `error`).

        A server that restarts or cannot be reached is asked again for as long as it takes. Raises WaitTimeout after
        `timeout` seconds (the job goes on), and CorpusmillError where the server refuses for good.
        """
        if self.ended:
            return self
        for data, trouble in changes(self._transport, self._path, timeout):
            self._data = data if data is not None else self._data
            self._trouble = str(trouble) if trouble else None
            if progress:
                progress(self)
        return self

    def cancel(self) -> Job:
        """Asks for the job to be stopped; documents that have their result keep it."""
        return self._move("cancel")

    def pause(self) -> Job:
        """Asks for the job to be held: no more of it is started, and what is on a device is put back."""
        return self._move("pause")

    def resume(self) -> Job:
        """Lets a paused job go on."""
        return self._move("resume")

    def retry(self) -> Job:
        """Runs the failed documents of a job that has ended again. Raises CorpusmillError (`conflict`) where there are
        none to run."""
        # Sent twice it would be refused the second time, although the first did what was asked.
        return self._move("retry", repeatable=False)

    def _move(self, move: str, *, repeatable: bool = True) -> Job:
        answer = self._transport.json("POST", f"{self._path}/{move}", repeatable=repeatable)
        if isinstance(answer, Mapping) and answer.get("id") == self.id:
            self._data = answer
            return self
        return self.refresh()

    def delete(self) -> None:
        """Removes the job with its results and metrics, and the documents that came with it."""
        self._transport.delete(self._path)

    def results(
        self,
        status: str | None = None,
        label: str | None = None,
        *,
        min_score: float | None = None,
        max_score: float | None = None,
        limit: int | None = None,
        follow: bool = True,
    ) -> Iterator[Result]:
        """The results by position, page by page as they are asked for, `limit` at most.

        While the job runs, `follow` waits for those to come; without it the iteration ends before the first document
        that has no result yet.
        """
        query = {"status": status, "label": label, "min_score": min_score, "max_score": max_score}
        path, cursor, idle, given = f"{self._path}/results", None, 0, 0
        while limit is None or given < limit:
            size = PAGE if limit is None else min(PAGE, limit - given)
            items, cursor = page(self._transport, path, {**query, "limit": size, "cursor": cursor})
            yield from (shaped(Result, item) for item in items)
            given += len(items)
            if cursor is None:
                return
            if items:
                idle = 0
                continue
            if not follow and not self.ended and not self.refresh().ended:
                return
            idle += 1
            time.sleep(min(5.0, backoff(idle)))

    def stream(self, format: str = "jsonl", *, partial: bool = False) -> Iterator[bytes]:
        """The export in blocks of bytes: input fields and outputs together, by position.

        Raises CorpusmillError (`conflict`) before the job has ended, unless `partial`.
        """
        params = {"format": export_format(format), "partial": "true" if partial else None}
        with self._transport.stream(f"{self._path}/export", params=params) as blocks:
            yield from blocks

    def export(
        self,
        path_or_format: str | PathLike[str],
        *,
        format: str | None = None,
        partial: bool = False,
        progress: ExportProgress | None = None,
    ) -> Path:
        """Writes the export to a file and returns its path; the file appears only when it is whole.

        The format is `format` or the extension (.jsonl, .csv, .parquet). A format alone, as in `export("csv")`, writes
        `job_….csv` in the current directory.
        """
        given = fspath(path_or_format)
        wanted = export_format(given, format)
        alone = given.lower() in {"jsonl", "ndjson", "csv", "parquet"}
        target = Path(f"{self.id}.{wanted}") if alone else Path(given)
        save(lambda: self.stream(wanted, partial=partial), target, progress)
        return target

    def rows(self, *, partial: bool = False) -> Iterator[dict[str, Any]]:
        """The export's rows one by one, as the server writes them to JSON Lines."""
        self._refuse_if_failed()
        yield from rows_of(self.stream("jsonl", partial=partial))

    def to_list(self, *, partial: bool = False) -> list[dict[str, Any]]:
        """The export's rows."""
        return list(self.rows(partial=partial))

    def to_pandas(self, *, partial: bool = False) -> pandas.DataFrame:
        """The export as a data frame: a row a document, its fields and those of the output (`label`, …) as columns."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "to_pandas() needs pandas: pip install 'corpusmill-client[pandas]' or pandas itself."
            ) from error
        return pandas.DataFrame([flat(row) for row in self.rows(partial=partial)])

    def metrics(self) -> Metrics:
        """The evaluation metrics; while the job runs, those of the documents that have ended."""
        return metrics_of(self._transport.json("GET", f"{self._path}/metrics", having="metrics"))

    def _refuse_if_failed(self) -> None:
        if self.status == "failed" and self.error:
            raise CorpusmillError(f"{self.id} failed: {self.error}", code="job_failed")

    def __repr__(self) -> str:
        counts = self.counts
        return f"Job({self.id!r}, {self.task}, {self.model!r}, {self.status}, {counts.ended}/{counts.total})"
