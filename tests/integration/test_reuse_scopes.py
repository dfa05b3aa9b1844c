"""Scopes of outputs that are used again: whatever has a part in an output makes another one, and nothing else does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import worker.reuse
from corpusmill.documents import Result
from corpusmill.tasks import PARAMS, Task
from corpusmill.texts import text_hash
from db import jobs
from db.engine import reading
from tests.integration.reuse_house import Counted, House
from worker.reuse import scope_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "other",
    [{"revision": "2"}, {"params": {"top_k": 2}}, {"task": Task.SUMMARIZATION}, {"params": {"dtype": "float32"}}],
)
def test_whatever_shapes_an_output_makes_another_scope(house: House, other: dict[str, Any]) -> None:
    engine = Counted()
    house.job(["a", "b"])
    house.run(engine)
    house.job(["a", "b"], **other)
    assert sorted(house.run(engine)) == ["a", "b"]


def test_an_engine_that_runs_another_way_makes_another_scope(house: House) -> None:
    house.job(["a", "b"])
    house.run(Counted())
    house.job(["a", "b"])
    assert sorted(house.run(Counted(version="2"))) == ["a", "b"]


@pytest.fixture
def begin_anew() -> Iterator[Callable[[], None]]:
    """Be a process that has just begun: it has asked nobody yet for versions and code."""

    def forget() -> None:
        worker.reuse._versions.cache_clear()
        worker.reuse._code.cache_clear()

    yield forget
    forget()


def test_another_version_of_a_library_makes_another_scope(
    house: House, begin_anew: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.job(["a", "b"])
    house.run(Counted())
    installed = tmp_path / "libraries" / "regex-9999.1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: regex\nVersion: 9999.1\n")
    monkeypatch.syspath_prepend(installed.parent)
    begin_anew()
    for ran in (["a", "b"], []):
        house.job(["a", "b"])
        assert sorted(house.run(Counted())) == ran


@pytest.mark.parametrize(
    ("file", "counts"), [("worker/segments.py", True), ("corpusmill/texts.py", True), ("worker/heartbeat.py", False)]
)
def test_other_code_makes_another_scope_where_it_has_a_part_in_an_output(
    house: House,
    begin_anew: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    counts: bool,
) -> None:
    house.job(["a", "b"])
    house.run(Counted())
    code = tmp_path / "code"
    for room in ("catalog", "corpusmill", "worker"):
        shutil.copytree(ROOT / room, code / room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(worker.reuse, "__file__", str(code / "worker" / "reuse.py"))
    begin_anew()
    house.job(["a", "b"])
    assert house.run(Counted()) == [], "the same code in another place"
    with (code / file).open("a") as changed:
        changed.write("# another line\n")
    begin_anew()
    house.job(["a", "b"])
    assert sorted(house.run(Counted())) == (["a", "b"] if counts else [])


def test_a_second_text_is_a_part_of_the_text(house: House) -> None:
    engine = Counted()
    house.job([("a", "b"), "ab", ("ab", "")])
    house.run(engine)
    house.job([("a", "c"), ("a", "b"), ("", "ab")])
    assert len(house.run(engine)) == 2
    assert len({text_hash("a", "b"), text_hash("ab"), text_hash("ab", ""), text_hash("", "ab"), text_hash("a\1b")}) == 5


def test_another_seed_makes_another_scope(house: House) -> None:
    engine = Counted()
    for params in ({}, {"seed": 3}):
        for ran in (2, 0):
            house.job(["a", "b"], task=Task.SUMMARIZATION, params=params)
            assert len(house.run(engine)) == ran


def test_a_job_that_runs_nothing_says_what_shaped_the_outputs_that_it_uses_and_not_what_ran_last(house: House) -> None:
    engine = Counted()
    house.job(["a", "b"])
    house.run(engine)
    engine.runtime["agreement"] = {"labels": 0.5}  # of another job that went through the same engine meanwhile
    job_id = house.job(["a", "b"])
    assert house.run(engine) == []
    with reading(house.database) as connection:
        assert jobs.get(connection, job_id).runtime == {"engine": "counted", "version": "1"}


def test_an_engine_that_goes_another_way_in_the_middle_leaves_nothing(house: House) -> None:
    class Falling(Counted):
        def run(self, *given: Any) -> Iterator[list[Result]]:
            yield from super().run(*given)
            self.runtime = {"engine": "another"}

    house.job(["a", "b"])
    house.run(Falling())
    assert house.kept() == 0
    falling = Falling()
    falling.runtime = {"engine": "another"}
    house.job(["a", "b"])
    house.run(falling)
    assert house.kept() == 2


def test_a_scope_says_in_words_what_it_is_made_of(house: House) -> None:
    job = house.the(house.job(["a"]))
    scope = scope_of(job, PARAMS[job.task](), Counted())
    assert scope is not None
    assert set(scope.description) == {"task", "model", "revision", "params", "runtime", "libraries", "corpusmill"}
    assert "numpy" in scope.description["libraries"]
    assert scope_of(job, PARAMS[job.task](), Counted()) == scope
