"""A wall clock that is wrong, for the programs that it is preloaded into; the one that SQLite reads in them included.

Knows the compiler and `clock.c`. Must not know the programs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def shim_in(folder: Path) -> Path | None:
    """The library, made in `folder`; None where there is no compiler or the system is not Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def set_wrong(shim: Path, offset: Path, seconds: float) -> dict[str, str]:
    """Variables for programs whose clock is wrong by as many seconds as the file `offset` says, which is written; written
    again, it sets their clocks while they run."""
    with offset.open("r+b" if offset.exists() else "wb") as file:
        file.write(int(seconds).to_bytes(8, "little", signed=True))
    return {"LD_PRELOAD": str(shim), "FAULTS_CLOCK": str(offset)}
