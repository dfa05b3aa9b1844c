"""What a worker runs beside what: streamed shards follow without a gap, and a shard that was lost before runs alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from corpusmill.documents import Document, Result
from corpusmill.errors import DatabaseUnavailable, ModelFault
from corpusmill.models import ModelInfo
from corpusmill.settings import settings_from
from corpusmill.shards import Slice
from corpusmill.tasks import Params, Task
from db import corpora, jobs, losses, results, turns
from db.engine import Engine, create_engine, migrate, reading, transact
from db.results import Selection
from db.workers import Description
from tests.integration.programs import sweep
from tests.integration.steps import loses_commits, put
from worker.engines.base import More, Step, Usage, Work
from worker.heartbeat import Heartbeat
from worker.runner import Runner
from worker.serving import serve

ECHO = ModelInfo(id="echo", revision="1", family="echo", tasks=tuple(Task))
DOCUMENTS = 12
SHARD = 3


class Recorder:
    """An engine that answers every document by its id and notes which shards run, and which wait, side by side."""

    weight_bytes = 0

    def __init__(self, database: Engine) -> None:
        self.runtime: dict[str, Any] = {"engine": "recorder"}
        self.database = database
        self.beside: dict[int, int] = {}

    def prepare(self, documents: Sequence[Document], params: Params, usage: Usage) -> list[Document]:
        return list(documents)

    def run(
        self, prepared: list[Document], usage: Usage, stopped: Callable[[], bool]
    ) -> Iterator[list[Result]]:  # fmt: skip
        yield [self.answer(document) for document in prepared]

    def answer(self, document: Document) -> Result:
        with reading(self.database) as connection:
            running = connection.exec_driver_sql("SELECT count(*) FROM shards WHERE state = 'running'").scalar_one()
        self.beside[document.position] = int(running)
        return Result(position=document.position, document_id=document.id, output={"label": document.id, "score": 1.0})


class Streamer(Recorder):
    """The same, which begins the next shard before it ends the last one."""

    together: int = 0

    def stream(self, first: Work[list[Document]], more: More[list[Document]]) -> Iterator[Step[list[Document]]]:
        waiting: list[Work[list[Document]]] = [first]
        while waiting:
            until = time.monotonic() + 0.3  # a next shard takes a moment to be read
            while len(waiting) < 2 and time.monotonic() < until:
                waiting += filter(None, [more()])
            self.together = max(self.together, len(waiting))
            work = waiting.pop(0)
            yield Step(work, [self.answer(document) for document in work.prepared], ended=False)
            yield Step(work, [], ended=True)


class Broken(Streamer):
    """Raises when two shards are in it."""

    error: Exception | None = ModelFault("it cannot go on")

    def stream(self, first: Work[list[Document]], more: More[list[Document]]) -> Iterator[Step[list[Document]]]:
        until = time.monotonic() + 5.0
        while more() is None and time.monotonic() < until:
            time.sleep(0.01)
        if self.error is not None:
            raise self.error
        yield Step(first, [], ended=True)


class Models:
    def __init__(self, engine: Recorder, *forms: str) -> None:
        self.engine = engine
        self.forms = {"auto", *forms}

    def get(self, info: ModelInfo, task: Task, params: Params) -> Recorder:
        self.forms.add(params.dtype)
        return self.engine

    def has(self, info: ModelInfo, task: Task, params: Params) -> bool:
        return params.dtype in self.forms

    def loaded(self) -> frozenset[tuple[str, str]]:
        return frozenset({(ECHO.id, ECHO.revision)})


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path / 'test.sqlite3'}"
    migrate(url)
    engine = create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def job(database: Engine, tmp_path: Path) -> jobs.Job:
    """A job of four shards of three documents, over a stored corpus."""
    put(tmp_path, "corpus_a", (Document(position=place, id=f"d{place}", text="text") for place in range(DOCUMENTS)))

    def make(connection: Any) -> None:
        corpora.create(
            connection, id="corpus_a", name=None, format="jsonl", encoding=None, bytes=1, sha256="0" * 64, options={}
        )
        corpora.claim(connection, "corpus_a", owner="me", lease=30)
        corpora.finish(
            connection, "corpus_a", owner="me", status="ready", documents=DOCUMENTS, invalid=0, fields=[], error=None
        )
        jobs.create(
            connection, id="job_a", name=None, task=Task.CLASSIFICATION, model=ECHO,
            corpus=corpora.get(connection, "corpus_a"), params={}, priority=0, metadata={},
            slices=[Slice(start, start + SHARD) for start in range(0, DOCUMENTS, SHARD)],
        )  # fmt: skip

    transact(database, make)
    with reading(database) as connection:
        return jobs.get(connection, "job_a")


def runner(database: Engine, folder: Path, engine: Recorder, **more: Any) -> Runner:
    """A runner whose heartbeat renews nothing: its leases are long enough."""
    heartbeat = Heartbeat(
        engine=database, worker_id="worker", lease=60.0, drain_flag=None,
        describe=lambda: Description(hostname="here", device="cpu", models=[]),
    )  # fmt: skip
    settings = settings_from({}, data_dir=folder, lease_seconds=60.0)
    return Runner(database=database, settings=settings, models=Models(engine), heartbeat=heartbeat, **more)


def test_no_form_of_a_model_is_loaded_ahead_and_the_job_keeps_its_turn(
    database: Engine, job: jobs.Job, tmp_path: Path
) -> None:
    """Beside a shard that may be what the process dies of, the load would be charged for it."""
    with database.begin() as connection:
        connection.exec_driver_sql("""UPDATE jobs SET params = '{"dtype": "float16"}'""")
    found = runner(database, tmp_path, Recorder(database))
    assert found.take(ahead=True) is None
    with reading(database) as connection:
        row = connection.exec_driver_sql("SELECT state, owner FROM shards ORDER BY start").first()
        assert tuple(row or ()) == ("pending", None)
        assert connection.exec_driver_sql("SELECT claimed_at FROM jobs").scalar_one() is None
    assert found.take(ahead=False) is not None
    assert found.take(ahead=True) is not None


def test_a_job_whose_model_killed_an_earlier_process_is_left_to_those_that_run_it(
    database: Engine, job: jobs.Job, tmp_path: Path
) -> None:
    assert runner(database, tmp_path, Recorder(database), too_large={job.key}).take(ahead=False) is None
    assert runner(database, tmp_path, Recorder(database)).take(ahead=False) is not None


def test_a_claim_whose_answer_was_lost_leaves_no_shard_in_nobodys_hands(
    database: Engine, job: jobs.Job, tmp_path: Path
) -> None:
    lose_commit = loses_commits(database)
    found = runner(database, tmp_path, Recorder(database))
    first = found.take(ahead=False)
    lose_commit()
    second = found.take(ahead=True)
    assert first is not None
    assert second is not None
    assert running(database) == sorted(one.held.claim.key for one in (first, second))


def test_a_claim_whose_answer_never_came_is_given_back_with_the_rest(
    database: Engine, job: jobs.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_commit = loses_commits(database)
    found = runner(database, tmp_path, Recorder(database))
    with monkeypatch.context() as impatient:
        impatient.setattr("worker.runner.transact", partial(transact, patience=0.0))
        lose_commit()
        with pytest.raises(DatabaseUnavailable):
            found.take(ahead=False)
    assert len(running(database)) == 1
    found.let_go()
    assert running(database) == []
    with reading(database) as connection:
        assert connection.exec_driver_sql("SELECT sum(losses) FROM shards").scalar_one() == 0


def test_a_claim_whose_answer_was_lost_takes_no_loss_from_what_was_surrendered_before(
    database: Engine, job: jobs.Job, tmp_path: Path
) -> None:
    lose_commit = loses_commits(database)
    found = runner(database, tmp_path, Recorder(database))
    first = found.take(ahead=False)
    assert first is not None
    found.surrender(first.held, RuntimeError("nobody foresaw it"))
    lose_commit()
    second = found.take(ahead=False)
    assert second is not None
    assert running(database) == sorted(one.held.claim.key for one in (first, second))
    transact(database, lambda connection: losses.expire(connection, owner="sweep", lease=30))
    with reading(database) as connection:
        assert connection.exec_driver_sql("SELECT sum(losses) FROM shards").scalar_one() == 1


def running(database: Engine) -> list[int]:
    """The keys of the shards that somebody holds."""
    with reading(database) as connection:
        return list(connection.exec_driver_sql("SELECT key FROM shards WHERE state = 'running' ORDER BY key").scalars())


def labels(database: Engine, job: jobs.Job) -> dict[int, str]:
    with reading(database) as connection:
        return {row.position: (row.output or {})["label"] for row in results.read(connection, job.key, Selection())}


def losses_of(database: Engine) -> list[int]:
    with reading(database) as connection:
        return list(connection.exec_driver_sql("SELECT losses FROM shards ORDER BY start").scalars())


@pytest.mark.parametrize("kind", [Recorder, Streamer])
def test_every_document_of_every_shard_is_saved_once(
    database: Engine, job: jobs.Job, tmp_path: Path, kind: type[Recorder]
) -> None:
    engine = kind(database)
    assert serve(runner(database, tmp_path, engine)) == DOCUMENTS // SHARD
    assert labels(database, job) == {place: f"d{place}" for place in range(DOCUMENTS)}
    with reading(database) as connection:
        assert jobs.get(connection, "job_a").status == "completed"
    assert getattr(engine, "together", 2) == 2


@pytest.mark.parametrize("kind", [Recorder, Streamer])
def test_a_shard_that_was_lost_before_runs_with_none_beside_it(
    database: Engine, job: jobs.Job, tmp_path: Path, kind: type[Recorder]
) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE shards SET losses = 1 WHERE start IN (3, 6)")
    engine = kind(database)
    serve(runner(database, tmp_path, engine))
    assert labels(database, job) == {place: f"d{place}" for place in range(DOCUMENTS)}
    # while they are answered, the database knows of no other shard in this worker's hands
    assert [engine.beside[place] for place in range(3, 9)] == [1] * 6


@pytest.mark.parametrize("kind", [Recorder, Streamer])
def test_a_shard_that_is_lost_meanwhile_waits_for_no_more_than_what_the_worker_has_in_hand(
    database: Engine, job: jobs.Job, tmp_path: Path, kind: type[Recorder]
) -> None:
    class Losing(kind):  # type: ignore[valid-type, misc]
        """The last shard comes back from a worker that was lost, when this one has the first shard in hand."""

        def prepare(self, documents: Sequence[Document], params: Params, usage: Usage) -> list[Document]:
            if documents[0].position == 0:
                with database.begin() as connection:
                    connection.exec_driver_sql("UPDATE shards SET losses = 1 WHERE start = 9")
            return list(documents)

    engine = Losing(database)
    serve(runner(database, tmp_path, engine))
    assert list(engine.beside) == [0, 1, 2, 9, 10, 11, 3, 4, 5, 6, 7, 8]
    assert [engine.beside[place] for place in range(9, 12)] == [1] * 3
    assert labels(database, job) == {place: f"d{place}" for place in range(DOCUMENTS)}


def test_a_worker_that_found_nothing_to_read_ahead_looks_again_while_it_streams(
    database: Engine, job: jobs.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.serving.LOOK_AGAIN_SECONDS", 0.05)
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE shards SET state = 'done' WHERE start > 0")

    class Waiting(Streamer):
        """The other shards come back when the first one has run alone for a while."""

        def stream(self, first: Work[list[Document]], more: More[list[Document]]) -> Iterator[Step[list[Document]]]:
            until = time.monotonic() + 0.3
            while time.monotonic() < until:
                assert more() is None
            with database.begin() as connection:
                connection.exec_driver_sql("UPDATE shards SET state = 'pending' WHERE start > 0")
            yield from super().stream(first, more)

    engine = Waiting(database)
    serve(runner(database, tmp_path, engine))
    assert engine.together == 2


@pytest.mark.parametrize("kind", [Recorder, Streamer])
def test_a_job_that_comes_late_waits_for_no_more_than_the_shard_in_progress(
    database: Engine, job: jobs.Job, tmp_path: Path, kind: type[Recorder]
) -> None:
    def submit() -> None:
        def make(connection: Any) -> None:
            jobs.create(
                connection, id="job_small", name=None, task=Task.CLASSIFICATION, model=ECHO,
                corpus=corpora.get(connection, "corpus_a"), params={}, priority=0, metadata={}, slices=[Slice(0, 1)],
            )  # fmt: skip

        transact(database, make)

    class Late(kind):  # type: ignore[valid-type, misc]
        """Another job comes while the first shard runs and the second one is read ahead."""

        order: list[int] = []  # noqa: RUF012

        def answer(self, document: Document) -> Result:
            self.order.append(document.position)
            if len(self.order) == 1:
                time.sleep(0.3)
                submit()
            answered: Result = super().answer(document)
            return answered

    engine = Late(database)
    serve(runner(database, tmp_path, engine))
    # of the streamed shards the next one may have begun
    assert engine.order.index(0, 1) in {SHARD, 2 * SHARD}
    assert len(labels(database, job)) == DOCUMENTS


def test_a_shard_read_ahead_is_run_though_nobody_can_say_whether_it_should_give_way(
    database: Engine, job: jobs.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> bool:
        raise DatabaseUnavailable("for longer than anybody waits")

    monkeypatch.setattr(turns, "gives_way", away)
    engine = Recorder(database)
    assert serve(runner(database, tmp_path, engine)) == DOCUMENTS // SHARD
    assert len(labels(database, job)) == DOCUMENTS


def test_a_model_that_cannot_go_on_fails_the_job_with_all_that_is_in_it(
    database: Engine, job: jobs.Job, tmp_path: Path
) -> None:
    serve(runner(database, tmp_path, Broken(database)))
    with reading(database) as connection:
        found = jobs.get(connection, "job_a")
    assert (found.status, (found.error or {})["message"]) == ("failed", "it cannot go on")


def test_what_nobody_foresaw_charges_a_loss_to_each_shard_that_was_in_the_model(
    database: Engine, job: jobs.Job, tmp_path: Path
) -> None:
    engine = Broken(database)
    engine.error = RuntimeError("out of order")
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE shards SET state = 'done' WHERE start >= 6")
    serve(runner(database, tmp_path, engine))
    transact(database, lambda connection: losses.expire(connection, owner="sweeper", lease=30.0))
    assert losses_of(database) == [1, 1, 0, 0]


def test_a_document_that_has_its_result_is_not_blamed_for_the_worker_that_was_lost_with_it(
    database: Engine, job: jobs.Job, tmp_path: Path
) -> None:
    serve(runner(database, tmp_path, Recorder(database)))
    with database.begin() as connection:  # as a retry opens it, and two losses of its other documents halve it
        connection.exec_driver_sql(
            "UPDATE shards SET stop = 1, state = 'running', losses = 9, lease_until = 0, succeeded = 1 WHERE start = 0"
        )
        connection.exec_driver_sql("UPDATE jobs SET outcome = NULL, summary = NULL")
    sweep(database, tmp_path)
    assert labels(database, job) == {place: f"d{place}" for place in range(DOCUMENTS)}
    with reading(database) as connection:
        state = connection.exec_driver_sql("SELECT state, succeeded, failed FROM shards WHERE start = 0").one()
    assert tuple(state) == ("done", 1, 0)


def test_the_database_says_that_a_model_is_loaded_for_as_long_as_it_is(
    database: Engine, job: jobs.Job, tmp_path: Path
) -> None:
    said: list[list[bool]] = []

    def loading() -> list[bool]:
        with reading(database) as connection:
            rows = connection.exec_driver_sql("SELECT loading = attempt FROM shards WHERE state = 'running'")
            return [bool(row[0]) for row in rows]

    class Loading(Models):
        def has(self, info: ModelInfo, task: Task, params: Params) -> bool:
            return bool(said)

        def get(self, info: ModelInfo, task: Task, params: Params) -> Recorder:
            said.append(loading())
            return self.engine

    found = runner(database, tmp_path, Recorder(database))
    found._models = Loading(Recorder(database))
    ready = found.take(ahead=False)
    assert said == [[True]]
    assert ready is not None
    assert loading() == [False]
    found.take(ahead=False)
    assert said[1:] == [[False, False]], "what is loaded already is not loaded again"
