"""References attached to a corpus after its upload: the metrics of its jobs become those of a corpus uploaded with them.

The real API, the real runner with the model `echo`, and a sweeper, on both databases; no process but this one.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from broker.doorbell import Doorbell
from corpusmill.errors import Conflict
from corpusmill.settings import Settings
from db import backup, corpora, jobs, metrics, references, rescoring, restore
from db.engine import Engine, create_engine, migrate, reading, transact
from tests.integration.programs import runner_of
from worker.runner import Runner
from worker.serving import serve
from worker.sweep import Sweeper

TEXTS = [
    f"The {word} fox number {number}. It ran."
    for number, word in enumerate(["red", "blue", "green", "grey", "old"] * 5)
]
#: What is left out of comparisons: how long a run took.
CLOCKED = ("documents_per_second", "tokens_per_second", "device_busy_share", "seconds/")


@dataclass
class System:
    """An API, a worker and a sweeper over one database and data directory."""

    http: FlaskClient
    database: Engine
    settings: Settings

    def upload(self, documents: Sequence[Mapping[str, Any]]) -> str:
        answer = self.http.post("/api/v1/corpora", data=lines(documents), content_type="application/x-ndjson")
        assert answer.status_code == 201, answer.text
        return str(answer.get_json()["id"])

    def submit(self, corpus: str, task: str = "classification", **params: Any) -> str:
        body = {"task": task, "model": "echo", "corpus": corpus, "params": params}
        answer = self.http.post("/api/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.get_json()["id"])

    def put(self, corpus: str, body: bytes, method: str = "PUT", **headers: str) -> Any:
        return self.http.open(
            f"/api/v1/corpora/{corpus}/references", method=method, data=body, content_type="application/x-ndjson",
            headers=headers,
        )  # fmt: skip

    def attach(self, corpus: str, given: Sequence[Mapping[str, Any]], method: str = "PUT") -> dict[str, Any]:
        answer = self.put(corpus, lines(given), method)
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.get_json()
        return made

    def work(self) -> None:
        """Every shard that waits, by a worker."""
        serve(self.runner())

    def runner(self) -> Runner:
        return runner_of(self.database, self.settings)

    def sweep(self) -> None:
        Sweeper(settings=self.settings, database=self.database, doorbell=Doorbell(self.settings))._evaluate()

    def folder(self, corpus: str) -> Path:
        return corpora.store_directory(self.settings.data_dir, corpus)

    def metrics(self, job: str) -> tuple[dict[str, Any], Any, int]:
        """Metrics by name without those that tell how long it took, matrix, and version of the references."""
        shown = self.http.get(f"/api/v1/jobs/{job}/metrics").get_json()
        kept = {each["name"]: each for each in shown["metrics"] if not each["name"].startswith(CLOCKED)}
        return kept, shown["confusion_matrix"], shown["references_version"]

    def version(self, job: str) -> int:
        return int(self.http.get(f"/api/v1/jobs/{job}").get_json()["references_version"])

    def statistics(self, job: str) -> list[tuple[int, Any]]:
        with reading(self.database) as connection:
            key = jobs.get(connection, job).key
            rows = connection.exec_driver_sql(
                f"SELECT position, statistics FROM results WHERE job_key = {key} ORDER BY position"
            )
            return [(row[0], json.loads(row[1]) if isinstance(row[1], str) else row[1]) for row in rows]

    def partial(self, job: str) -> dict[str, Any]:
        with reading(self.database) as connection:
            return metrics.merged(connection, jobs.get(connection, job).key)[0]


def lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def system(database_url: str, database: Engine, tmp_path: Path) -> Iterator[System]:
    settings = Settings(
        data_dir=tmp_path / "data", database_url=database_url.replace("+psycopg", ""), shard_documents=4,
        broker_url=f"redis+socket://{tmp_path}/none.sock", lease_seconds=60.0,
    )  # fmt: skip
    app = create_app(settings)
    yield System(app.test_client(), database, settings)
    app.extensions["corpusmill"].database.dispose()


def plain() -> list[dict[str, Any]]:
    return [{"id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)] + [{"id": "blank", "text": " "}]


GOLD: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "classification": ({}, [str(number % 4) for number in range(25)]),
    "several labels": ({"multi_label": True}, [[str(number % 4), "other"][: 1 + number % 2] for number in range(25)]),
    "summarization": ({}, [f"The fox number {number}." for number in range(25)]),
    "translation": ({"target_lang": None}, [[text[::-1], "nar tI"] for text in TEXTS]),
}


@pytest.mark.parametrize("kind", GOLD)
def test_metrics_become_exactly_those_of_a_corpus_uploaded_with_the_references(system: System, kind: str) -> None:
    params, gold = GOLD[kind]
    task = "classification" if kind == "several labels" else kind
    with_gold = [{**row, "reference": value} for row, value in zip(plain(), gold, strict=False)] + [plain()[-1]]
    expected, late = system.upload(with_gold), system.upload(plain())
    job, later = system.submit(expected, task, **params), system.submit(late, task, **params)
    system.work()
    assert "accuracy" not in system.metrics(later)[0]
    made = system.attach(late, [{"id": f"d{number}", "reference": value} for number, value in enumerate(gold)])
    assert (made["version"], made["documents"]) == (1, 25)
    assert system.metrics(later) == (*system.metrics(job)[:2], 1)
    assert system.version(later) == 1
    assert system.statistics(later) == system.statistics(job)
    assert system.partial(later) == system.partial(job)
    documents = [system.http.get(f"/api/v1/corpora/{each}/documents").get_json()["data"] for each in (expected, late)]
    assert documents[0] == documents[1]
    exported = [system.http.get(f"/api/v1/jobs/{each}/export?format=jsonl").data for each in (job, later)]
    assert exported[0] == exported[1]


def test_a_sweeper_holds_the_jobs_of_a_corpus_against_its_new_references(system: System) -> None:
    corpus = system.upload(plain())
    job = system.submit(corpus)
    system.work()
    system.attach(corpus, [{"position": 3, "reference": "1"}])
    assert system.version(job) == 0
    system.sweep()
    assert system.version(job) == 1
    with reading(system.database) as connection:
        assert {each.name: each.n for each in metrics.stored(connection, jobs.get(connection, job)).metrics}[
            "accuracy"
        ] == 1
        assert metrics.unevaluated(connection) == []


def test_a_job_that_runs_is_held_against_references_that_come_meanwhile(system: System) -> None:
    corpus = system.upload(plain())
    job = system.submit(corpus)
    first = system.runner()
    ready = first.take(ahead=False)
    assert ready is not None
    ready.results = next(iter(ready.engine.run(ready.work.prepared, ready.work.usage, lambda: False)))
    done = first.outcome(ready)
    assert done is not None
    first.save(done)  # the first shard has ended before the references come, and the second is under way
    second = first.take(ahead=False)
    assert second is not None
    system.attach(corpus, [{"id": f"d{number}", "reference": "1"} for number in range(25)])
    assert system.version(job) == 0
    second.results = next(iter(second.engine.run(second.work.prepared, second.work.usage, lambda: False)))
    ran = first.outcome(second)
    assert ran is not None
    first.save(ran)
    with reading(system.database) as connection:
        states = connection.exec_driver_sql("SELECT state, references_version FROM shards ORDER BY start").all()
    assert [tuple(state) for state in states[:3]] == [("done", 0), ("done", 1), ("pending", 0)]
    system.sweep()
    found, _, version = system.metrics(job)
    assert (found["accuracy"]["n"], version) == (8, 1)
    system.work()
    found, _, version = system.metrics(job)
    assert (found["accuracy"]["n"], version) == (25, 1)


def test_a_shard_is_saved_though_the_references_cannot_be_read(system: System) -> None:
    corpus = system.upload(plain())
    job = system.submit(corpus)
    system.attach(corpus, [{"id": f"d{number}", "reference": "1"} for number in range(25)])
    index = next(system.folder(corpus).glob("references_*.index"))
    kept = index.read_bytes()
    index.unlink()
    system.work()
    with reading(system.database) as connection:
        losses = connection.exec_driver_sql("SELECT state, losses, references_version FROM shards").all()
    assert {tuple(each) for each in losses} == {("done", 0, 0)}
    system.sweep()
    found, _, version = system.metrics(job)  # what there is without them, and no error
    assert ("accuracy" in found, version) == (False, 0)
    index.write_bytes(kept)
    found, _, version = system.metrics(job)
    assert (found["accuracy"]["n"], version) == (25, 1)


def test_a_job_whose_metrics_cannot_be_made_keeps_no_other_from_its_own(system: System) -> None:
    spoiled, sound = (system.upload(plain()) for _ in range(2))
    older, newer = system.submit(spoiled), system.submit(sound)
    system.work()
    for corpus in (spoiled, sound):
        system.attach(corpus, [{"id": "d3", "reference": "1"}])
    for index in system.folder(spoiled).glob("references_*.index"):
        index.write_bytes(index.read_bytes()[:-8] + bytes(8))
    system.sweep()
    assert (system.version(older), system.version(newer)) == (0, 1)


def test_versions_that_are_no_longer_in_force_leave_the_disk_after_a_while(system: System) -> None:
    corpus = system.upload(plain())
    for label in ("0", "1", "2"):
        system.attach(corpus, [{"id": "d3", "reference": label}])
    (system.folder(corpus) / "references_of_a_crash.jsonl").write_bytes(b"")
    remove = references.remove_superseded
    remove(system.database, system.settings.data_dir, older=3600.0)
    assert len(list(system.folder(corpus).glob("references_*"))) == 7
    remove(system.database, system.settings.data_dir, older=-1.0)
    assert len(list(system.folder(corpus).glob("references_*"))) == 2
    job = system.submit(corpus)
    system.work()
    found, _, version = system.metrics(job)
    assert (found["accuracy"]["n"], version) == (1, 3)


def test_what_a_retry_keeps_is_held_against_the_new_references_too(system: System) -> None:
    corpus = system.upload(plain())
    job = system.submit(corpus)
    system.work()
    assert system.http.post(f"/api/v1/jobs/{job}/retry").status_code == 202
    system.attach(corpus, [{"id": f"d{number}", "reference": "2"} for number in range(25)])
    system.work()
    found, _, version = system.metrics(job)
    assert (found["accuracy"]["n"], version) == (25, 1)


def test_put_replaces_and_patch_adds(system: System) -> None:
    corpus = system.upload([{"text": "one", "reference": "a"}, {"text": "two", "reference": "b"}, {"text": "three"}])

    def held() -> list[Any]:
        shown = system.http.get(f"/api/v1/corpora/{corpus}/documents").get_json()["data"]
        return [each["reference"] for each in shown]

    assert system.attach(corpus, [{"id": 2, "reference": 3}], "PATCH")["documents"] == 3
    assert held() == ["a", "b", "3"]
    system.attach(corpus, [{"position": 0, "reference": None}, {"position": 1, "reference": ["x", "y"]}], "PATCH")
    assert held() == [None, ["x", "y"], "3"]
    system.attach(corpus, [{"position": 1, "reference": "z"}])
    assert held() == [None, "z", None]
    again = system.attach(corpus, [{"id": "1", "reference": "z"}])
    assert again["version"] == 3, "the same references are no new version"
    shown = system.http.get(f"/api/v1/corpora/{corpus}/references").get_json()["data"]
    assert [each["version"] for each in shown] == [3, 2, 1]
    directory = system.settings.data_dir / "corpora" / corpus
    assert len(list(directory.glob("references_*"))) == 6, "files of versions alone are kept"
    assert list((system.settings.data_dir / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("given", "line", "said"),
    [
        (b'{"id": "d1", "reference": "x"}\n{"id": "nobody", "reference": "x"}\n', 2, "No document of the corpus has"),
        (b'{"id": "twice", "reference": "x"}\n', 1, "2 documents of the corpus have the id"),
        (b'{"id": "d1", "reference": "x"}\n\n{"position": 1, "reference": "x"}\n', 3, "Line 1 gives a reference for the"),
        (b'{"id": "d1", "reference": "x"}\n{"id": "d1", "reference": "x"}\n', 2, "Line 1 gives"),
        (b'{"id": "d1", "position": 1, "reference": "x"}\n', 1, "one of `id` and `position`"),
        (b'{"reference": "x"}\n', 1, "one of `id` and `position`"),
        (b'{"id": "d1"}\n', 1, "'reference' is missing"),
        (b'{"id": "d1", "refernce": "x"}\n', 1, "Did you mean 'reference'?"),
        (b'{"position": 27, "reference": "x"}\n', 1, "The corpus has 27 documents"),
        (b'{"position": -1, "reference": "x"}\n', 1, "The corpus has 27 documents"),
        (b'{"position": true, "reference": "x"}\n', 1, "A position is a whole number"),
        (b'{"id": "d1", "reference": {"a": 1}}\n', 1, "A reference is text"),
        (b'{"id": {}, "reference": "x"}\n', 1, "An id is text or a number"),
        (b'{"id": "d1", "reference": "x"}\nno json\n', 2, "Expecting value"),
        (b'{"id": "d1", "reference": "\\ud800"}\n', 1, "lone surrogate"),
        (b'["d1", "x"]\n', 1, "must hold an object"),
    ],
)  # fmt: skip
def test_lines_that_cannot_be_used_are_named_and_nothing_is_kept(
    system: System, given: bytes, line: int, said: str
) -> None:
    corpus = system.upload([*plain()[:-1], {"id": "twice", "text": "a"}, {"id": "twice", "text": "b"}])
    answer = system.put(corpus, given)
    problem = answer.get_json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_references")
    assert problem["errors"][0]["pointer"].split("/")[1] == str(line)
    assert problem["errors"][0]["message"].startswith(f"Line {line}: ")
    assert said in problem["errors"][0]["message"]
    assert system.http.get(f"/api/v1/corpora/{corpus}").get_json()["references_version"] == 0
    assert list((system.settings.data_dir / "uploads").iterdir()) == []


def test_ids_that_are_not_unique_are_no_trouble_where_positions_are_given(system: System) -> None:
    corpus = system.upload([{"id": "twice", "text": "a"}, {"id": "twice", "text": "b"}])
    assert (
        system.attach(corpus, [{"position": 1, "reference": "x"}, {"position": 0, "reference": "y"}])["documents"] == 2
    )


def test_references_come_compressed_too_and_what_is_no_jsonl_is_refused(system: System) -> None:
    corpus = system.upload(plain())
    packed = gzip.compress(lines([{"id": "d1", "reference": "x"}]))
    assert system.put(corpus, packed, **{"Content-Encoding": "gzip"}).status_code == 200
    refused = system.http.put(f"/api/v1/corpora/{corpus}/references", data=b"id,reference\n", content_type="text/csv")
    assert refused.status_code == 415
    assert system.put("corpus_none", b"").status_code == 404


def test_a_version_made_upon_another_than_the_one_in_force_is_refused(system: System) -> None:
    corpus = system.upload(plain())
    system.attach(corpus, [{"id": "d1", "reference": "x"}])
    with pytest.raises(Conflict, match="meanwhile"):
        transact(
            system.database,
            lambda connection: references.add(connection, corpus, file="f", documents=1, sha256="0" * 64, upon=0),
        )


def test_a_shard_opened_again_while_its_statistics_were_made_is_left_alone(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = system.upload(plain())
    job = system.submit(corpus)
    system.work()
    system.attach(corpus, [{"id": f"d{number}", "reference": "1"} for number in range(25)])
    with reading(system.database) as connection:
        key = jobs.get(connection, job).key
    made = references.attached

    def meanwhile(*given: Any) -> Any:
        monkeypatch.setattr(references, "attached", made)
        with system.database.begin() as connection:
            connection.exec_driver_sql("UPDATE shards SET attempt = attempt + 1 WHERE start = 0")
        return made(*given)

    monkeypatch.setattr(references, "attached", meanwhile)
    assert not rescoring.bring_up_to_date(system.database, system.settings.data_dir, key, seconds=0.0)
    assert rescoring.bring_up_to_date(system.database, system.settings.data_dir, key)
    assert all(one["t"] == "1" for _, one in system.statistics(job) if one is not None)


def test_metrics_of_a_corpus_that_was_deleted_stay_what_they_were(system: System) -> None:
    corpus = system.upload(plain())
    job = system.submit(corpus)
    system.work()
    before = system.metrics(job)
    system.attach(corpus, [{"id": "d1", "reference": "x"}])
    assert system.http.delete(f"/api/v1/corpora/{corpus}").status_code == 204
    system.sweep()
    assert system.metrics(job) == before


def test_a_backup_holds_the_references_that_its_database_knows(system: System, tmp_path: Path) -> None:
    if not system.settings.database.startswith("sqlite"):
        pytest.skip("what files a backup holds is the same for both")
    corpus = system.upload(plain())
    system.attach(corpus, [{"id": "d1", "reference": "x"}])
    backup.back_up(system.settings, tmp_path / "backup")
    system.attach(corpus, [{"id": "d1", "reference": "y"}])
    there = Settings(data_dir=tmp_path / "again")
    restore.restore(there, tmp_path / "backup")
    engine = create_engine(there.database)
    with reading(engine) as connection:
        version = references.current(connection, corpora.get(connection, corpus).key)
    engine.dispose()
    assert version is not None
    assert list(references.opened(there.data_dir, corpus, version).between(0)) == [(1, "x")]


def test_a_database_from_before_references_had_versions_is_brought_up_to_them(database_url: str) -> None:
    migrate(database_url, "0002")
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO corpora (id, status, format, bytes, sha256, fields, options, created_at) "
            "VALUES ('corpus_old', 'ready', 'jsonl', 1, '', '[]', '{}', 0)"
        )
    migrate(database_url)
    with reading(engine) as connection:
        assert corpora.get(connection, "corpus_old").references_version == 0
    engine.dispose()
