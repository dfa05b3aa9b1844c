"""Our engine alone, through the seam that the worker uses: load, prepare, run.

Knows the catalog, parameters and the engine protocol. Must not know how any engine works, so that whatever engine the
table gives is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.resolution import Catalog
from corpusmill.documents import Document, Result
from corpusmill.tasks import Task, parse_params
from worker.device import DeviceChoice, pick_device
from worker.engines.base import Usage
from worker.models.table import load_engine

#: A position beyond a job's first documents, which an engine that is not exact runs in float32 too, once a job.
LATER = 100_000


@dataclass(frozen=True, slots=True)
class Ran:
    """Results in the order of the texts, and what running them took."""

    results: list[Result]
    usage: Usage


class OurEngine:
    """A model of a models root, loaded for a task. Raises what the catalog and the engines raise.

    With `shard`, so many texts are tokenized in a thread of their own while the last ones run, as the worker does it.
    """

    def __init__(
        self,
        root: Path,
        model: str,
        task: Task,
        params: Mapping[str, Any],
        *,
        device: DeviceChoice = "cpu",
        threads: int = 0,
        shard: int | None = None,
    ) -> None:
        catalog = Catalog(root, "", root / ".digests")
        info = catalog.fetch(catalog.resolve(model))
        self._params = catalog.check(info, task, parse_params(task, dict(params)))
        self._engine = load_engine(info, task, self._params, pick_device(device, threads=threads))
        self._shard = shard
        self.task = task
        self.runtime: Mapping[str, Any] = self._engine.runtime

    def run(self, texts: Sequence[str], first: int = 0) -> Ran:
        """All texts through the engine, as documents from the position `first` on. Raises RuntimeError where one fails."""
        usage = Usage()
        documents = [Document(position=first + k, id=str(k), text=text) for k, text in enumerate(texts)]
        step = self._shard or len(documents)
        shards = [documents[start : start + step] for start in range(0, len(documents), step)]
        results: dict[int, Result] = {}
        with ThreadPoolExecutor(max_workers=1) as ahead:
            coming = ahead.submit(self._engine.prepare, shards[0], self._params, usage)
            for following in [*shards[1:], None]:
                prepared = coming.result()
                if following is not None:
                    coming = ahead.submit(self._engine.prepare, following, self._params, usage)
                for batch in self._engine.run(prepared, usage, lambda: False):
                    for result in batch:
                        if result.output is None:
                            raise RuntimeError(f"text {result.document_id} failed: {result.error}")
                        results[result.position] = result
        return Ran([results[document.position] for document in documents], usage)
