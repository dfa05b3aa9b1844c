"""A worker that has room for one model does not load models anew for every shard of a mixed queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from corpusmill.documents import Document
from corpusmill.models import ModelInfo
from corpusmill.settings import Settings, settings_from
from corpusmill.shards import Slice
from corpusmill.tasks import Params, Task
from db import corpora, jobs
from db.engine import Connection, Engine, reading, transact
from db.workers import Description
from tests.integration.reuse_house import Counted
from tests.integration.steps import put
from worker.device import Device, pick_device
from worker.heartbeat import Heartbeat
from worker.models import ModelCache
from worker.runner import Runner
from worker.serving import serve

SHARDS = 10
MODELS = [ModelInfo(id=f"model-{name}", revision="1", family="echo", tasks=tuple(Task)) for name in "ab"]


@pytest.fixture
def mixed(database: Engine, tmp_path: Path) -> list[str]:
    """Two jobs of several shards each over one corpus, with a model of its own each."""
    put(tmp_path, "corpus_a", (Document(position=at, id=f"d{at}", text=f"text {at}") for at in range(SHARDS)))

    def make(connection: Connection) -> list[str]:
        corpora.create(
            connection, id="corpus_a", name=None, format="jsonl", encoding=None, bytes=1, sha256="0" * 64, options={}
        )
        corpora.claim(connection, "corpus_a", owner="me", lease=30)
        corpora.finish(
            connection, "corpus_a", owner="me", status="ready", documents=SHARDS, invalid=0, fields=[], error=None
        )
        for model in MODELS:
            jobs.create(
                connection, id=f"job_{model.id}", name=None, task=Task.CLASSIFICATION, model=model,
                corpus=corpora.get(connection, "corpus_a"), params={}, priority=0, metadata={},
                slices=[Slice(at, at + 1) for at in range(SHARDS)],
            )  # fmt: skip
        return [f"job_{model.id}" for model in MODELS]

    return transact(database, make)


class Loader:
    """Loads engines that fill the cache each, and remembers which; `order` is the model of each shard that ran."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.order: list[str] = []

    def __call__(self, info: ModelInfo, task: Task, params: Params, device: Device) -> Any:
        self.loaded.append(info.id)
        engine, order = Counted(), self.order
        engine.weight_bytes = 100

        class Noting(list[str]):
            def append(self, text: str) -> None:
                order.append(info.id)

        engine.seen = Noting()
        return engine


def worker_of(database: Engine, folder: Path, loader: Loader) -> tuple[Runner, ModelCache]:
    device = pick_device("cpu")
    models = ModelCache(Catalog(None, "", folder), device, Settings(model_cache_bytes=150), loader)
    heartbeat = Heartbeat(
        engine=database, worker_id="worker", lease=60.0, drain_flag=None,
        describe=lambda: Description(hostname="here", device="cpu", models=[]),
    )  # fmt: skip
    settings = settings_from({}, data_dir=folder, lease_seconds=60.0)
    return Runner(database=database, settings=settings, models=models, heartbeat=heartbeat), models


def test_two_jobs_with_a_model_each_share_a_worker_that_has_room_for_one_in_few_loads(
    database: Engine, mixed: list[str], tmp_path: Path
) -> None:
    loader = Loader()
    runner, models = worker_of(database, tmp_path, loader)
    while serve(runner):  # a doorbell for each minute
        pass
    assert len(loader.order) == 2 * SHARDS
    assert len(models.loaded()) == 1
    changes = 1 + sum(one != other for one, other in zip(loader.order, loader.order[1:], strict=False))
    assert len(loader.loaded) == changes <= SHARDS // 2
    with reading(database) as connection:
        assert {jobs.get(connection, name).status for name in mixed} == {"completed"}
