"""Documents of a deleted corpus, which wait out of sight until what is kept of them for reuse is forgotten."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import update

from corpusmill.errors import NotFound
from corpusmill.settings import Settings
from db import backup, files, forgetting, references, restore
from db.engine import Engine, create_engine, reading
from db.tables import corpora, jobs
from tests.integration import programs
from tests.integration.programs import work
from tests.integration.world import Killed

TEXTS = [f"{number} of them." for number in range(10)]


def uploaded(http: FlaskClient, *texts: str, ttl: int | None = None) -> str:
    body = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    path = "/api/v1/corpora" + (f"?ttl_seconds={ttl}" if ttl else "")
    return str(http.post(path, data=body, content_type="application/x-ndjson").get_json()["id"])


def worked(http: FlaskClient, database: Engine, folder: Path, **asked: Any) -> str:
    """A job with reuse that has ended."""
    made = http.post("/api/v1/jobs", json={"task": "translation", "model": "echo", "reuse": True} | asked).get_json()
    work(database, folder)
    assert http.get(f"/api/v1/jobs/{made['id']}").get_json()["status"] == "completed"
    return str(made["id"])


def outputs(database: Engine) -> int:
    with reading(database) as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM reused_outputs").scalar_one())


@pytest.fixture
def sweep(database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Every step of a sweeper that has just been started, what is done every ten minutes too."""
    # As long as it takes: on a busy machine its usual time may be over after one of two corpora.
    monkeypatch.setattr("worker.sweep._FORGETTING_SECONDS", 60.0)

    def once() -> None:
        programs.sweep(database, tmp_path)

    return once


def waits(folder: Path) -> list[str]:
    return [path.name for path in (folder / "forgetting").glob("*")]


def test_what_other_corpora_alone_have_stays_kept(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None]
) -> None:
    mine, others = uploaded(http, *TEXTS[:6]), uploaded(http, *TEXTS[4:])
    for corpus in (mine, others):
        worked(http, database, tmp_path, corpus=corpus)
    assert outputs(database) == 10
    assert http.delete(f"/api/v1/corpora/{mine}").status_code == 204
    assert http.get(f"/api/v1/corpora/{mine}").status_code == 404
    sweep()
    assert (outputs(database), waits(tmp_path)) == (4, [])
    again = http.get(f"/api/v1/jobs/{worked(http, database, tmp_path, corpus=others)}").get_json()
    assert again["reused"] == 4


@pytest.mark.parametrize("deleted", ["before", "meanwhile"])
def test_texts_are_forgotten_though_the_file_system_of_corpora_is_not_mounted_for_a_time(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None], monkeypatch: pytest.MonkeyPatch,
    deleted: str,
) -> None:  # fmt: skip
    corpus = uploaded(http, *TEXTS)
    worked(http, database, tmp_path, corpus=corpus)
    if deleted == "before":
        with monkeypatch.context() as patch:
            patch.setattr("db.files.forgetting.hide", lambda *_: None)
            patch.setattr("db.files.remove_corpus", lambda *_: None)
            assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    aside = (tmp_path / "corpora").rename(tmp_path / "elsewhere")
    if deleted == "meanwhile":
        assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    sweep()
    assert not (tmp_path / "forgetting").exists()
    aside.rename(tmp_path / "corpora")
    sweep()
    assert (outputs(database), waits(tmp_path), list((tmp_path / "corpora").iterdir())) == (0, [], [])


def test_a_deleted_job_keeps_the_outputs_of_its_corpus_and_forgets_those_of_its_own_documents(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None]
) -> None:
    over = worked(http, database, tmp_path, corpus=uploaded(http, *TEXTS))
    inline = worked(http, database, tmp_path, documents=[{"text": "Its own."}])
    for job, left in ((over, 11), (inline, 10)):
        assert http.delete(f"/api/v1/jobs/{job}").status_code == 204
        sweep()
        assert outputs(database) == left


def test_what_is_kept_outlives_a_corpus_and_a_job_whose_time_is_over(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None]
) -> None:
    worked(http, database, tmp_path, corpus=uploaded(http, *TEXTS, ttl=3600))
    worked(http, database, tmp_path, documents=[{"text": "Its own."}], ttl_seconds=3600)
    with database.begin() as connection:
        for table in (jobs, corpora):
            connection.execute(update(table).values(expires_at=0))
    sweep()
    assert (list((tmp_path / "corpora").iterdir()), waits(tmp_path)) == ([], [])
    assert outputs(database) == 11


def test_where_nothing_was_ever_kept_documents_are_gone_with_the_answer(http: FlaskClient, tmp_path: Path) -> None:
    assert http.delete(f"/api/v1/corpora/{uploaded(http, *TEXTS)}").status_code == 204
    assert (list((tmp_path / "corpora").iterdir()), waits(tmp_path)) == ([], [])


def orphaned_long_ago(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))


def test_documents_that_wait_are_in_no_readers_sight_and_in_nobodys_way(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = uploaded(http, *TEXTS)
    job = worked(http, database, tmp_path, corpus=corpus)
    assert '"text"' in http.get(f"/api/v1/jobs/{job}/export?format=jsonl").text
    assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    assert '"text"' not in http.get(f"/api/v1/jobs/{job}/export?format=jsonl").text
    orphaned_long_ago(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("worker.sweep.forgetting.go_on", lambda *_, **__: False)
        sweep()
    assert waits(tmp_path) == [corpus]
    sweep()
    assert (outputs(database), waits(tmp_path)) == (0, [])


def test_a_deletion_that_is_cut_off_before_the_documents_are_out_of_sight_is_made_up_for(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = uploaded(http, *TEXTS)
    worked(http, database, tmp_path, corpus=corpus)

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("db.files.forgetting.hide", killed)
        with pytest.raises(Killed):
            files.delete_corpus(database, tmp_path, corpus)
    orphaned_long_ago(tmp_path)
    with reading(database) as connection:
        assert files.orphans(connection, tmp_path) == []
    sweep()
    assert (outputs(database), waits(tmp_path), list((tmp_path / "corpora").iterdir())) == (0, [], [])


#: The transactions of a sweeper that forgets four slices of texts: each of them, scopes that are empty then, and the mark.
CUTS = [*(("transact", number) for number in range(1, 7)), ("remove_store", 1)]


@pytest.mark.parametrize(("step", "number"), CUTS)
@pytest.mark.parametrize("done", [pytest.param(False, marks=pytest.mark.slow), True], ids=["before", "after"])
def test_a_sweeper_that_is_killed_while_it_forgets_is_followed_by_one_that_goes_on(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None], monkeypatch: pytest.MonkeyPatch,
    step: str, number: int, *, done: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(forgetting, "_TEXTS_AT_ONCE", 3)
    corpus = uploaded(http, *TEXTS)
    worked(http, database, tmp_path, corpus=corpus)
    assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    real, calls = getattr(forgetting, step), 0

    def dies(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < number:
            return real(*arguments)
        if done:
            real(*arguments)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(forgetting, step, dies)
        with pytest.raises(Killed):
            sweep()
    slices = number - 1 + done if step == "transact" else 4
    assert outputs(database) == max(0, 10 - 3 * slices)
    sweep()
    assert (outputs(database), waits(tmp_path)) == (0, [])
    with reading(database) as connection:
        assert forgetting.waiting(connection) == []


def test_a_sweeper_forgets_slice_by_slice_for_its_time_and_goes_through_none_twice(
    http: FlaskClient, database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "_TEXTS_AT_ONCE", 3)
    corpus = uploaded(http, *TEXTS)
    worked(http, database, tmp_path, corpus=corpus)
    assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    left = []
    while not forgetting.go_on(database, tmp_path, corpus, seconds=0.0):
        left.append(outputs(database))
    assert left == [7, 4, 1, 0]


@pytest.mark.parametrize("moved", [True, False])
def test_a_backup_takes_documents_that_wait_and_the_system_restored_from_it_forgets_them(
    http: FlaskClient, database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, moved: bool
) -> None:
    if database.dialect.name != "sqlite":
        pytest.skip("what files a backup holds is the same for both")
    corpus = uploaded(http, *TEXTS)
    worked(http, database, tmp_path, corpus=corpus)
    if not moved:
        monkeypatch.setattr("db.files.forgetting.hide", lambda *_: None)
        monkeypatch.setattr("db.files.remove_corpus", lambda *_: None)
    assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    monkeypatch.undo()
    place = tmp_path.with_name(f"{tmp_path.name}-backup")
    url = f"sqlite:///{tmp_path / 'test.sqlite3'}"
    assert backup.back_up(Settings(data_dir=tmp_path, database_url=url), place).missing == ()
    there = Settings(data_dir=place.with_name(f"{place.name}-restored"))
    restore.restore(there, place)
    restored = create_engine(there.database)
    assert outputs(restored) == 10
    programs.sweep(restored, there.data_dir)
    assert (outputs(restored), waits(there.data_dir), list((there.data_dir / "corpora").iterdir())) == (0, [], [])
    restored.dispose()


def test_documents_that_are_damaged_do_not_stay_because_of_that(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None]
) -> None:
    corpora_ = [uploaded(http, "damaged"), uploaded(http, "whole")]
    for corpus in corpora_:
        worked(http, database, tmp_path, corpus=corpus)
    (tmp_path / "corpora" / corpora_[0] / "documents.jsonl").unlink()
    for corpus in corpora_:
        assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    sweep()
    assert (outputs(database), waits(tmp_path)) == (1, []), "of a text that nobody can read any more"


def test_documents_that_cannot_be_read_now_keep_no_other_corpus_waiting_and_have_their_turn_again(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None]
) -> None:
    first, second = sorted([uploaded(http, "one"), uploaded(http, "two")])
    for corpus in (first, second):
        worked(http, database, tmp_path, corpus=corpus)
        assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    documents = tmp_path / "forgetting" / first / "documents.jsonl"
    documents.rename(tmp_path / "aside")
    documents.mkdir()  # what a disk that fails is to a reader
    sweep()
    assert (outputs(database), waits(tmp_path)) == (1, [first])
    documents.rmdir()
    (tmp_path / "aside").rename(documents)
    sweep()
    assert (outputs(database), waits(tmp_path)) == (0, [])


def test_documents_that_an_ingestor_wrote_again_do_not_stay(
    http: FlaskClient, database: Engine, tmp_path: Path, sweep: Callable[[], None]
) -> None:
    corpus = uploaded(http, "one")
    worked(http, database, tmp_path, corpus=corpus)
    assert http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    shutil.copytree(tmp_path / "forgetting" / corpus, tmp_path / "corpora" / corpus)
    sweep()
    assert (outputs(database), waits(tmp_path), list((tmp_path / "corpora").iterdir())) == (0, [], [])


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("step", ["Store", "resolve", "merged", "write_references", "transact"])
@pytest.mark.parametrize("reuse", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_references_for_a_corpus_that_is_deleted_meanwhile_are_for_one_that_is_not_there(
    http: FlaskClient, database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweep: Callable[[], None],
    method: str, step: str, *, reuse: bool,
) -> None:  # fmt: skip
    corpus = uploaded(http, *TEXTS)
    address = f"/api/v1/corpora/{corpus}/references"
    lines = b'{"position": 1, "reference": "x"}\n'
    assert http.put(address, data=lines, content_type="application/x-ndjson").status_code == 200
    if reuse:
        worked(http, database, tmp_path, corpus=corpus)
    real = getattr(references, step)

    def deleted_first(*arguments: Any, **options: Any) -> Any:
        with suppress(NotFound):  # a repetition
            files.delete_corpus(database, tmp_path, corpus)
        return real(*arguments, **options)

    monkeypatch.setattr(references, step, deleted_first)
    lines = b'{"position": 2, "reference": "y"}\n'
    answer = http.open(address, method=method, data=lines, content_type="application/x-ndjson")
    assert answer.status_code == 404, answer.text
    sweep()
    places = ("corpora", "uploads", "forgetting")
    assert [path for folder in places for path in (tmp_path / folder).glob("*")] == []
