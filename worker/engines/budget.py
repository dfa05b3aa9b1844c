"""A token budget for batches that halves when the device's memory runs out and grows again, and the loop that lives by it.

Knows lengths and the device's memory errors. Must not know what a batch computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from corpusmill.batches import plan_batches, plan_packs
from worker.device import Device, is_out_of_memory, release

Output = TypeVar("Output")

#: Batches that must fit one after another before a halved budget grows, by a quarter. What took the memory may have gone
#: by then (another model's weights); if it has not, one batch in two hundred is run twice.
_CALM = 50


class Budget:
    """The tokens that may go through a device together, learned for one model and kept with it.

    Counted with padding, or, where batches are packs, without. `tokens` is never above the device's `batch_tokens`.
    """

    def __init__(self, device: Device, *, packs: bool = False, fitting: int | None = None) -> None:
        """`packs` says how batches are counted, `fitting` what the device's memory holds where that was measured."""
        self.device = device
        self.tokens = min(device.batch_tokens, fitting or device.batch_tokens)
        self._packs = packs
        self._fitted = 0

    def batches(
        self,
        lengths: Sequence[int],
        run: Callable[[list[int]], Output],
        stopped: Callable[[], bool],
        *,
        most: int = 1 << 30,
    ) -> Iterator[tuple[list[int], Output | None]]:
        """Run every index of `lengths` in batches within the budget, longest first; yields (indices, output).

        A batch that runs out of memory halves the budget and is cut anew with what is left; an index that does so alone
        comes with None. Ends early where `stopped`, asked before each batch, answers true. Other errors pass through.
        """
        waiting = self._plan(range(len(lengths)), lengths, most)
        while waiting and not stopped():
            batch = waiting.popleft()
            try:
                output = run(batch)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                yield batch, output
                if self._grow():
                    waiting = self._plan([index for later in waiting for index in later], lengths, most)
                continue
            # Out of the handler: the error's frames hold the tensors that did not fit.
            release(self.device)
            self._fitted = 0
            if len(batch) == 1:
                yield batch, None
                continue
            own = [lengths[index] for index in batch]
            self.tokens = max(1, min(self.tokens, sum(own) if self._packs else max(own) * len(own)) // 2)
            waiting = self._plan([*batch, *(index for later in waiting for index in later)], lengths, most)

    def _plan(self, left: Sequence[int], lengths: Sequence[int], most: int) -> deque[list[int]]:
        plan = plan_packs if self._packs else plan_batches
        planned = plan([lengths[index] for index in left], self.tokens, most=most)
        return deque([left[index] for index in indices] for indices in planned)

    def _grow(self) -> bool:
        """Count a batch that fitted. Whether the budget has grown."""
        self._fitted += 1
        if self.tokens >= self.device.batch_tokens or self._fitted < _CALM:
            return False
        self._fitted = 0
        self.tokens = min(self.device.batch_tokens, self.tokens + max(1, self.tokens // 4))
        return True
