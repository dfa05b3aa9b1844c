"""A worker that has the model `echo`, and a sweeper whose bell nobody hears: the programs, run in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corpusmill.models import ModelInfo
from corpusmill.settings import Settings
from corpusmill.tasks import Params, Task
from db.engine import Engine
from db.workers import Description
from worker.engines.echo import EchoEngine
from worker.heartbeat import Heartbeat
from worker.runner import Runner
from worker.serving import serve
from worker.sweep import Sweeper


class Bell:
    """A doorbell that nobody hears."""

    def depth(self) -> int:
        return 0

    def ring(self, shard_ids: Sequence[int]) -> int:
        return len(shard_ids)


class Echo:
    """The models of a worker that has but one."""

    def get(self, info: ModelInfo, task: Task, params: Params) -> EchoEngine:
        return EchoEngine(info)

    def has(self, info: ModelInfo, task: Task, params: Params) -> bool:
        return True

    def loaded(self) -> frozenset[tuple[str, str]]:
        return frozenset()


def runner_of(database: Engine, settings: Settings) -> Runner:
    heartbeat = Heartbeat(
        engine=database, worker_id="worker", lease=60.0, drain_flag=None,
        describe=lambda: Description(hostname="here", device="cpu", models=[]),
    )  # fmt: skip
    return Runner(database=database, settings=settings, models=Echo(), heartbeat=heartbeat)


def sweeper_of(database: Engine, settings: Settings) -> Sweeper:
    """One that has just been started: its first round does what is done every ten minutes too."""
    return Sweeper(settings=settings, database=database, doorbell=Bell())  # type: ignore[arg-type]


def work(database: Engine, folder: Path) -> None:
    """Every shard that waits, by a worker."""
    serve(runner_of(database, Settings(data_dir=folder)))


def sweep(database: Engine, folder: Path) -> None:
    """Every step of a sweeper, once."""
    sweeper_of(database, Settings(data_dir=folder)).sweep()
