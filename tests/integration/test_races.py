"""What happens when two things happen at once: nothing is stranded, lost, or told wrongly."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

import api.corpora
import api.jobs
from api.app import create_app
from corpusmill.errors import Conflict, DatabaseUnavailable, NotFound
from corpusmill.settings import Settings
from corpusmill.shards import Slice
from corpusmill.status import Status
from db import corpora, files, ingest, jobs, losses, metrics, shards
from db.engine import Engine, clock_of, migrate, reading, settle, transact
from tests.integration.moves import ask, finish, rows, stored
from tests.integration.programs import sweep, sweeper_of
from tests.integration.steps import a_job, claim, the_job


def test_a_sweeper_that_is_to_end_begins_no_further_step(database: Engine, tmp_path: Path) -> None:
    asked = []

    def ended() -> bool:
        asked.append(True)
        return len(asked) > 2

    sweeper = sweeper_of(database, Settings(data_dir=tmp_path))
    sweeper.sweep(ended)
    assert len(asked) == 3, "the first two of its steps"


def test_no_worker_is_robbed_because_the_clock_was_set_on(
    database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_job(database)
    held = claim(database)
    sweeper = sweeper_of(database, Settings(data_dir=tmp_path))
    sweeper.sweep()
    monkeypatch.setattr("worker.sweep.clock_of", lambda connection: clock_of(connection) + 3600.0)
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE shards SET lease_until = lease_until - 3600")
    for _ in range(2):
        sweeper.sweep()
    assert transact(database, lambda connection: shards.renew(connection, [held], lease=30.0)) == {held.key: "run"}


@pytest.mark.parametrize("first", ["cancel", "pause"])
def test_a_shard_given_back_after_a_cancel_ends_with_its_job(database: Engine, tmp_path: Path, first: str) -> None:
    a_job(database)
    held = claim(database)
    if first == "pause":
        ask(database, "pause")
    ask(database, "cancel")
    transact(database, lambda connection: shards.release(connection, held))
    sweep(database, tmp_path)
    job = the_job(database)
    assert job.status is Status.CANCELLED
    assert job.counts is not None
    assert job.counts.cancelled == 10


def test_a_half_made_after_its_job_failed_fails_with_it(database: Engine, tmp_path: Path) -> None:
    job = a_job(database)
    held = claim(database)
    transact(database, lambda connection: jobs.fail(connection, job.key, code="model", message="gone"))
    with database.begin() as connection:  # as `expire` leaves it where it read the shard before
        connection.exec_driver_sql(f"UPDATE shards SET state = 'pending', failed = 0 WHERE key = {held.key}")
        connection.exec_driver_sql("UPDATE jobs SET outcome = NULL")
    sweep(database, tmp_path)
    assert the_job(database).status is Status.FAILED


def test_what_was_retried_is_not_deleted_because_its_time_was_over_before(database: Engine, tmp_path: Path) -> None:
    a_job(database)
    for held in (claim(database), claim(database)):
        finish(database, held, rows(held.slice, failed=frozenset({1})))
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE jobs SET expires_at = 1")
    with reading(database) as connection:
        assert jobs.expired(connection, 5) == ["job_a"]
    ask(database, "retry")
    files.remove_job(database, tmp_path, "job_a", expired_only=True)
    assert the_job(database).status is Status.RUNNING


def test_the_metrics_of_a_retry_that_fails_as_a_whole_are_of_what_had_succeeded(database: Engine) -> None:
    job = a_job(database)
    first, second = claim(database), claim(database)
    finish(database, first, rows(first.slice, failed=frozenset({1})), seconds={"model": 1.0})
    finish(database, second, rows(second.slice), seconds={"model": 1.0})
    ask(database, "retry")
    transact(database, lambda connection: jobs.fail(connection, job.key, code="model", message="gone"))
    with reading(database) as connection:
        partial, usage = metrics.merged(connection, job.key)
    # the shard that had run whole carries a partial of its own, which this test left empty
    assert partial["succeeded"] == 4
    assert usage["seconds"] == {"model": 2.0}


def test_the_halves_of_a_reopened_shard_count_what_each_had_kept(database: Engine) -> None:
    job = a_job(database, shard_size=10)
    held = claim(database)
    finish(database, held, rows(held.slice, failed=frozenset({7})))
    ask(database, "retry")
    for _ in range(2):
        claim(database, lease=-1.0)
        transact(database, lambda connection: losses.expire(connection, owner="sweeper", lease=30.0))
        with database.begin() as connection:
            connection.exec_driver_sql("UPDATE shards SET not_before = 0")
    ask(database, "cancel")
    with reading(database) as connection:
        partial, _ = metrics.merged(connection, job.key)
    assert partial["succeeded"] == 9
    assert len(stored(database, job)) == 9


def test_figures_computed_before_a_retry_are_not_kept_after_it(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job(database)
    for held in (claim(database), claim(database)):
        finish(database, held, rows(held.slice, failed=frozenset({1})))
    report = metrics._report

    def meanwhile(*given: Any) -> Any:
        made = report(*given)
        ask(database, "retry")
        return made

    monkeypatch.setattr(metrics, "_report", meanwhile)
    metrics.evaluate(database, job.key)
    assert not the_job(database).evaluated


def test_a_job_cancelled_while_its_shards_were_cut_keeps_none(database: Engine) -> None:
    job = a_job(database)
    with database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM shards")
        connection.exec_driver_sql("UPDATE jobs SET total = NULL")
    assert ask(database, "cancel").status is Status.CANCELLED
    transact(database, lambda connection: jobs.plan(connection, job.key, [Slice(0, 10)], invalid=0))
    found = the_job(database)
    assert (found.status, found.counts and found.counts.pending) in {(Status.CANCELLED, None), (Status.CANCELLED, 0)}


def test_settling_sqlite_waits_for_no_reader(database: Engine) -> None:
    if database.dialect.name != "sqlite":
        pytest.skip("PostgreSQL sees to its own log")
    a_job(database)
    with reading(database) as connection:
        connection.exec_driver_sql("SELECT count(*) FROM jobs").all()
        settle(database)
        a_job(database, "job_b")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[FlaskClient, Engine, Settings]]:
    """The API without a server, over SQLite and a broker that is not there."""
    settings = Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:1/0")
    migrate(settings.database)
    app = create_app(settings)
    database: Engine = app.extensions["corpusmill"].database
    yield app.test_client(), database, settings
    database.dispose()


def away(*_: Any, **__: Any) -> Any:
    raise DatabaseUnavailable("The database did not answer.")


JSONL = {"content_type": "application/x-ndjson"}


@pytest.mark.parametrize("what", ["delete", "retry"])
def test_an_export_breaks_off_when_its_job_is_deleted_or_opened_again(
    served: tuple[FlaskClient, Engine, Settings], what: str
) -> None:
    client, database, settings = served
    body = b"".join(b'{"text": "t%d"}\n' % place for place in range(6_000))
    corpus = client.post("/api/v1/corpora", data=body, **JSONL).get_json()["id"]
    job = client.post("/api/v1/jobs", json={"task": "classification", "model": "echo", "corpus": corpus}).get_json()[
        "id"
    ]
    while held := claim(database):
        finish(database, held, rows(held.slice, failed=frozenset({5_990})), seconds={})
    stream = iter(client.get(f"/api/v1/jobs/{job}/export").response)
    next(stream)
    if what == "delete":
        files.remove_job(database, settings.data_dir, job)
    else:
        ask(database, "retry", job)
    with pytest.raises((NotFound, Conflict)):
        list(stream)


def test_an_upload_that_was_never_committed_is_asked_for_again(
    served: tuple[FlaskClient, Engine, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _, settings = served
    calls = iter([away])
    real = transact
    monkeypatch.setattr(api.corpora, "transact", lambda *given, **named: next(calls, real)(*given, **named))  # noqa: PLW0108 — another one at each call
    answer = client.post("/api/v1/corpora", data=b'{"text": "a"}\n', **JSONL)
    assert answer.status_code == 503
    assert not list((settings.data_dir / "uploads").glob("*"))


def test_a_corpus_whose_upload_is_gone_is_rejected_and_not_read_for_ever(
    served: tuple[FlaskClient, Engine, Settings],
) -> None:
    client, database, settings = served
    files.make_folders(database, settings.data_dir)
    transact(
        database,
        lambda connection: corpora.create(
            connection, id="corpus_x", name=None, format="jsonl", encoding=None, bytes=1, sha256="0" * 64,
            options={"text_field": "text"},
        ),
    )  # fmt: skip
    ingest.run(database, settings, "corpus_x")
    found = client.get("/api/v1/corpora/corpus_x").get_json()
    assert (found["status"], found["error"]["code"]) == ("rejected", "upload_lost")


def test_inline_documents_of_a_job_that_never_was_are_removed(
    served: tuple[FlaskClient, Engine, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, database, settings = served
    with monkeypatch.context() as patch:
        patch.setattr(api.jobs, "transact", away)
        body = {"task": "classification", "model": "echo", "documents": [{"text": "secret"}]}
        assert client.post("/api/v1/jobs", json=body).status_code == 503
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE corpora SET created_at = 1")
    for path in settings.data_dir.rglob("*"):
        os.utime(path, (time.time(), time.time()))
    sweep(database, settings.data_dir)
    assert not list((settings.data_dir / "corpora").glob("*"))


@pytest.mark.parametrize(
    ("path", "status"), [("/api/v1/corpora?ttl_seconds=999999999999", 422), ("/api/v1/corpora?ttl_seconds=0", 422)]
)
def test_a_time_to_live_without_a_date_is_refused(
    served: tuple[FlaskClient, Engine, Settings], path: str, status: int
) -> None:
    client, *_ = served
    assert client.post(path, data=b'{"text": "a"}\n', **JSONL).status_code == status
    assert client.get("/api/v1/corpora").status_code == 200


def test_odd_input_is_refused_and_not_answered_with_a_fault(served: tuple[FlaskClient, Engine, Settings]) -> None:
    client, *_ = served
    assert client.get("/api/v1/jobs", headers={"Origin": "http://["}).status_code == 403
    nested = b'{"metadata": ' + b'{"a": ' * 3_000 + b"1" + b"}" * 3_000 + b"}"
    assert client.post("/api/v1/jobs", data=nested, content_type="application/json").status_code in {400, 422}
    body = b'{"task": "classification", "model": "echo", "documents": [{"text": "a"}], "metadata": {"n": NaN}}'
    assert client.post("/api/v1/jobs", data=body, content_type="application/json").status_code == 422
