"""One running system for the tests that only use it; tests that hurt it start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .stack import Stack, started


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running `corpusmill up` with SQLite and the embedded broker."""
    with started(tmp_path_factory.mktemp("stack"), sweep_seconds="1") as running:
        yield running
