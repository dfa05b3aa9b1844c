"""Side-by-side timing: variants in turn, round after round, by CPU seconds with wall seconds beside them.

Knows clocks and cores. Must not know models, documents or what a variant does.

CPU seconds are those of this process, user and system, every thread of it. On a machine that others use too, wall
seconds are mostly the others' doing; CPU seconds on one core are within a few per cent of each other.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Output = TypeVar("Output")


@dataclass(frozen=True, slots=True)
class Variant(Generic[Output]):
    """One way of doing the work. `run` does all of it, from texts to answers."""

    name: str
    run: Callable[[], Output]


@dataclass(slots=True)
class Timed(Generic[Output]):
    """A variant's times in seconds, round by round, and the output of its first round."""

    name: str
    output: Output
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    @property
    def cpu_seconds(self) -> float:
        return statistics.median(self.cpu)

    @property
    def wall_seconds(self) -> float:
        return statistics.median(self.wall)


def one_core(core: int | None = None) -> int | None:
    """Bind this process, and every thread that it starts from now on, to one core; the core's number.

    `core` None takes the last that the process may use. None where the system has no such call.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    chosen = max(os.sched_getaffinity(0)) if core is None else core
    os.sched_setaffinity(0, {chosen})
    return chosen


def timed(run: Callable[[], Output]) -> tuple[Output, float, float]:
    """What `run` returns, the CPU seconds and the wall seconds that it took."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    output = run()
    return output, time.process_time() - cpu, time.perf_counter() - wall


def alternate(
    variants: Sequence[Variant[Output]], rounds: int, between: Callable[[], object] = lambda: None
) -> list[Timed[Output]]:
    """Every variant once a round, in an order that moves on by one each round; `between` runs before each round."""
    found: dict[str, Timed[Output]] = {}
    for number in range(rounds):
        between()
        start = number % len(variants)
        for variant in (*variants[start:], *variants[:start]):
            output, cpu, wall = timed(variant.run)
            kept = found.setdefault(variant.name, Timed(variant.name, output))
            kept.cpu.append(cpu)
            kept.wall.append(wall)
    return [found[variant.name] for variant in variants]
