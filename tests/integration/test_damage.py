"""A corpus whose files are damaged ends the jobs over it and holds up no others; a disk that fails for now ends none."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from structlog.testing import capture_logs

from corpora import store_items
from corpora.summary import read_summary
from corpusmill.documents import Document, IngestError
from corpusmill.errors import CorpusDamaged
from corpusmill.settings import settings_from
from corpusmill.shards import Slice
from corpusmill.tasks import Task
from db import corpora as rows
from db import jobs
from db.engine import Connection, Engine, reading, transact
from tests.integration.programs import runner_of, sweep
from tests.integration.steps import ECHO, put
from worker.runner import Runner
from worker.serving import serve

WORD = uuid4().hex
DOCUMENTS = 8


def a_job(database: Engine, folder: Path, name: str, *, planned: bool = True) -> Path:
    """A job of two shards, or of none yet, over a corpus of its own, whose directory is returned."""
    documents = (Document(position=at, id=f"d{at}", text=f"{WORD} {at}") for at in range(DOCUMENTS))
    directory = put(folder, f"corpus_{name}", documents)

    def make(connection: Connection) -> None:
        rows.create(
            connection,
            id=directory.name,
            name=None,
            format="jsonl",
            encoding=None,
            bytes=1,
            sha256="0" * 64,
            options={},
        )
        rows.claim(connection, directory.name, owner="me", lease=30)
        rows.finish(
            connection,
            directory.name,
            owner="me",
            status="ready",
            documents=DOCUMENTS,
            invalid=0,
            fields=[],
            error=None,
        )
        jobs.create(
            connection, id=f"job_{name}", name=None, task=Task.CLASSIFICATION, model=ECHO,
            corpus=rows.get(connection, directory.name), params={}, priority=0, metadata={},
            slices=[Slice(0, DOCUMENTS // 2), Slice(DOCUMENTS // 2, DOCUMENTS)] if planned else None,
        )  # fmt: skip

    transact(database, make)
    return directory


def the(database: Engine, name: str) -> jobs.Job:
    with reading(database) as connection:
        return jobs.get(connection, f"job_{name}")


def runner(database: Engine, folder: Path) -> Runner:
    return runner_of(database, settings_from({}, data_dir=folder, lease_seconds=60.0))


def column(database: Engine, name: str, job: str) -> list[Any]:
    """A column of a job's shards, in order."""
    with reading(database) as connection:
        found = connection.exec_driver_sql(
            f"SELECT shards.{name} FROM shards JOIN jobs ON jobs.key = job_key WHERE jobs.id = 'job_{job}' ORDER BY start"
        )
        return list(found.scalars())


def vanish(directory: Path) -> None:
    (directory / "documents.jsonl").unlink()


def garble(directory: Path) -> None:
    path = directory / "documents.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"', b'{"\xff'))


def lose_all(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


def shorten(directory: Path) -> None:
    lose_all(directory)
    store_items([Document(position=0, id="d0", text=f"{WORD} alone")], directory)


def test_a_corpus_that_is_damaged_before_its_job_is_planned_keeps_no_other_waiting(
    database: Engine, tmp_path: Path
) -> None:
    lose_all(a_job(database, tmp_path, "damaged", planned=False))
    a_job(database, tmp_path, "whole", planned=False)
    sweep(database, tmp_path)
    assert (the(database, "damaged").error or {}).get("code") == CorpusDamaged.code
    assert column(database, "state", "whole") == ["pending"]


def test_a_corpus_that_this_machine_cannot_read_now_keeps_no_other_from_being_planned(
    database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "m", "z"):
        a_job(database, tmp_path, name, planned=False)
    unreadable(monkeypatch, errno.EIO, "corpus_a")
    sweep(database, tmp_path)
    assert [column(database, "state", name) for name in ("a", "m", "z")] == [[], ["pending"], ["pending"]]
    monkeypatch.undo()
    sweep(database, tmp_path)
    assert column(database, "state", "a") == ["pending"]


def test_where_the_folder_of_all_corpora_is_not_there_jobs_wait_for_it_and_none_fails(
    database: Engine, tmp_path: Path
) -> None:
    """A file system that is not mounted yet, or a data directory that is another's."""
    a_job(database, tmp_path, "planned")
    a_job(database, tmp_path, "unplanned", planned=False)
    a_job(database, tmp_path, "lost")
    with database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE shards SET state = 'running', owner = 'gone', attempt = 9, losses = 9, lease_until = 0, "
            "stop = start + 1 WHERE job_key = (SELECT key FROM jobs WHERE id = 'job_lost')"
        )
    (tmp_path / "corpora").rename(tmp_path / "elsewhere")
    sweep(database, tmp_path)
    with pytest.raises(FileNotFoundError, match="CORPUSMILL_DATA_DIR"):
        serve(runner(database, tmp_path))
    assert [the(database, name).error for name in ("planned", "unplanned", "lost")] == [None] * 3
    assert column(database, "losses", "planned") == [0, 0]
    (tmp_path / "elsewhere").rename(tmp_path / "corpora")
    sweep(database, tmp_path)
    serve(runner(database, tmp_path))
    assert [the(database, name).status for name in ("planned", "unplanned")] == ["completed"] * 2


@pytest.mark.parametrize("damage", [vanish, garble, lose_all, shorten])
def test_a_damaged_corpus_fails_its_job_at_once_and_quotes_no_document(
    database: Engine, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(a_job(database, tmp_path, "damaged"))
    a_job(database, tmp_path, "whole")
    with capture_logs() as logged:
        serve(runner(database, tmp_path))
    found = the(database, "damaged")
    assert found.status in {"failed", "completed_with_errors"}, "shards that can be read keep their results"
    assert found.error is not None
    assert found.error["code"] == CorpusDamaged.code
    assert WORD not in str(found.error)
    assert WORD not in str(logged)
    assert column(database, "losses", "damaged") == [0, 0]
    assert the(database, "whole").status == "completed"


@pytest.mark.parametrize("damage", [garble, shorten])
def test_a_document_that_cannot_be_read_to_be_blamed_ends_its_job_and_others_are_blamed_beside_it(
    database: Engine, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    for name in ("a", "damaged", "z"):
        directory = a_job(database, tmp_path, name)
        if name == "damaged":
            damage(directory)
    lose_with_their_last_documents(database)
    sweep(database, tmp_path)
    found = the(database, "damaged")
    assert (found.status, (found.error or {})["code"]) == ("failed", CorpusDamaged.code)
    assert WORD not in str(found.error)
    for name in ("a", "z"):
        assert (column(database, "state", name), column(database, "failed", name)) == (["done", "done"], [0, 1])


def lose_with_their_last_documents(database: Engine) -> None:
    """The last document of each job has taken its worker with it too often; what precedes it is done."""
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE shards SET state = 'done', succeeded = stop - start WHERE start = 0")
        connection.exec_driver_sql(
            f"UPDATE shards SET start = {DOCUMENTS - 1}, state = 'running', owner = 'gone', attempt = 9, losses = 9, "
            "lease_until = 0 WHERE start > 0"
        )


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_a_corpus_that_this_machine_cannot_read_now_is_given_back(
    database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    a_job(database, tmp_path, "whole")
    unreadable(monkeypatch, number, "corpus_whole")
    with pytest.raises(OSError, match="as the disk says") as raised:
        serve(runner(database, tmp_path))
    assert raised.value.errno == number
    assert the(database, "whole").error is None
    assert (column(database, "state", "whole"), column(database, "losses", "whole")) == (["pending"] * 2, [0, 0])
    monkeypatch.undo()
    serve(runner(database, tmp_path))
    assert the(database, "whole").status == "completed"


def test_a_document_that_cannot_be_read_now_keeps_no_other_from_being_blamed_and_has_its_turn_again(
    database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "m", "z"):
        a_job(database, tmp_path, name)
    lose_with_their_last_documents(database)
    unreadable(monkeypatch, errno.EIO, "corpus_m")
    sweep(database, tmp_path)
    assert [column(database, "failed", name) for name in ("a", "m", "z")] == [[0, 1], [0, 0], [0, 1]]
    assert the(database, "m").error is None
    monkeypatch.undo()
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE shards SET lease_until = 0 WHERE state = 'running'")
    sweep(database, tmp_path)
    assert (column(database, "state", "m"), column(database, "failed", "m")) == (["done", "done"], [0, 1])


def unreadable(monkeypatch: pytest.MonkeyPatch, number: int, corpus_id: str) -> None:
    """A corpus whose disk answers with an error, for as long as that lasts."""
    read = read_summary

    def refused(path: Path) -> Any:
        if path.parent.name == corpus_id:
            raise OSError(number, "as the disk says")
        return read(path)

    monkeypatch.setattr("corpora.store.read_summary", refused)


def lose_sizes(directory: Path) -> None:
    (directory / "sizes.bin").unlink()


def garble_summary(directory: Path) -> None:
    (directory / "corpus.json").write_text("[]")


def lose_summary(directory: Path) -> None:
    (directory / "corpus.json").unlink()


JOB = {"task": "classification", "model": "echo", "corpus": "corpus_damaged"}


def refused(answer: Any) -> bool:
    return (answer.status_code, answer.get_json()["code"]) == (409, CorpusDamaged.code) and WORD not in answer.text


@pytest.mark.parametrize("damage", [lose_all, lose_sizes, lose_summary, garble_summary])
def test_a_job_over_a_damaged_corpus_is_refused_and_the_corpus_stays(
    http: FlaskClient, database: Engine, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(a_job(database, tmp_path, "damaged"))
    assert refused(http.post("/api/v1/jobs", json=JOB))
    assert http.get("/api/v1/corpora/corpus_damaged").status_code == 200


@pytest.mark.parametrize("damage", [vanish, garble, lose_all, lose_sizes, lose_summary, garble_summary])
def test_documents_of_a_damaged_corpus_are_refused(
    http: FlaskClient, database: Engine, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(a_job(database, tmp_path, "damaged"))
    assert refused(http.get("/api/v1/corpora/corpus_damaged/documents"))
    lines = b'{"id": "d1", "reference": "x"}\n'
    for method in (http.put, http.patch):
        answer = method("/api/v1/corpora/corpus_damaged/references", data=lines, content_type="application/x-ndjson")
        assert refused(answer)
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize("damage", [lose_all, lambda directory: (directory / "errors.jsonl").write_bytes(b"[]\n")])
def test_ingest_errors_of_a_damaged_corpus_are_refused(
    http: FlaskClient, database: Engine, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    directory = a_job(database, tmp_path, "damaged")
    lose_all(directory)
    store_items(
        [Document(position=0, id="d0", text=WORD), IngestError(line=2, code="too_long", message="m")], directory
    )
    assert len(http.get("/api/v1/corpora/corpus_damaged/errors").get_json()["data"]) == 1
    if damage is lose_all:
        directory.rename(directory.with_name("elsewhere too"))
    else:
        damage(directory)
    assert refused(http.get("/api/v1/corpora/corpus_damaged/errors"))


@pytest.mark.parametrize("what", ["documents", "errors"])
def test_a_rejected_corpus_without_files_is_not_said_to_be_damaged(
    http: FlaskClient, database: Engine, tmp_path: Path, what: str
) -> None:
    lose_all(a_job(database, tmp_path, "damaged"))
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE corpora SET status = 'rejected'")
    assert http.get(f"/api/v1/corpora/corpus_damaged/{what}").status_code == 404


def test_files_that_go_with_a_deleted_corpus_are_no_damage(http: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    made = http.post("/api/v1/corpora", data=b'{"text": "a"}\n', content_type="application/x-ndjson").get_json()["id"]
    read = read_summary

    def deleted_meanwhile(path: Path) -> Any:
        assert http.delete(f"/api/v1/corpora/{made}").status_code == 204
        return read(path)

    monkeypatch.setattr("corpora.store.read_summary", deleted_meanwhile)
    assert http.get(f"/api/v1/corpora/{made}/documents").status_code == 404


def test_while_the_folder_of_all_corpora_is_not_there_what_needs_documents_is_to_be_asked_for_again(
    http: FlaskClient, database: Engine, tmp_path: Path
) -> None:
    a_job(database, tmp_path, "damaged")
    (tmp_path / "corpora").rename(tmp_path / "elsewhere")
    for answer in (http.post("/api/v1/jobs", json=JOB), http.get("/api/v1/corpora/corpus_damaged/documents")):
        assert (answer.status_code, answer.get_json()["code"]) == (503, "resources_unavailable")
        assert "Retry-After" in answer.headers
    (tmp_path / "elsewhere").rename(tmp_path / "corpora")
    assert http.post("/api/v1/jobs", json=JOB).status_code == 202


@pytest.mark.parametrize("damage", [garble, lose_all, lose_summary])
@pytest.mark.parametrize("when", ["it ran", pytest.param("it was to run", marks=pytest.mark.slow)])
def test_results_are_read_whatever_became_of_the_documents_and_an_export_with_them_is_refused(
    http: FlaskClient, database: Engine, tmp_path: Path, damage: Callable[[Path], None], when: str
) -> None:
    directory = a_job(database, tmp_path, "damaged")
    if when == "it ran":
        serve(runner(database, tmp_path))
    damage(directory)
    serve(runner(database, tmp_path))
    results = http.get("/api/v1/jobs/job_damaged/results").get_json()["data"]
    assert len(results) == DOCUMENTS
    assert http.get("/api/v1/jobs/job_damaged/results/3").get_json() == results[3]
    exported = http.get("/api/v1/jobs/job_damaged/export?format=jsonl")
    if damage is lose_all:
        assert len(exported.text.splitlines()) == DOCUMENTS, "outputs alone, as of a corpus that was deleted"
    else:
        assert refused(exported)


def cut_in_two(lines: Path, index: Path) -> None:
    lines.write_bytes(lines.read_bytes()[:4])


def garble_reference(lines: Path, index: Path) -> None:
    lines.write_bytes(lines.read_bytes().replace(b'"x"', b"]x]"))


def cut_pair(lines: Path, index: Path) -> None:
    index.write_bytes(index.read_bytes()[:-8])


def point_anywhere(lines: Path, index: Path) -> None:
    index.write_bytes(index.read_bytes()[:8] + b"\xff" * 8 + index.read_bytes()[16:])


@pytest.mark.parametrize("damage", [cut_in_two, garble_reference, cut_pair, point_anywhere])
def test_damaged_references_are_refused_until_they_are_attached_again_and_shards_are_saved_without_them(
    http: FlaskClient, database: Engine, tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    directory = a_job(database, tmp_path, "damaged")
    lines = b'{"id": "d1", "reference": "x"}\n{"id": "d7", "reference": "x"}\n'
    address = "/api/v1/corpora/corpus_damaged"
    assert http.put(f"{address}/references", data=lines, content_type="application/x-ndjson").status_code == 200
    (index,) = directory.glob("references*.index")
    damage(index.with_suffix(".jsonl"), index)
    assert refused(http.get(f"{address}/documents"))
    serve(runner(database, tmp_path))
    assert (the(database, "damaged").status, column(database, "losses", "damaged")) == ("completed", [0, 0])
    other = lines.replace(b'"x"', b'"y"')
    assert http.put(f"{address}/references", data=other, content_type="application/x-ndjson").status_code == 200
    documents = http.get(f"{address}/documents").get_json()["data"]
    assert [one["reference"] for one in documents if one["reference"]] == ["y", "y"]
