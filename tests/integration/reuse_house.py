"""What the tests of reuse are told in: an engine that remembers what went through it, and a worker that runs what waits."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from corpusmill.documents import Document, Result, failed
from corpusmill.errors import DocumentError
from corpusmill.models import ModelInfo
from corpusmill.settings import settings_from
from corpusmill.shards import Slice
from corpusmill.tasks import PARAMS, Params, Task
from db import corpora, jobs, metrics, reuse
from db.engine import Connection, Engine, reading, transact
from db.workers import Description
from tests.integration.steps import put
from worker.engines.base import Usage
from worker.heartbeat import Heartbeat
from worker.runner import Runner
from worker.serving import serve

MODEL = ModelInfo(id="echo", revision="1", family="echo", tasks=tuple(Task))


class Counted:
    """Answers from the text alone, fails on texts that begin with `bad`, and remembers what went through it."""

    def __init__(self, *, version: str = "1") -> None:
        self.weight_bytes = 0
        self.runtime: dict[str, Any] = {"engine": "counted", "version": version}
        self.seen: list[str] = []
        self.bad = True

    def runtime_for(self, params: Params) -> dict[str, Any]:
        return self.runtime

    def prepare(self, documents: Sequence[Document], params: Params, usage: Usage) -> Sequence[Document]:
        return documents

    def run(
        self, prepared: Sequence[Document], usage: Usage, stopped: Callable[[], bool]
    ) -> Iterator[list[Result]]:  # fmt: skip
        with usage.phase("model"):
            for document in prepared:
                self.seen.append(document.text)
        yield [self._answer(document) for document in prepared]

    def _answer(self, document: Document) -> Result:
        if document.text.startswith("bad") and self.bad:
            return failed(document, DocumentError(code="internal", message="It is bad.", retryable=True))
        number = zlib.crc32((document.text + (document.text_pair or "")).encode())
        score = 0.5 + (number % 1000) / 2_000.1
        label = str(number % 3)
        scores = {label: score, f"z{label}": 1e-7 * score, f"a{label}": (1 - score) / 3}
        return Result(
            position=document.position, document_id=document.id,
            output={"label": label, "score": score, "scores": scores, "summary": document.text},
            n_tokens=number % 17, n_segments=1 + number % 2,
            truncated=bool(number % 5 == 0),
        )  # fmt: skip


class Models:
    def __init__(self, engine: Counted) -> None:
        self._engine = engine

    def get(self, info: ModelInfo, task: Task, params: Params) -> Any:
        return self._engine

    def has(self, info: ModelInfo, task: Task, params: Params) -> bool:
        return True

    def loaded(self) -> frozenset[tuple[str, str]]:
        return frozenset({(MODEL.id, MODEL.revision)})


class House:
    """A database with corpora and jobs, and a worker that runs what waits."""

    def __init__(self, database: Engine, folder: Path) -> None:
        self.database = database
        self.folder = folder

    def job(
        self, texts: Iterable[str | tuple[str, str]], *, reuse: bool = True, size: int = 4, params: Any = None,
        revision: str = "1", task: Task = Task.CLASSIFICATION,
    ) -> str:  # fmt: skip
        number = sum(1 for _ in self.folder.glob("corpora/*"))
        corpus_id = f"corpus_{number}"
        pairs = [(each, None) if isinstance(each, str) else each for each in texts]
        put(
            self.folder,
            corpus_id,
            (
                Document(position=place, id=f"d{place}", text=text, text_pair=pair, reference=str(place % 3))
                for place, (text, pair) in enumerate(pairs)
            ),
        )

        def make(connection: Connection) -> None:
            corpora.create(
                connection, id=corpus_id, name=None, format="jsonl", encoding=None, bytes=1, sha256="0" * 64, options={}
            )
            corpora.claim(connection, corpus_id, owner="me", lease=30)
            corpora.finish(
                connection,
                corpus_id,
                owner="me",
                status="ready",
                documents=len(pairs),
                invalid=0,
                fields=[],
                error=None,
            )
            jobs.create(
                connection, id=f"job_{number}", name=None, task=task, model=replace(MODEL, revision=revision),
                corpus=corpora.get(connection, corpus_id), params=PARAMS[task](**(params or {})).model_dump(mode="json"),
                priority=0, metadata={}, reuse=reuse,
                slices=[Slice(start, min(start + size, len(pairs))) for start in range(0, len(pairs), size)],
            )  # fmt: skip

        transact(self.database, make)
        return f"job_{number}"

    def run(self, engine: Counted) -> list[str]:
        """Run what waits; the texts that went through the model."""
        engine.seen.clear()
        serve(self.runner(engine))
        return list(engine.seen)

    def runner(self, engine: Counted) -> Runner:
        heartbeat = Heartbeat(
            engine=self.database, worker_id="worker", lease=60.0, drain_flag=None,
            describe=lambda: Description(hostname="here", device="cpu", models=[]),
        )  # fmt: skip
        settings = settings_from({}, data_dir=self.folder, lease_seconds=60.0)
        return Runner(database=self.database, settings=settings, models=Models(engine), heartbeat=heartbeat)

    def the(self, job_id: str) -> jobs.Job:
        with reading(self.database) as connection:
            return jobs.get(connection, job_id)

    def rows(self, job_id: str) -> list[dict[str, Any]]:
        with reading(self.database) as connection:
            job = jobs.get(connection, job_id)
            query = connection.exec_driver_sql(f"SELECT * FROM results WHERE job_key = {job.key} ORDER BY position")
            return [{name: row[name] for name in row if name != "job_key"} for row in query.mappings()]

    def figures(self, job_id: str) -> list[Any]:
        with reading(self.database) as connection:
            report = metrics.stored(connection, jobs.get(connection, job_id))
        kept = [
            metric for metric in report.metrics if "second" not in metric.name and metric.name != "device_busy_share"
        ]
        return [*kept, report.confusion_matrix]

    def kept(self) -> int:
        with reading(self.database) as connection:
            return sum(row.outputs for row in reuse.scopes(connection))
