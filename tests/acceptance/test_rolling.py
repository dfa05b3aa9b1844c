"""Programs are replaced one by one under a running job, and tables are expanded under it; the job does not notice."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.pool import NullPool

from tests.databases import new_database

from .programs import Programs, broker, command, programs, until
from .stack import jsonl

DOCUMENTS = [{"id": f"d{k}", "text": f"The text of document {k}.", "reference": str(k % 4)} for k in range(2_000)]
LABELS = [str(zlib.crc32(document["text"].encode()) % 4) for document in DOCUMENTS]
SETTINGS = {"shard_documents": "25", "lease_seconds": "10", "sweep_seconds": "0.5"}


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'database.sqlite3'}"
    return new_database(request.getfixturevalue("postgresql_server")).replace("+psycopg", "")


def connected(database_url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"), poolclass=NullPool)


def query(database_url: str, sql: str) -> list[Any]:
    with connected(database_url).connect() as connection:
        return [tuple(row) for row in connection.execute(sqlalchemy.text(sql))]


def start(system: Programs, *names: str) -> None:
    """Start programs and wait until each is at work, as far as there is work left."""
    for name in names:
        system.start(name)
    until(system.answers, what=f"the API answers\n{system.logs()}")
    wanted = sum(1 for name in system.running if name.startswith("worker"))
    until(
        lambda: len(serving(system)) >= wanted or not waiting(system), what="every worker has taken up its work"
    )  # fmt: skip


def serving(system: Programs) -> list[str]:
    """The workers that have shards in hand, each by its boot."""
    url = system.settings["database_url"]
    return [row[0] for row in query(url, "SELECT DISTINCT owner FROM shards WHERE state = 'running'")]


def waiting(system: Programs) -> int:
    """How many shards nobody has taken up."""
    url = system.settings["database_url"]
    return int(query(url, "SELECT count(*) FROM shards WHERE state = 'pending'")[0][0])


def submit(system: Programs, documents: list[dict[str, str]], delay_ms: int) -> str:
    corpus = system.upload(jsonl(documents))
    body = {"task": "classification", "model": "echo", "corpus": corpus["id"], "params": {"delay_ms": delay_ms}}
    return str(system.submit(**body)["id"])


def past(documents: int) -> Any:
    return lambda job: job["counts"]["total"] - job["counts"]["pending"] >= documents


def assert_exact(system: Programs, job_id: str) -> None:
    """One result for each document, each the right one, and no shard that lost its worker."""
    ended = system.wait(job_id)
    assert (ended["status"], ended["counts"]["succeeded"]) == ("completed", len(DOCUMENTS))
    results = system.results(job_id)
    assert [result["position"] for result in results] == list(range(len(DOCUMENTS)))
    assert [result["output"]["label"] for result in results] == LABELS
    assert query(system.settings["database_url"], "SELECT sum(losses) FROM shards") == [(0,)]


@pytest.mark.parametrize("database_url", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True)
def test_every_program_is_replaced_under_a_running_job_and_nothing_is_lost(tmp_path: Path, database_url: str) -> None:
    with broker() as (broker_url, _):
        settings = SETTINGS | {
            "data_dir": str(tmp_path / "data"), "database_url": database_url, "broker_url": broker_url
        }  # fmt: skip
        assert command("db", "upgrade", **settings).returncode == 0
        with programs(tmp_path, **settings) as system:
            system.start("api")
            until(system.answers, what="the API answers")
            job_id = submit(system, DOCUMENTS, delay_ms=25)
            start(system, "sweep", "worker-1", "worker-2")
            for number, name in enumerate(("worker-1", "worker-2", "api", "sweep"), start=1):
                system.wait(job_id, past(100 * number))
                before = set(serving(system))
                assert system.end(name) == 0
                if name.startswith("worker"):
                    # What it held is to be had again at once, without waiting for a lease.
                    assert len(set(serving(system)) - before) == 0
                    assert len(serving(system)) <= 1
                start(system, name)
            assert not system.wait(job_id, past(400))["finished_at"], "the job ran all the time"
            assert_exact(system, job_id)


def expand(database_url: str) -> None:
    """What `corpusmill db upgrade` of a later version does: a column and an index more, a table more, a later revision."""
    with connected(database_url).begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        for table in ("jobs", "shards", "results", "corpora", "workers"):
            operations.add_column(table, sqlalchemy.Column("later", sqlalchemy.Text(), nullable=True))
            operations.create_index(f"ix_{table}_later", table, ["later"])
        operations.add_column(
            "jobs", sqlalchemy.Column("later_number", sqlalchemy.Integer(), server_default="7", nullable=False)
        )
        operations.create_table("later", sqlalchemy.Column("key", sqlalchemy.Integer(), primary_key=True))
        operations.execute("UPDATE alembic_version SET version_num = '0999'")


@pytest.mark.parametrize("database_url", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True)
def test_tables_are_expanded_under_a_running_job_whose_workers_go_on_and_others_join(
    tmp_path: Path, database_url: str
) -> None:
    with broker() as (broker_url, _):
        settings = SETTINGS | {
            "data_dir": str(tmp_path / "data"), "database_url": database_url, "broker_url": broker_url
        }  # fmt: skip
        assert command("db", "upgrade", **settings).returncode == 0
        with programs(tmp_path, **settings) as system:
            system.start("api")
            until(system.answers, what="the API answers")
            job_id = submit(system, DOCUMENTS, delay_ms=15)
            start(system, "sweep", "worker-1")
            system.wait(job_id, past(100))
            expand(database_url)
            # The old programs go on, and programs of the old version that start now serve as well.
            assert system.answers()
            start(system, "worker-2")
            assert command("db", "upgrade", **settings).returncode == 0
            assert query(database_url, "SELECT version_num FROM alembic_version") == [("0999",)]
            system.end("api")
            start(system, "api")
            second = submit(system, DOCUMENTS[:50], delay_ms=0)
            assert system.wait(second)["status"] == "completed"
            assert_exact(system, job_id)


def test_tables_that_older_programs_would_stumble_over_are_refused(tmp_path: Path) -> None:
    settings = {"data_dir": str(tmp_path), "database_url": f"sqlite:///{tmp_path / 'database.sqlite3'}"}
    assert command("db", "upgrade", **settings).returncode == 0
    with connected(settings["database_url"]).begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '1000'")
    refused = command("db", "upgrade", **settings)
    assert (refused.returncode, "another version, newer than this program" in refused.stderr) == (1, True)
