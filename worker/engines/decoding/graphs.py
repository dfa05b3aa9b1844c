"""Running steps: as they come, or on CUDA as graphs that are captured once and replayed.

Knows devices. Must not know what a step computes. A decoder step is some hundred small kernels: launched one by one they
take milliseconds, of which a GPU works a tenth. The CUDA half has not been measured.
"""

from __future__ import annotations

from typing import Protocol

import torch

from worker.engines.decoding.forward import Extent, forward
from worker.engines.decoding.slots import Slots
from worker.engines.decoding.weights import Decoder

#: Lengths on CUDA are rounded up to multiples of this, slots to powers of two: a graph for each, so there must be few.
_GRAIN = 64


class Stepper(Protocol):
    """Runs the decoder's step on slots."""

    def __call__(self, slots: Slots, extent: Extent) -> tuple[torch.Tensor, int]:
        """Scores as `forward` gives them, for at least the slots asked for, and how many slots were run."""

    def forget(self) -> None:
        """The slots that were run before are no more."""


def stepper(decoder: Decoder) -> Stepper:
    """The way to run steps on the decoder's device."""
    return Graphed(decoder) if decoder.device.type == "cuda" else Plain(decoder)


class Plain:
    """Every step as it comes, no larger than it must be."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def __call__(self, slots: Slots, extent: Extent) -> tuple[torch.Tensor, int]:
        return forward(self._decoder, slots, extent), extent.slots

    def forget(self) -> None:
        """Nothing is kept."""


def rounded(extent: Extent, slots: Slots) -> Extent:
    """An extent that covers this one and is one of few, within what the slots have."""
    size = slots.size
    return Extent(
        min(size.slots, 1 << (extent.slots - 1).bit_length()),
        min(size.source, -(-extent.source // _GRAIN) * _GRAIN),
        min(size.output, -(-extent.output // _GRAIN) * _GRAIN),
    )


class Graphed:
    """A CUDA graph for each rounded extent. The slots' tensors are the graphs' inputs, changed in place between steps."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._graphs: dict[Extent, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        #: One pool for all: a graph's scores are done with before another graph is replayed.
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, slots: Slots, extent: Extent) -> tuple[torch.Tensor, int]:
        covering = rounded(extent, slots)
        if covering not in self._graphs:
            self._graphs[covering] = self._captured(slots, covering)
        graph, scores = self._graphs[covering]
        graph.replay()
        return scores, covering.slots

    def forget(self) -> None:
        """Drop the graphs, and the memory that they hold. A pool without a graph cannot be captured into again."""
        self._graphs.clear()
        self._pool = torch.cuda.graph_pool_handle()

    def _captured(self, slots: Slots, extent: Extent) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        # A step may run twice: it writes the same keys and values at the same places.
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            forward(self._decoder, slots, extent)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            scores = forward(self._decoder, slots, extent)
        return graph, scores
