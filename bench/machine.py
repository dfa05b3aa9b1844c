"""What the figures were measured on: processor, cores, memory, versions. Names no host, user or path.

Knows where a system says so.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "ctranslate2", "onnxruntime", "onnx")


def machine() -> dict[str, str]:
    """The machine in words."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = {"processor": _processor(), "cores": str(cores), "memory": _memory(), "system": platform.system()}
    return {name: value for name, value in found.items() if value}


def versions() -> dict[str, str]:
    """Versions of what shaped the figures, and the commit of this checkout."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {"commit": _commit()}


def _processor() -> str:
    """As lscpu tells it, with the instruction sets that matter to matrix products."""
    try:
        told = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"})
    except (OSError, subprocess.CalledProcessError):
        return platform.processor() or platform.machine()
    rows = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in told.stdout.splitlines())
    }
    flags = set(rows.get("Flags", "").split())
    sets = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if name in flags]
    return ", ".join(part for part in (rows.get("Model name", platform.machine()), *sets) if part)


def _memory() -> str:
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return ""
    first = meminfo.read_text(encoding="ascii").splitlines()[0]
    return f"{int(first.split()[1]) / 2**20:.0f} GiB"


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + (" with changes" if changed.stdout.strip() else "")
