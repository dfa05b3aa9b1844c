"""One running system for the tests that only use it; tests that hurt it start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .stack import PATIENCE, Stack, started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test here may take as long as its waits do."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(PATIENCE + 100))


@pytest.fixture(scope="session")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory below which the running system looks for models; tests write theirs into it."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, models_root: Path) -> Iterator[Stack]:
    """A running `corpusmill up` with SQLite and the embedded broker, whose shards are small enough to be several."""
    settings = {"sweep_seconds": "1", "shard_documents": "32", "models_root": str(models_root)}
    with started(tmp_path_factory.mktemp("stack"), **settings) as running:
        yield running
