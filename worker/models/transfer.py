"""Arrays on their way to a device and back without anybody waiting for the copy.

Knows torch's pinned memory, streams and events. On a CPU nothing is copied. The CUDA part is unmeasured so far.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def placed(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """An array as a tensor on the device; on CUDA through pinned memory, so that the copy does not hold up the host."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Coming:
    """A tensor that comes to the host once the device has computed it. The host may do other things meanwhile."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._host = tensor
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def get(self) -> torch.Tensor:
        """The tensor on the host, waited for."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None
        return self._host
