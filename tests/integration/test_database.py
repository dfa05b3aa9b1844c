"""What the database promises to whoever uses it: its tables, its transactions and what its errors say, on both."""

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
from structlog.testing import capture_logs

from corpusmill.errors import DatabaseUnavailable
from corpusmill.shards import Slice
from corpusmill.status import Status
from db import job_moves, jobs, results, tables
from db.engine import Connection, Engine, _alembic, at_head, create_engine, migrate, now, reading, transact, writing
from tests.integration.steps import a_job, rows, the_job


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


@pytest.mark.parametrize(("failures", "lines"), [(4, 0), (20, 1)])
def test_a_long_wait_says_once_for_what_and_a_short_one_nothing(
    database: Engine, monkeypatch: pytest.MonkeyPatch, failures: int, lines: int
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    tries = 0

    def work(connection: Connection) -> int:
        nonlocal tries
        tries += 1
        if tries <= failures:
            raise DatabaseUnavailable("The database takes nothing more: its disk is full.")
        return int(connection.execute(sqlalchemy.text("SELECT 7")).scalar_one())

    with capture_logs() as logged:
        assert transact(database, work, patience=600.0) == 7
    said = [line for line in logged if line["event"] == "waiting for the database"]
    assert [line["why"] for line in said] == ["The database takes nothing more: its disk is full."] * lines


def test_whoever_has_waited_long_enough_hears_why(database: Engine) -> None:
    def work(connection: Connection) -> None:
        raise DatabaseUnavailable("The database did not answer.")

    with pytest.raises(DatabaseUnavailable, match="did not answer"):
        transact(database, work, patience=0.2)


def test_two_transactions_that_lock_two_rows_in_opposite_order_are_both_done_in_the_end(database: Engine) -> None:
    if database.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time: two never wait for each other")
    rows_ = [a_job(database, name).key for name in ("job_a", "job_b")]
    both = threading.Barrier(2, timeout=30)
    tries: dict[str, int] = {"one": 0, "other": 0}
    refused: list[str | None] = []

    def note(context: sqlalchemy.engine.ExceptionContext) -> None:
        refused.append(getattr(context.original_exception, "sqlstate", None))

    def lock(name: str, order: list[int]) -> None:
        def work(connection: Connection) -> None:
            tries[name] += 1
            for key in order:
                connection.execute(
                    sqlalchemy.update(tables.jobs)
                    .where(tables.jobs.c.key == key)
                    .values(priority=tables.jobs.c.priority + 1)
                )
                if tries[name] == 1 and key == order[0]:
                    both.wait()  # each has one row, and is about to want the other's

        transact(database, work, patience=60.0)

    sqlalchemy.event.listen(database, "handle_error", note)
    threads = [
        threading.Thread(target=lock, args=("one", rows_)),
        threading.Thread(target=lock, args=("other", rows_[::-1])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert refused == ["40P01"], "PostgreSQL ended one of the two"
    assert sorted(tries.values()) == [1, 2]
    assert [the_job(database, name).priority for name in ("job_a", "job_b")] == [2, 2]


def test_a_transaction_that_read_what_another_has_changed_since_is_done_again(database: Engine) -> None:
    if database.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time: nothing changes under a transaction that writes")
    key = a_job(database).key
    add = sqlalchemy.update(tables.jobs).where(tables.jobs.c.key == key).values(priority=tables.jobs.c.priority + 1)
    strict = database.execution_options(isolation_level="SERIALIZABLE")
    tries = 0

    def work(connection: Connection) -> None:
        nonlocal tries
        tries += 1
        connection.scalar(sqlalchemy.select(tables.jobs.c.priority).where(tables.jobs.c.key == key))
        if tries == 1:
            transact(database, lambda other: other.execute(add))
        connection.execute(add)

    transact(strict, work)
    assert (tries, the_job(database).priority) == (2, 2)
