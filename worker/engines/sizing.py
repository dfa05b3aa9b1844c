"""How many tokens fit a GPU together, measured on the model itself when it is loaded.

Knows torch's memory statistics. Must not know what a batch computes. On a CPU the budget is one of speed and not of
memory, and nothing is measured. Unmeasured on a GPU so far.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from worker.device import Device, free_bytes, is_out_of_memory, release
from worker.models.rows import Indices, Rows

#: Tokens of the two batches that are tried; the difference of their peaks leaves out what does not grow with a batch.
_SIZES = (2_048, 8_192)
#: Share of the free memory that a batch may take.
_SHARE = 0.85


def tokens_that_fit(run: Callable[[Rows, Indices], object], rows: Rows, device: Device) -> int | None:
    """Tokens of a batch that fit the free memory of a CUDA device; None where that is not known.

    `run` puts a batch of the rows through the model. A device whose memory ends at the smaller batch says nothing: the
    budget then learns by halving.
    """
    if device.kind != "cuda":
        return None
    longest = int(rows.lengths.argmax())
    peaks: list[int] = []
    sizes: list[int] = []
    for wanted in _SIZES:
        batch = np.full(max(1, wanted // int(rows.lengths[longest])), longest)
        before = torch.cuda.memory_allocated(device.index)
        torch.cuda.reset_peak_memory_stats(device.index)
        try:
            run(rows, batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            release(device)
            return None if not peaks else _SIZES[0]
        peaks.append(torch.cuda.max_memory_allocated(device.index) - before)
        sizes.append(int(rows.lengths[batch].sum()))
    each = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    return max(1, int(_SHARE * free_bytes(device) / each)) if each > 0 else None
