"""What all tests share: nothing from the machine's own settings, and `--resume` for runs that were cut."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.databases import postgresql_server

__all__ = ["postgresql_server"]
_PASSED = "corpusmill/passed"
_resumed: pytest.StashKey[set[str]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--resume", action="store_true", help="leave out the tests that passed since the code last changed"
    )


def pytest_configure(config: pytest.Config) -> None:
    # A developer's own settings must not decide what the tests see; Hub look-ups must not leave the machine.
    for name in [name for name in os.environ if name.startswith("CORPUSMILL_")]:
        del os.environ[name]
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if config.getoption("--resume") and config.cache is not None:
        passed: set[str] = set(config.cache.get(_PASSED, {}).get(_fingerprint(), []))
        config.stash[_resumed] = passed


def _fingerprint() -> str:
    """Changes when any Python file of the project does."""
    root = Path(__file__).parents[1]
    files = sorted(path for path in root.rglob("*.py") if ".venv" not in path.parts)
    return json.dumps([max(path.stat().st_mtime_ns for path in files), len(files)])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    passed = config.stash.get(_resumed, set())
    done = [item for item in items if item.nodeid in passed]
    if done:
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item.nodeid not in passed]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    config = item.config
    if report.when == "call" and report.passed and config.getoption("--resume") and config.cache is not None:
        passed = config.stash[_resumed]
        passed.add(item.nodeid)
        config.cache.set(_PASSED, {_fingerprint(): sorted(passed)})
    return report
