"""Which devices this machine has, asked of torch in a process of its own.

Knows how to ask. Must not import torch: the supervisor and the doctor would carry it for good.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_QUESTION = """\
import json, torch
count = torch.cuda.device_count()
print(json.dumps({"torch": torch.__version__, "cuda": [torch.cuda.get_device_name(k) for k in range(count)]}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """torch's version (None where it cannot be imported, `fault` then says why) and the CUDA devices it can use."""

    torch: str | None = None
    cuda: tuple[str, ...] = ()
    fault: str | None = None


def gpu_driver_present() -> bool:
    """Whether the kernel shows a GPU that torch might use: a machine without one need not wait for torch to say so."""
    return Path("/dev/kfd").exists() or any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def ask_torch(environ: Mapping[str, str] | None = None) -> Devices:
    """What torch says, in a fresh process with the given environment (ours by default)."""
    answer = subprocess.run(
        [sys.executable, "-P", "-c", _QUESTION], capture_output=True, text=True, timeout=120, check=False,
        env=None if environ is None else dict(environ),
    )  # fmt: skip
    if answer.returncode:
        return Devices(fault=(answer.stderr.strip().splitlines() or ["no reason given"])[-1])
    said = json.loads(answer.stdout.strip().splitlines()[-1])
    return Devices(torch=said["torch"], cuda=tuple(said["cuda"]))


def cuda_ids(count: int, environ: Mapping[str, str] = os.environ) -> list[str]:
    """What to put into CUDA_VISIBLE_DEVICES for each of `count` devices, keeping to those that are visible here."""
    visible = [name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible[:count] if visible else [str(index) for index in range(count)]
