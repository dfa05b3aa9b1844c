"""Outputs used again: what a job with reuse gives, keeps and counts, on both databases."""

from __future__ import annotations

import shutil
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import worker.reuse
from corpora import store_items
from corpusmill.documents import Document, Result, failed
from corpusmill.errors import DocumentError, LeaseLost
from corpusmill.models import ModelInfo
from corpusmill.settings import settings_from
from corpusmill.shards import Slice
from corpusmill.tasks import PARAMS, Params, Task
from corpusmill.texts import text_hash
from db import corpora, job_moves, jobs, losses, metrics, reuse, shards, turns
from db.engine import Connection, Engine, reading, transact
from db.reuse import Keeping, Output, Scope
from db.workers import Description
from worker.engines.base import Usage
from worker.heartbeat import Heartbeat
from worker.reuse import scope_of
from worker.runner import Runner
from worker.serving import serve

ROOT = Path(__file__).parents[2]
MODEL = ModelInfo(id="echo", revision="1", family="echo", tasks=tuple(Task))
SCOPE = Scope(hash="a" * 64, description={"model": "echo", "task": "classification", "revision": "1", "runtime": {}})


class Counted:
    """Answers from the text alone, fails on texts that begin with `bad`, and remembers what went through it."""

    def __init__(self, *, version: str = "1") -> None:
        self.weight_bytes = 0
        self.runtime: dict[str, Any] = {"engine": "counted", "version": version}
        self.seen: list[str] = []
        self.bad = True

    def runtime_for(self, params: Params) -> dict[str, Any]:
        return self.runtime

    def prepare(self, documents: Sequence[Document], params: Params, usage: Usage) -> Sequence[Document]:
        return documents

    def run(
        self, prepared: Sequence[Document], usage: Usage, stopped: Callable[[], bool]
    ) -> Iterator[list[Result]]:  # fmt: skip
        with usage.phase("model"):
            for document in prepared:
                self.seen.append(document.text)
        yield [self._answer(document) for document in prepared]

    def _answer(self, document: Document) -> Result:
        if document.text.startswith("bad") and self.bad:
            return failed(document, DocumentError(code="internal", message="It is bad.", retryable=True))
        number = zlib.crc32((document.text + (document.text_pair or "")).encode())
        score = 0.5 + (number % 1000) / 2_000.1
        label = str(number % 3)
        scores = {label: score, f"z{label}": 1e-7 * score, f"a{label}": (1 - score) / 3}
        return Result(
            position=document.position, document_id=document.id,
            output={"label": label, "score": score, "scores": scores, "summary": document.text},
            n_tokens=number % 17, n_segments=1 + number % 2,
            truncated=bool(number % 5 == 0),
        )  # fmt: skip


class Models:
    def __init__(self, engine: Counted) -> None:
        self._engine = engine

    def get(self, info: ModelInfo, task: Task, params: Params) -> Any:
        return self._engine

    def has(self, info: ModelInfo, task: Task, params: Params) -> bool:
        return True

    def loaded(self) -> frozenset[tuple[str, str]]:
        return frozenset({(MODEL.id, MODEL.revision)})


class House:
    """A database with corpora and jobs, and a worker that runs what waits."""

    def __init__(self, database: Engine, folder: Path) -> None:
        self.database = database
        self.folder = folder

    def job(
        self, texts: Iterable[str | tuple[str, str]], *, reuse: bool = True, size: int = 4, params: Any = None,
        revision: str = "1", task: Task = Task.CLASSIFICATION,
    ) -> str:  # fmt: skip
        number = sum(1 for _ in self.folder.glob("corpora/*"))
        corpus_id = f"corpus_{number}"
        pairs = [(each, None) if isinstance(each, str) else each for each in texts]
        store_items(
            (
                Document(position=place, id=f"d{place}", text=text, text_pair=pair, reference=str(place % 3))
                for place, (text, pair) in enumerate(pairs)
            ),
            corpora.store_directory(self.folder, corpus_id),
        )

        def make(connection: Connection) -> None:
            corpora.create(
                connection, id=corpus_id, name=None, format="jsonl", encoding=None, bytes=1, sha256="0" * 64, options={}
            )
            corpora.claim(connection, corpus_id, owner="me", lease=30)
            corpora.finish(
                connection,
                corpus_id,
                owner="me",
                status="ready",
                documents=len(pairs),
                invalid=0,
                fields=[],
                error=None,
            )
            jobs.create(
                connection, id=f"job_{number}", name=None, task=task, model=replace(MODEL, revision=revision),
                corpus=corpora.get(connection, corpus_id), params=PARAMS[task](**(params or {})).model_dump(mode="json"),
                priority=0, metadata={}, reuse=reuse,
                slices=[Slice(start, min(start + size, len(pairs))) for start in range(0, len(pairs), size)],
            )  # fmt: skip

        transact(self.database, make)
        return f"job_{number}"

    def run(self, engine: Counted) -> list[str]:
        """Run what waits; the texts that went through the model."""
        engine.seen.clear()
        serve(self.runner(engine))
        return list(engine.seen)

    def runner(self, engine: Counted) -> Runner:
        heartbeat = Heartbeat(
            engine=self.database, worker_id="worker", lease=60.0, drain_flag=None,
            describe=lambda: Description(hostname="here", device="cpu", models=[]),
        )  # fmt: skip
        settings = settings_from({}, data_dir=self.folder, lease_seconds=60.0)
        return Runner(database=self.database, settings=settings, models=Models(engine), heartbeat=heartbeat)

    def the(self, job_id: str) -> jobs.Job:
        with reading(self.database) as connection:
            return jobs.get(connection, job_id)

    def rows(self, job_id: str) -> list[dict[str, Any]]:
        with reading(self.database) as connection:
            job = jobs.get(connection, job_id)
            query = connection.exec_driver_sql(f"SELECT * FROM results WHERE job_key = {job.key} ORDER BY position")
            return [{name: row[name] for name in row if name != "job_key"} for row in query.mappings()]

    def figures(self, job_id: str) -> list[Any]:
        with reading(self.database) as connection:
            report = metrics.stored(connection, jobs.get(connection, job_id))
        kept = [
            metric for metric in report.metrics if "second" not in metric.name and metric.name != "device_busy_share"
        ]
        return [*kept, report.confusion_matrix]

    def kept(self) -> int:
        with reading(self.database) as connection:
            return sum(row.outputs for row in reuse.scopes(connection))


@pytest.fixture
def house(database: Engine, tmp_path: Path) -> House:
    return House(database, tmp_path)


def test_a_second_job_runs_only_the_texts_that_are_new(house: House) -> None:
    engine, texts = Counted(), [f"text {number}" for number in range(10)]
    first = house.job(texts)
    assert sorted(house.run(engine)) == sorted(texts)
    second = house.job(["a new one", *texts])
    assert house.run(engine) == ["a new one"]
    assert (house.the(first).reused, house.the(second).reused) == (0, 10)
    assert house.the(second).counts == replace(house.the(first).counts, total=11, succeeded=11)  # type: ignore[type-var]
    assert house.the(second).status == "completed"


def test_results_counts_and_metrics_are_those_of_a_job_without_reuse(house: House) -> None:
    engine, texts = Counted(), [*(f"text {number}" for number in range(30)), "bad one", "", "text 3", "text 3"]
    house.job(texts[5:25])
    house.run(engine)
    plain, reused = house.job(texts, reuse=False), house.job(texts)
    house.run(engine)
    assert house.rows(reused) == house.rows(plain)
    assert house.the(reused).counts == house.the(plain).counts
    assert house.figures(reused) == house.figures(plain)
    assert (house.the(reused).reused, house.the(plain).reused) == (22, 0)


def test_a_job_without_reuse_neither_takes_nor_leaves_outputs(house: House) -> None:
    engine = Counted()
    house.job(["a", "b"], reuse=False)
    house.run(engine)
    assert house.kept() == 0
    house.job(["a", "b"])
    assert sorted(house.run(engine)) == ["a", "b"]
    house.job(["a", "b"], reuse=False)
    assert sorted(house.run(engine)) == ["a", "b"]


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


def test_failed_results_are_never_used_again_and_retried_ones_are(house: House) -> None:
    engine = Counted()
    first = house.job(["bad a", "good", "other", "more", "bad b"])
    house.run(engine)
    again = house.job(["bad a", "good"])
    assert house.run(engine) == ["bad a"]
    engine.bad = False
    transact(house.database, lambda connection: job_moves.retry(connection, first))
    assert sorted(house.run(engine)) == ["bad a", "bad b"]
    assert house.the(first).reused == 0
    transact(house.database, lambda connection: job_moves.retry(connection, again))
    assert house.run(engine) == []
    assert (house.the(again).reused, house.the(again).counts.succeeded) == (2, 2)  # type: ignore[union-attr]
    assert house.the(again).status == "completed"


def test_documents_kept_of_a_reopened_shard_are_not_counted_twice(house: House) -> None:
    engine = Counted()
    house.job(["a", "b"])
    house.run(engine)
    job_id = house.job(["a", "bad", "b", "c"])
    house.run(engine)
    assert house.the(job_id).reused == 2
    engine.bad = False
    transact(house.database, lambda connection: job_moves.retry(connection, job_id))
    assert house.the(job_id).reused == 2
    assert house.run(engine) == ["bad"]
    assert house.the(job_id).reused == 2
    plain = house.job(["a", "bad", "b", "c"], reuse=False)
    house.run(engine)
    assert house.rows(job_id) == house.rows(plain)
    assert house.figures(job_id) == house.figures(plain)


def test_a_halved_shard_reuses_in_each_half(house: House) -> None:
    engine = Counted()
    house.job(["a", "b", "c"])
    house.run(engine)
    job_id = house.job(["a", "new", "b", "c"])
    with house.database.begin() as connection:
        connection.exec_driver_sql("UPDATE shards SET losses = 1, attempt = 1 WHERE state = 'pending'")
    claim = transact(house.database, lambda connection: turns.claim_next(connection, owner="dead", lease=0.001))
    assert claim is not None
    while (
        transact(house.database, lambda connection: losses.expire(connection, owner="sweep", lease=30))
        == losses.Expired()
    ):
        pass
    with house.database.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM shards WHERE state = 'pending'").scalar() == 2
        connection.exec_driver_sql("UPDATE shards SET not_before = 0")
    assert house.run(engine) == ["new"]
    assert house.the(job_id).reused == 3
    assert house.the(job_id).status == "completed"


def test_outputs_survive_the_job_and_the_corpus_that_they_came_from(house: House) -> None:
    engine = Counted()
    first = house.job(["a", "b"])
    house.run(engine)
    transact(house.database, lambda connection: jobs.remove(connection, first))
    house.job(["b"])
    assert house.run(engine) == []


def test_a_worker_that_lost_its_lease_leaves_no_output(database: Engine, house: House) -> None:
    house.job(["a", "b"])
    late = transact(database, lambda connection: turns.claim_next(connection, owner="late", lease=60))
    assert late is not None
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE shards SET attempt = attempt + 1, owner = 'other'")
    keeping = Keeping(scope=SCOPE, outputs={text_hash("a"): output("1")})
    with pytest.raises(LeaseLost):
        transact(
            database,
            lambda connection: shards.finish(connection, late, rows=[], usage={}, partial={}, keeping=keeping),
        )
    assert house.kept() == 0


def output(label: str) -> Output:
    return Output(output={"label": label, "score": 0.1}, n_tokens=1, n_segments=1, truncated=False)


def test_two_workers_may_keep_the_same_texts_at_once(database: Engine, house: House) -> None:
    """Whatever order they have them in, neither waits for the other for ever, and the first one's outputs stay."""
    hashes = [text_hash(str(number)) for number in range(400)]
    start, errors = threading.Barrier(4), []

    def work(order: int) -> None:
        mine = sorted(hashes, reverse=bool(order % 2))
        start.wait()
        try:
            for some in (mine[:200], mine[100:300], mine[200:]):
                keeping = Keeping(scope=SCOPE, outputs={each: output(str(order)) for each in some}, used=mine[:50])
                transact(database, lambda connection, keeping=keeping: reuse.keep(connection, keeping))  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001 — it is the test's to show
            errors.append(error)

    threads = [threading.Thread(target=work, args=(order,)) for order in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert house.kept() == len(hashes)
    with reading(database) as connection:
        before = reuse.find(connection, SCOPE, hashes)
    assert set(before) == set(hashes)
    keeping = Keeping(scope=SCOPE, outputs=dict.fromkeys(hashes, output("late")))
    transact(database, lambda connection: reuse.keep(connection, keeping))
    with reading(database) as connection:
        after = reuse.find(connection, SCOPE, hashes)
    assert {key: value.output for key, value in after.items()} == {key: value.output for key, value in before.items()}


def test_an_output_comes_back_word_for_word(database: Engine) -> None:
    odd = {"summary": "NUL \0, “quotes”, \U0001f600 and \\u0000", "scores": {"z": 0.1 + 0.2, "a": 1e-300, "10": 1.0}}
    keeping = Keeping(scope=SCOPE, outputs={b"x" * 16: Output(output=odd, n_tokens=3, n_segments=2, truncated=True)})
    transact(database, lambda connection: reuse.keep(connection, keeping))
    with reading(database) as connection:
        (found,) = reuse.find(connection, SCOPE, [b"x" * 16, b"y" * 16]).values()
    assert found.output == odd
    assert list(found.output["scores"]) == ["z", "a", "10"]
    assert (found.n_tokens, found.n_segments, found.truncated) == (3, 2, True)


def test_what_no_job_used_for_its_time_is_forgotten_and_what_was_used_stays(database: Engine, house: House) -> None:
    hashes = [text_hash(str(number)) for number in range(600)]
    keeping = Keeping(scope=SCOPE, outputs=dict.fromkeys(hashes, output("1")))
    transact(database, lambda connection: reuse.keep(connection, keeping))
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE reused_outputs SET used_at = used_at - 1000")
    transact(database, lambda connection: reuse.keep(connection, Keeping(scope=SCOPE, used=hashes[:100])))
    gone = sum(
        transact(database, lambda connection, part=part: reuse.forget_unused(connection, seconds=500, part=part))  # type: ignore[misc]
        for part in range(reuse.SLICES)
    )
    assert gone == 500
    with reading(database) as connection:
        assert set(reuse.find(connection, SCOPE, hashes)) == set(hashes[:100])


def test_a_use_is_noted_once_the_last_note_is_old(house: House) -> None:
    engine = Counted()
    house.job(["a"])
    house.run(engine)
    ages = []
    for shift in (86_400, 30 * 86_400):
        with house.database.begin() as connection:
            connection.exec_driver_sql(f"UPDATE reused_outputs SET used_at = used_at - {shift}")
        house.job(["a"])
        assert house.run(engine) == []
        with house.database.begin() as connection:
            age = connection.exec_driver_sql("SELECT used_at FROM reused_outputs").scalar()
        ages.append(transact(house.database, lambda connection, age=age: _now(connection) - age))  # type: ignore[misc]
    assert ages[0] >= 86_400
    assert ages[1] < 3_600


def _now(connection: Connection) -> float:
    from sqlalchemy import select

    from db.engine import db_now

    return float(connection.execute(select(db_now())).scalar_one())


def test_all_of_a_text_is_forgotten_in_every_scope(database: Engine, house: House) -> None:
    other = replace(SCOPE, hash="b" * 64)
    for scope in (SCOPE, other):
        keeping = Keeping(scope=scope, outputs=dict.fromkeys([b"a" * 16, b"b" * 16], output("1")))
        transact(database, lambda connection, keeping=keeping: reuse.keep(connection, keeping))  # type: ignore[misc]
    assert transact(database, lambda connection: reuse.forget_texts(connection, [b"a" * 16, b"c" * 16])) == 2
    assert house.kept() == 2
    for part in range(reuse.SLICES):
        for key in (1, 2):
            transact(database, lambda connection: reuse.forget_scope(connection, key, part=part))  # noqa: B023
    transact(database, reuse.forget_empty_scopes)
    with reading(database) as connection:
        assert reuse.scopes(connection) == []


def test_a_scope_says_in_words_what_it_is_made_of(house: House) -> None:
    job = house.the(house.job(["a"]))
    scope = scope_of(job, PARAMS[job.task](), Counted())
    assert scope is not None
    assert set(scope.description) == {"task", "model", "revision", "params", "runtime", "libraries", "corpusmill"}
    assert "numpy" in scope.description["libraries"]
    assert scope_of(job, PARAMS[job.task](), Counted()) == scope
