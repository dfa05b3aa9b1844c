"""A token budget for batches that halves when the device's memory runs out, and the loop that lives by it.

Knows lengths and the device's memory errors. Must not know what a batch computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from corpusmill.batches import plan_batches
from worker.device import Device, is_out_of_memory, release

Output = TypeVar("Output")


class Budget:
    """The padded tokens that may go through a device together. What did not fit once is never tried again."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.tokens = device.batch_tokens

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
        waiting = deque(plan_batches(lengths, self.tokens, most=most))
        while waiting and not stopped():
            batch = waiting.popleft()
            try:
                output = run(batch)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                yield batch, output
                continue
            # Out of the handler: the error's frames hold the tensors that did not fit.
            release(self.device)
            if len(batch) == 1:
                yield batch, None
                continue
            self.tokens = max(1, min(self.tokens, lengths[batch[0]] * len(batch)) // 2)
            left = sorted([*batch, *(index for later in waiting for index in later)])
            planned = plan_batches([lengths[index] for index in left], self.tokens, most=most)
            waiting = deque([left[index] for index in indices] for indices in planned)
