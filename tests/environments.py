"""Environments of their own, for packages that cannot share ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def environment(folder: Path, *packages: str, timeout: float = 1_500) -> Path:
    """The Python of a new environment with these packages; the test is skipped, saying why, where they cannot be had."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)
    python = folder / "bin" / "python"
    if not packages:
        return python
    install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q", *packages]
    try:
        done = subprocess.run(install, check=False, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{', '.join(packages)}: not installed within {timeout:.0f} s")
    if done.returncode:
        pytest.skip(f"{', '.join(packages)} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return python
