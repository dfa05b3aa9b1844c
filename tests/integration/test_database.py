"""What the tables and their transactions promise, on both databases."""

from __future__ import annotations

import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy
from alembic import command
from sqlalchemy.exc import IntegrityError, OperationalError

from corpusmill.errors import Conflict, DatabaseUnavailable, LeaseLost, NotFound
from corpusmill.models import ModelInfo
from corpusmill.shards import Slice
from corpusmill.status import Status
from corpusmill.tasks import Task
from db import corpora, job_moves, jobs, losses, results, shards, tables, turns, workers
from db.engine import Connection, Engine, _alembic, at_head, create_engine, migrate, now, reading, transact, writing
from db.results import ResultRow, Selection

ECHO = ModelInfo(id="echo", revision="1", family="echo", tasks=tuple(Task))
#: A worker that has had the model of `ECHO` for long.
LOADED = {("echo", "1"): 1_000.0}
OTHER = ModelInfo(id="other", revision="1", family="echo", tasks=tuple(Task))


def a_corpus(database: Engine, corpus_id: str = "corpus_a") -> corpora.Corpus:
    transact(
        database,
        lambda connection: corpora.create(
            connection, id=corpus_id, name=None, format="jsonl", encoding=None, bytes=1, sha256="0" * 64, options={}
        ),
    )
    transact(database, lambda connection: corpora.claim(connection, corpus_id, owner="me", lease=30))
    transact(
        database,
        lambda connection: corpora.finish(
            connection, corpus_id, owner="me", status="ready", documents=10, invalid=0, fields=[], error=None
        ),
    )
    with reading(database) as connection:
        return corpora.get(connection, corpus_id)


def a_job(
    database: Engine,
    job_id: str = "job_a",
    *,
    shard_size: int = 5,
    documents: int = 10,
    model: ModelInfo = ECHO,
    priority: int = 0,
) -> jobs.Job:
    with reading(database) as connection:
        try:
            corpus = corpora.get(connection, "corpus_a")
        except NotFound:
            corpus = None
    corpus = corpus or a_corpus(database)
    slices = [Slice(start, min(start + shard_size, documents)) for start in range(0, documents, shard_size)]
    transact(
        database,
        lambda connection: jobs.create(
            connection, id=job_id, name=None, task=Task.CLASSIFICATION, model=model, corpus=corpus, params={},
            priority=priority, metadata={}, slices=slices,
        ),
    )  # fmt: skip
    return the_job(database, job_id)


def the_job(database: Engine, job_id: str = "job_a") -> jobs.Job:
    with reading(database) as connection:
        return jobs.get(connection, job_id)


def claim(
    database: Engine, owner: str = "worker", *, lease: float = 30.0, ahead: bool = False, **standing: Any
) -> Any:  # fmt: skip
    return transact(
        database,
        lambda connection: turns.claim_next(connection, owner=owner, lease=lease, ahead=ahead, **standing),
    )


def lose(database: Engine, *held: shards.Claim) -> None:
    """What these hold is lost with its worker, and may run again at once."""
    transact(database, lambda connection: [shards.surrender(connection, one) for one in held])
    transact(database, lambda connection: losses.expire(connection, owner="sweep", lease=30))


def rows(piece: Slice, label: str = "1") -> list[ResultRow]:
    return [
        ResultRow(
            position=position, document_id=str(position), status="succeeded", output={"label": label, "score": 1.0},
            error=None, n_tokens=1, n_segments=1, truncated=False, statistics={"p": label},
        )
        for position in range(piece.start, piece.stop)
    ]  # fmt: skip


def finish(database: Engine, held: shards.Claim, label: str = "1", rows_: list[ResultRow] | None = None) -> bool:
    written = rows(held.slice, label) if rows_ is None else rows_
    return transact(
        database, lambda connection: shards.finish(connection, held, rows=written, usage={}, partial={}), patience=5
    )


def stored(database: Engine, job: jobs.Job) -> list[ResultRow]:
    with reading(database) as connection:
        return list(results.read(connection, job.key, Selection()))


def test_migrations_make_the_tables_that_the_code_declares(database_url: str) -> None:
    migrate(database_url)
    command.check(_alembic(database_url))
    engine = create_engine(database_url)
    assert at_head(engine)
    engine.dispose()
    command.downgrade(_alembic(database_url), "base")
    migrate(database_url)


def test_tables_are_upgraded_while_others_write(database_url: str) -> None:
    command.upgrade(_alembic(database_url), "0001")
    other = create_engine(database_url)
    wrote: list[str] = []

    def write_between(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        """Whoever upgrades has read the version, and is about to write: somebody else may be quicker."""
        if wrote or not statement.lstrip().startswith("CREATE"):
            return
        wrote.append(statement)
        with other.connect() as connection, suppress(OperationalError):
            impatient = "PRAGMA busy_timeout=50" if other.dialect.name == "sqlite" else "SET lock_timeout = '50ms'"
            connection.exec_driver_sql(impatient)
            connection.exec_driver_sql(
                "INSERT INTO workers (id, hostname, device, models, started_at, seen_at) "
                "VALUES ('w', 'h', 'cpu', '[]', 0, 0)"
            )
            connection.commit()

    sqlalchemy.event.listen(Engine, "before_cursor_execute", write_between)
    try:
        migrate(database_url)
    finally:
        sqlalchemy.event.remove(Engine, "before_cursor_execute", write_between)
    assert wrote
    assert at_head(other)
    other.dispose()


def test_whoever_stands_still_in_a_transaction_keeps_its_rows_from_nobody(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.dialect.name == "sqlite":
        pytest.skip("a process that is stopped with SQLite's lock has it until it ends")
    job = a_job(database)
    monkeypatch.setattr("db.engine._IDLE_MILLISECONDS", 100)
    touch = sqlalchemy.text("UPDATE jobs SET priority = priority WHERE key = :key").bindparams(key=job.key)

    def stand_still() -> None:
        with writing(database) as connection:
            connection.execute(touch)
            with writing(database) as other:
                other.execute(touch)
            connection.execute(touch)

    with pytest.raises(DatabaseUnavailable):
        stand_still()
    assert the_job(database).status is Status.QUEUED


@pytest.mark.parametrize("move", ["cancel", "fail"])
def test_a_job_is_ended_while_its_shards_are_being_claimed_and_neither_waits_for_the_other_for_ever(
    database: Engine, move: str
) -> None:
    if database.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    job = a_job(database)
    errors: list[Exception] = []

    def end() -> None:
        try:
            with writing(database) as connection:
                if move == "cancel":
                    job_moves.request_cancel(connection, "job_a")
                else:
                    jobs.fail(connection, job.key, code="model_fault", message="It cannot be loaded.")
        except DatabaseUnavailable as error:
            errors.append(error)

    other = threading.Thread(target=end)
    with writing(database) as connection:  # what a claim does, in its order, with the other one in between
        connection.exec_driver_sql("UPDATE shards SET state = 'running', owner = 'w', attempt = 1 WHERE start = 0")
        other.start()
        with reading(database) as look:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            for _ in range(200):
                if look.exec_driver_sql(waiting).scalar_one():
                    break
                time.sleep(0.05)
        connection.exec_driver_sql("UPDATE jobs SET claimed_at = 1.0 WHERE id = 'job_a'")
    other.join(30)
    assert errors == []
    with reading(database) as connection:
        assert jobs.get(connection, "job_a").status in {"cancelling", "failed"}


def test_the_database_clock_counts_seconds_since_1970(database: Engine) -> None:
    assert abs(now(database) - time.time()) < 5


def test_a_job_runs_through_its_shards_and_ends_with_the_last(database: Engine) -> None:
    job = a_job(database)
    assert job.status is Status.QUEUED
    first, second = claim(database), claim(database)
    assert [first.slice, second.slice] == [Slice(0, 5), Slice(5, 10)]
    assert claim(database) is None
    assert not finish(database, second)
    assert the_job(database).status is Status.RUNNING
    assert finish(database, first)
    ended = the_job(database)
    assert ended.status is Status.COMPLETED
    assert ended.counts is not None
    assert (ended.counts.succeeded, ended.counts.pending) == (10, 0)
    assert [row.position for row in stored(database, job)] == list(range(10))


def test_a_worker_that_lost_its_lease_writes_nothing(database: Engine) -> None:
    job = a_job(database, shard_size=10)
    late = claim(database, "late", lease=0.01)
    time.sleep(0.05)
    expired = transact(database, lambda connection: losses.expire(connection, owner="sweep", lease=30))
    assert expired.again == 1
    current = claim(database, "current")
    assert current.attempt == late.attempt + 1
    with pytest.raises(LeaseLost):
        finish(database, late, "late")
    assert stored(database, job) == []
    assert finish(database, current, "current")
    assert {row.output["label"] for row in stored(database, job) if row.output} == {"current"}
    with pytest.raises(LeaseLost):
        finish(database, late, "late")


def test_a_commit_whose_answer_was_lost_may_be_repeated(database: Engine) -> None:
    job = a_job(database, shard_size=10)
    held = claim(database)
    assert finish(database, held)
    assert not finish(database, held)
    assert len(stored(database, job)) == 10


def test_a_poison_document_is_found_by_halving(database: Engine) -> None:
    a_job(database, shard_size=8, documents=8)
    poison, lost = 5, 0
    while True:
        held = claim(database, lease=0.001)
        if held is None:
            expired = transact(database, lambda connection: losses.expire(connection, owner="sweep", lease=30))
            if expired.blamed:
                (blamed,) = expired.blamed
                break
            transact(database, _forget_back_off)
        elif held.slice.start <= poison < held.slice.stop:
            lost += 1
            time.sleep(0.01)
        else:
            transact(database, lambda connection: shards.renew(connection, [held], lease=30))  # noqa: B023
            finish(database, held)
    assert blamed.slice == Slice(poison, poison + 1)
    assert lost <= 2 + 3 + 2
    failed = ResultRow(
        position=poison, document_id="5", status="failed", output=None, error={"code": "worker_lost"}, n_tokens=0,
        n_segments=0, truncated=False,
    )  # fmt: skip
    finish(database, blamed, rows_=[failed])
    while (held := claim(database)) is not None:
        finish(database, held)
    ended = the_job(database)
    assert ended.status is Status.COMPLETED_WITH_ERRORS
    assert ended.counts is not None
    assert (ended.counts.succeeded, ended.counts.failed) == (7, 1)


def _forget_back_off(connection: Connection) -> None:
    from sqlalchemy import update

    from db.tables import shards as table

    connection.execute(update(table).values(not_before=0))


def test_a_shard_given_back_charges_no_loss(database: Engine) -> None:
    a_job(database, shard_size=10)
    held = claim(database)
    assert transact(database, lambda connection: shards.release(connection, held))
    again = claim(database)
    assert again.losses == 0
    assert again.attempt == 2


def test_cancelling_ends_what_waits_and_tells_what_runs(database: Engine) -> None:
    job = a_job(database)
    held = claim(database)
    cancelled = transact(database, lambda connection: job_moves.request_cancel(connection, "job_a"))
    assert cancelled.status is Status.CANCELLING
    intents = transact(database, lambda connection: shards.renew(connection, [held], lease=30))
    assert intents == {held.key: "cancel"}
    assert finish(database, held, rows_=rows(Slice(0, 2)))
    ended = the_job(database)
    assert ended.status is Status.CANCELLED
    assert ended.counts is not None
    assert (ended.counts.succeeded, ended.counts.cancelled) == (2, 8)
    assert len(stored(database, job)) == 2
    assert claim(database) is None


def test_a_job_that_has_ended_cannot_be_cancelled(database: Engine) -> None:
    a_job(database, shard_size=10)
    finish(database, claim(database))
    with pytest.raises(Conflict):
        transact(database, lambda connection: job_moves.request_cancel(connection, "job_a"))


def test_a_job_whose_model_cannot_run_fails_at_once_and_alone(database: Engine) -> None:
    broken = a_job(database, model=OTHER)
    a_job(database, "job_b")
    held = claim(database)
    transact(database, lambda connection: jobs.fail(connection, broken.key, code="model_fault", message="No weights."))
    failed = the_job(database)
    assert failed.status is Status.FAILED
    assert failed.error == {"code": "model_fault", "message": "No weights."}
    assert failed.counts is not None
    assert failed.counts.pending == 0
    with pytest.raises(LeaseLost):
        finish(database, held)
    assert the_job(database, "job_b").status is Status.QUEUED


def test_a_deleted_job_leaves_nothing_and_its_worker_writes_nothing(database: Engine) -> None:
    job = a_job(database)
    held = claim(database)
    transact(database, lambda connection: jobs.remove(connection, "job_a"))
    with pytest.raises(LeaseLost):
        finish(database, held)
    assert stored(database, job) == []
    with pytest.raises(NotFound):
        the_job(database)


def test_the_key_of_a_deleted_job_is_never_used_again(database: Engine) -> None:
    first = a_job(database)
    held = claim(database)
    transact(database, lambda connection: jobs.remove(connection, "job_a"))
    second = a_job(database, "job_b")
    assert second.key > first.key
    assert claim(database).key > held.key


def test_a_corpus_is_kept_while_an_open_job_uses_it(database: Engine) -> None:
    a_job(database, shard_size=10)
    with pytest.raises(Conflict, match="job_a"):
        transact(database, lambda connection: corpora.remove(connection, "corpus_a"))
    finish(database, claim(database))
    transact(database, lambda connection: corpora.remove(connection, "corpus_a"))
    assert the_job(database).corpus_key is None


def test_jobs_of_one_priority_take_turns_and_higher_ones_go_first(database: Engine) -> None:
    a_job(database, "job_a", shard_size=1)
    a_job(database, "job_b", shard_size=1)
    a_job(database, "job_c", shard_size=5, priority=1)
    order = [jobs_of(database, claim(database)) for _ in range(6)]
    assert order[:2] == ["job_c", "job_c"]
    assert order[2:] == ["job_a", "job_b", "job_a", "job_b"]


def test_a_worker_keeps_to_its_loaded_model_while_nobody_has_waited_long(database: Engine) -> None:
    a_job(database, "job_a", shard_size=1, model=OTHER)
    a_job(database, "job_b", shard_size=1)
    once = [jobs_of(database, claim(database, loaded=LOADED)) for _ in range(2)]
    assert once == ["job_b", "job_a"]  # each is begun before any goes on
    assert [jobs_of(database, claim(database, loaded=LOADED)) for _ in range(3)] == ["job_b"] * 3


@pytest.mark.parametrize("ahead", [False, True])
def test_a_claim_costs_no_more_however_many_shards_wait(ahead: bool, database: Engine) -> None:
    if database.dialect.name != "sqlite":
        pytest.skip("only SQLite counts the steps of a statement")
    steps: list[int] = []
    for documents in (100, 10_000):
        a_job(database, f"job_{documents}", shard_size=1, documents=documents)
        with database.begin() as connection:
            connection.exec_driver_sql("UPDATE jobs SET claimed_at = 1, priority = 0")
            connection.exec_driver_sql(f"UPDATE jobs SET priority = 1 WHERE id = 'job_{documents}'")

        def counted(connection: Connection) -> int:
            driver: Any = connection.connection.driver_connection
            taken = 0

            def step() -> int:
                nonlocal taken
                taken += 1
                return 0

            driver.set_progress_handler(step, 10)
            assert turns.claim_next(connection, owner="worker", lease=30, loaded=LOADED, ahead=ahead) is not None
            driver.set_progress_handler(None, 0)
            return taken

        steps.append(transact(database, counted))
    assert steps[1] < 2 * steps[0]


def made_and_claimed(database: Engine, job_id: str, seconds: float) -> None:
    """As if the job had been made, and claimed if it was, so many seconds earlier."""
    write = "UPDATE jobs SET claimed_at = claimed_at - {0}, created_at = created_at - {0} WHERE id = '{1}'"
    with database.begin() as connection:
        connection.exec_driver_sql(write.format(seconds, job_id))


def test_a_begun_job_is_not_kept_waiting_for_ever_by_new_ones_however_many(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_CANDIDATES", 3)
    a_job(database, "big", shard_size=1)
    assert jobs_of(database, claim(database)) == "big"
    made_and_claimed(database, "big", 30)
    for number in range(5):
        a_job(database, f"job_{number}", shard_size=10)
    first = claim(database, loaded=LOADED)
    assert (jobs_of(database, first), first.overtook) == ("job_0", True)
    assert jobs_of(database, claim(database, loaded=LOADED, overtaking=30.0)) == "big"


def test_new_jobs_are_seen_behind_however_many_begun_ones(database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_CANDIDATES", 3)
    for number in range(5):
        a_job(database, f"job_{number}", shard_size=5)
        claim(database)
    a_job(database, "late", shard_size=10)
    assert jobs_of(database, claim(database)) == "late"


def gives_way(database: Engine, held: shards.Claim, **standing: Any) -> bool:
    with reading(database) as connection:
        return turns.gives_way(connection, held, **standing)


def test_a_shard_claimed_ahead_gives_way_to_a_new_job_and_its_own_keeps_its_turn(database: Engine) -> None:
    a_job(database, "big", shard_size=1)
    claim(database)
    made_and_claimed(database, "big", 30)
    held = claim(database, ahead=True, loaded=LOADED)
    assert not gives_way(database, held, loaded=LOADED)
    late = a_job(database, "late", shard_size=10)
    assert gives_way(database, held, loaded=LOADED)
    assert not gives_way(database, held, loaded=LOADED, beyond={late.key}), "no job that this worker cannot run"
    assert not gives_way(database, held, loaded=LOADED, overtaking=30.0), "it has waited long enough"
    assert transact(database, lambda connection: turns.give_way(connection, held))
    assert jobs_of(database, claim(database, loaded=LOADED)) == "late"
    a_job(database, "later", shard_size=10)
    assert jobs_of(database, claim(database, loaded=LOADED, overtaking=30.0)) == "big"


def test_a_new_job_whose_shard_gives_way_is_still_new(database: Engine) -> None:
    a_job(database, "small", shard_size=10)
    held = claim(database, ahead=True, loaded=LOADED)
    a_job(database, "urgent", shard_size=10, priority=1)
    assert gives_way(database, held, loaded=LOADED)
    transact(database, lambda connection: turns.give_way(connection, held))
    assert not transact(database, lambda connection: turns.give_way(connection, held))
    assert jobs_of(database, claim(database)) == "urgent"
    again = claim(database)
    assert (jobs_of(database, again), again.served) == ("small", None)


def test_a_lost_shard_is_the_next_of_its_job_and_nothing_is_read_ahead_of_it(database: Engine) -> None:
    a_job(database, shard_size=1)
    taken = [claim(database) for _ in range(3)]
    lose(database, taken[1])
    assert claim(database, ahead=True, loaded=LOADED) is None
    again = claim(database, loaded=LOADED)
    assert (again.key, again.losses) == (taken[1].key, 1)
    ahead = claim(database, "other", ahead=True, loaded=LOADED)
    assert ahead.slice.start == 3, "once somebody has it, others read ahead again"


def test_a_lost_shard_keeps_nobody_from_reading_ahead_for_a_job_that_goes_before_its_own(database: Engine) -> None:
    a_job(database, "low", shard_size=1)
    lose(database, claim(database))
    a_job(database, "high", shard_size=1, priority=1)
    assert jobs_of(database, claim(database, ahead=True, loaded=LOADED)) == "high"


def test_a_job_of_poison_documents_leaves_every_other_turn_to_another_job(database: Engine) -> None:
    a_job(database, "poison", shard_size=2)
    a_job(database, "sound", shard_size=1)
    order = []
    while (held := claim(database, loaded=LOADED)) is not None:
        order.append(jobs_of(database, held))
        if order[-1] == "poison":
            lose(database, held)
            transact(database, _forget_back_off)
        else:
            finish(database, held)
        if order.count("sound") == 10:
            break
    assert order == ["poison", "sound"] * 10


def set_clock_back(database: Engine, seconds: float) -> None:
    """As if the database's clock had been set back by so many seconds: what is written lies ahead by them."""
    with database.begin() as connection:
        connection.exec_driver_sql(f"UPDATE shards SET lease_until = lease_until + {seconds}")
        connection.exec_driver_sql(f"UPDATE shards SET not_before = not_before + {seconds} WHERE not_before > 0")
        connection.exec_driver_sql(f"UPDATE workers SET seen_at = seen_at + {seconds}")
        connection.exec_driver_sql(
            f"UPDATE jobs SET created_at = created_at + {seconds}, claimed_at = claimed_at + {seconds}"
        )


def beat(database: Engine, *held: shards.Claim, lease: float) -> dict[int, Any]:
    """What the heartbeat of a worker does."""

    def write(connection: Connection) -> dict[int, Any]:
        workers.seen(connection, held[0].owner, workers.Description(hostname="h", device="cpu", models=[]), None)
        return dict(shards.renew(connection, held, lease=lease))

    return transact(database, write)


def expired(database: Engine, lease: float) -> int:
    return transact(database, lambda connection: losses.expire(connection, owner="sweep", lease=lease)).again


def test_a_dead_workers_lease_does_not_outlast_it_by_as_much_as_the_clock_is_set_back(database: Engine) -> None:
    a_job(database)
    lease = 0.5
    dead, living = claim(database, "dead", lease=lease), claim(database, "living", lease=lease)
    beat(database, dead, lease=lease)
    beat(database, living, lease=lease)
    set_clock_back(database, 3600)
    assert expired(database, lease) == 0, "those that live get the time to renew theirs"
    assert beat(database, living, lease=30.0) == {living.key: "run"}
    time.sleep(lease)
    assert expired(database, lease) == 1
    assert claim(database).key == dead.key


def test_a_worker_with_a_longer_lease_than_the_sweepers_keeps_it(database: Engine) -> None:
    a_job(database)
    held = claim(database, "patient", lease=300.0)
    beat(database, held, lease=300.0)
    assert expired(database, 0.01) == 0
    time.sleep(0.05)
    assert expired(database, 0.01) == 0


def test_a_pause_does_not_last_longer_by_as_much_as_the_clock_is_set_back(database: Engine) -> None:
    a_job(database, shard_size=10)
    for _ in range(2):
        held = claim(database)
        transact(database, lambda connection: shards.surrender(connection, held))  # noqa: B023
        expired(database, 30.0)
        transact(database, _forget_back_off)
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE shards SET not_before = 1e12")
    with reading(database) as connection:
        assert shards.waiting_count(connection, 9) == len(shards.to_publish(connection, 9)) == 2
    assert claim(database) is not None


def test_a_job_that_was_served_before_the_clock_was_set_back_has_its_turn_soon(database: Engine) -> None:
    a_job(database, "before", shard_size=1)
    claim(database)
    set_clock_back(database, 3600)
    a_job(database, "after", shard_size=1)
    claim(database)
    assert [jobs_of(database, claim(database)) for _ in range(4)] == ["before", "after"] * 2


def jobs_of(database: Engine, held: shards.Claim) -> str:
    with reading(database) as connection:
        return jobs.by_key(connection, held.job_key).id


def test_an_error_of_the_database_quotes_no_text(database: Engine) -> None:
    """It is logged with its traceback, and what was asked for may be a prompt or somebody's words."""
    word = uuid4().hex
    a_job(database)
    change = sqlalchemy.update(tables.jobs).values(name=word, params={"prompt": word})
    transact(database, lambda connection: connection.execute(change))
    with pytest.raises(IntegrityError, match="ck_jobs_intent") as refused, writing(database) as connection:
        connection.execute(change.values(intent="none"))
    assert word not in "".join(traceback.format_exception(refused.value))


def test_an_error_of_copy_quotes_no_text(database: Engine) -> None:
    if database.dialect.name == "sqlite":
        pytest.skip("SQLite has no COPY")
    job = a_job(database)
    word = uuid4().hex
    (row,) = rows(Slice(0, 1))
    with pytest.raises(Exception, match="too long") as refused, writing(database) as connection:
        results.write(connection, job.key, [replace(row, status=word)])  # type: ignore[arg-type]
    assert word not in "".join(traceback.format_exception(refused.value))


def test_two_claims_at_once_never_take_one_shard(database: Engine) -> None:
    a_job(database, shard_size=1, documents=40)
    taken: list[int] = []

    def work(owner: str) -> None:
        while (held := claim(database, owner)) is not None:
            taken.append(held.slice.start)

    threads = [threading.Thread(target=work, args=(f"worker-{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(40))


def test_two_last_shards_at_once_end_the_job_once(database: Engine) -> None:
    a_job(database, shard_size=5)
    held = [claim(database, "one"), claim(database, "two")]
    ended: list[bool] = []
    threads = [threading.Thread(target=lambda one=one: ended.append(finish(database, one))) for one in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == [False, True]
    assert the_job(database).status is Status.COMPLETED


def test_pages_of_jobs_are_chosen_by_status(database: Engine) -> None:
    for name in ("job_a", "job_b", "job_c"):
        a_job(database, name, shard_size=10)
    finish(database, claim(database))
    with reading(database) as connection:
        every = jobs.page(connection, before=None, limit=2)
        ended = jobs.page(connection, before=None, limit=10, statuses=[Status.COMPLETED])
        queued = jobs.page(connection, before=None, limit=10, statuses=[Status.QUEUED])
    assert [job.id for job in every] == ["job_c", "job_b"]
    assert [job.id for job in ended] == ["job_a"]
    assert [job.id for job in queued] == ["job_c", "job_b"]


def test_results_keep_texts_that_databases_quarrel_about(database: Engine) -> None:
    job = a_job(database, shard_size=1, documents=1)
    odd = 'quote " backslash \\ newline \n tab \t nul \0 emoji \U0001f600 \\N'
    row = ResultRow(
        position=0, document_id="\\N", status="succeeded", output={"translation": odd}, error=None, n_tokens=3,
        n_segments=1, truncated=True,
    )  # fmt: skip
    finish(database, claim(database), rows_=[row])
    (read,) = stored(database, job)
    assert read.output == {"translation": odd.replace("\0", "�")}
    assert read.document_id == "\\N"
    assert read.truncated is True
