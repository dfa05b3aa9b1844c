"""What the runner asks of an engine, and what an engine reports of its work.

Knows documents, results and time. Must not know shards, leases or the database: the runner does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from corpusmill.documents import Document, Result
from corpusmill.tasks import Params

Prepared = TypeVar("Prepared")


@dataclass(slots=True)
class Usage:
    """What running a shard took. Every figure is a sum, so that shards add up to their job.

    `seconds` by phase: `load`, `read`, `tokenize`, `model` (the device at work), `postprocess`, `evaluate`, `write` (of the
    shard before), and of the thread that drives the device `run` and `wait` (for a shard to run). `tokens` that went
    through the model (source and generated), `padded_tokens` the same with padding, `generated_tokens` for the
    generating tasks.
    `slot_steps` are decoder steps times the slots they were offered, `busy_slot_steps` those whose slot held a source.
    `reused` are documents answered without the model, from outputs that were kept.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    padded_tokens: int = 0
    generated_tokens: int = 0
    batches: int = 0
    slot_steps: int = 0
    busy_slot_steps: int = 0
    reused: int = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `seconds[name]`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(slots=True, eq=False)
class Work(Generic[Prepared]):
    """One shard on its way through an engine: what was prepared, what running it takes, and whether it is to end early."""

    prepared: Prepared
    usage: Usage
    stopped: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Step(Generic[Prepared]):
    """Results of a work, in any order; `ended` where there will be no more of it."""

    work: Work[Prepared]
    results: list[Result]
    ended: bool


#: Gives the next work of the same job, if one is ready by now.
More = Callable[[], Work[Prepared] | None]


class Engine(Protocol, Generic[Prepared]):
    """A loaded model on a device, ready for one task.

    `weight_bytes` is what its weights hold in the device's memory. `runtime` is what shaped its outputs and goes onto the
    job: device, dtype, engine, tokenizer class, library versions.
    """

    weight_bytes: int
    runtime: dict[str, Any]

    def prepare(self, documents: Sequence[Document], params: Params, usage: Usage) -> Prepared:
        """Tokenize and cut. Uses no device, so that it may run in another thread while `run` holds the device."""

    def run(self, prepared: Prepared, usage: Usage, stopped: Callable[[], bool]) -> Iterator[list[Result]]:
        """Results by batch, in any order of documents, one for each document that `prepare` was given.

        A document that cannot be used or does not fit the device yields its failed result. Between batches `stopped` is
        asked, and the iterator ends early where it answers true. Raises ModelFault where the model itself cannot go on.
        """


@runtime_checkable
class StreamingEngine(Engine[Prepared], Protocol):
    """An engine that takes up the next shard while the last documents of one are still running, so that nothing idles."""

    def stream(self, first: Work[Prepared], more: More[Prepared]) -> Iterator[Step[Prepared]]:
        """Run `first`, and what `more` gives whenever there is room for it; every work gets a last step with `ended`.

        Between batches the works' `stopped` are asked, and a work ends early where its own answers true.
        """


@runtime_checkable
class RuntimeForParams(Protocol):
    """An engine whose way of running, and so its `runtime`, depends on the parameters."""

    def runtime_for(self, params: Params) -> dict[str, Any]:
        """The `runtime` of a job with these parameters, before it runs.

        Raises ModelFault, as `prepare` does.
        """


def steps(engine: Engine[Prepared], first: Work[Prepared], more: More[Prepared]) -> Iterator[Step[Prepared]]:
    """The steps of a work, and of those that follow it where the engine streams."""
    if isinstance(engine, StreamingEngine):
        yield from engine.stream(first, more)
        return
    for batch in engine.run(first.prepared, first.usage, first.stopped):
        yield Step(first, batch, ended=False)
    yield Step(first, [], ended=True)
