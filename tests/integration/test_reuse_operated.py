"""Kept outputs as the operator and the sweeper see them: listed, dropped, and forgotten when their time is over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from broker.doorbell import Doorbell
from cli.commands import app
from corpusmill.documents import Document
from corpusmill.settings import Settings
from corpusmill.texts import text_hash
from db import reuse
from db.engine import Engine, reading, transact
from db.reuse import Keeping, Output, Scope
from tests.integration.steps import put
from worker.sweep import Sweeper


def scope(model: str) -> Scope:
    return Scope(
        hash=text_hash(model).hex(),
        description={"task": "classification", "model": model, "revision": "1", "runtime": {"engine": "echo"}},
    )


def keep(database: Engine, model: str, *texts: str) -> None:
    output = Output(output={"label": "1"}, n_tokens=1, n_segments=1, truncated=False)
    keeping = Keeping(scope=scope(model), outputs={text_hash(text): output for text in texts})
    transact(database, lambda connection: reuse.keep(connection, keeping))


def kept(database: Engine) -> dict[str, int]:
    with reading(database) as connection:
        return {row.description["model"]: row.outputs for row in reuse.scopes(connection)}


@pytest.fixture
def operate(database: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("CORPUSMILL_DATABASE_URL", database_url.replace("+psycopg", ""))
    monkeypatch.setenv("CORPUSMILL_DATA_DIR", str(tmp_path))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["reuse", *arguments])

    return run


def test_what_is_kept_is_listed_by_model_and_dropped_by_choice(
    database: Engine, tmp_path: Path, operate: object
) -> None:
    assert callable(operate)
    keep(database, "a", "one", "two", "three")
    keep(database, "b", "one", "four")
    listed = json.loads(operate("list", "--json").stdout)["data"]
    assert [(row["model"], row["outputs"]) for row in listed] == [("a", 3), ("b", 2)]
    assert "OUTPUTS" in operate("list").stdout
    put(tmp_path, "corpus_a", [Document(position=0, id="x", text="one")])
    dropped = operate("drop", "--corpus", "corpus_a")
    assert (dropped.exit_code, dropped.stderr) == (0, "Deleted 2 outputs.\n")
    assert kept(database) == {"a": 2, "b": 1}
    assert operate("drop", "--unused-days", "1").exit_code == 0
    assert kept(database) == {"a": 2, "b": 1}
    assert operate("drop", "--model", "b").stderr == "Deleted 1 outputs.\n"
    assert kept(database) == {"a": 2}
    assert operate("drop", "--all").exit_code == 0
    assert kept(database) == {}


@pytest.mark.parametrize("arguments", [[], ["--all", "--model", "a"]])
def test_dropping_nothing_in_particular_is_wrong_usage(operate: object, arguments: list[str]) -> None:
    assert callable(operate)
    assert operate("drop", *arguments).exit_code == 2


def test_a_corpus_that_is_not_there_is_said_to_be(operate: object) -> None:
    assert callable(operate)
    failed = operate("drop", "--corpus", "corpus_gone")
    assert failed.exit_code == 1
    assert "deleted" in failed.stderr


@pytest.mark.parametrize(("days", "left"), [(1.0, 1), (0.0, 3)])
def test_the_sweeper_forgets_what_no_job_has_used_for_its_time(
    database: Engine, tmp_path: Path, days: float, left: int
) -> None:
    keep(database, "a", "one", "two", "three")
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE reused_outputs SET used_at = used_at - 90000")
    transact(
        database, lambda connection: reuse.keep(connection, Keeping(scope=scope("a"), used=[text_hash("two")]))
    )  # fmt: skip
    settings = Settings(data_dir=tmp_path, reuse_days=days)
    sweeper = Sweeper(settings=settings, database=database, doorbell=Doorbell(settings))
    for _ in range(16):
        sweeper._tidied = 0.0  # as if ten minutes had passed
        sweeper._tidy()
    assert kept(database) == {"a": left}


def test_the_sweeper_forgets_a_scope_with_its_last_output(database: Engine, tmp_path: Path) -> None:
    """It says the parameters of a job, and a prompt is one of them."""
    keep(database, "a", "one")
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE reused_outputs SET used_at = used_at - 90000")
    settings = Settings(data_dir=tmp_path, reuse_days=1)
    sweeper = Sweeper(settings=settings, database=database, doorbell=Doorbell(settings))
    for _ in range(16):
        sweeper._tidied = 0.0  # as if ten minutes had passed
        sweeper._tidy()
    assert kept(database) == {}
