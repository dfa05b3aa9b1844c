"""What the tests of the tables are told in: a corpus, a job over it, and what workers do to its shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import sqlalchemy

from corpora import store_items
from corpusmill.documents import Document, IngestError
from corpusmill.errors import NotFound
from corpusmill.models import ModelInfo
from corpusmill.shards import Slice
from corpusmill.tasks import Task
from db import corpora, jobs, losses, results, shards, tables, turns
from db.engine import Connection, Engine, reading, transact
from db.results import ResultRow, Selection

ECHO = ModelInfo(id="echo", revision="1", family="echo", tasks=tuple(Task))
#: A worker that has had the model of `ECHO` for long.
LOADED = {("echo", "1"): 1_000.0}
OTHER = ModelInfo(id="other", revision="1", family="echo", tasks=tuple(Task))


def put(data_dir: Path, corpus_id: str, items: Iterable[Document | IngestError]) -> Path:
    """The files of a corpus, in their directory, which is returned."""
    directory = corpora.store_directory(data_dir, corpus_id)
    directory.parent.mkdir(parents=True, exist_ok=True)
    store_items(items, directory)
    return directory


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


def forget_back_off(connection: Connection) -> None:
    """Whatever waits until later may run at once."""
    connection.execute(sqlalchemy.update(tables.shards).values(not_before=0))


def jobs_of(database: Engine, held: shards.Claim) -> str:
    with reading(database) as connection:
        return jobs.by_key(connection, held.job_key).id


def loses_commits(database: Engine) -> Callable[[], None]:
    """Call what this returns, and the database's answer to the engine's next writing transaction is lost, which is
    committed."""
    dialect: Any = database.dialect
    commit = dialect.do_commit
    armed = [False, False]  # by the test; and within a commit of what it is for

    def begins(connection: Any) -> None:
        armed[1] = armed[0] and bool(connection.get_execution_options().get("corpusmill_writes"))

    def lost(connection: Any) -> None:
        commit(connection)
        if armed[1]:
            armed[:] = [False, False]
            raise dialect.dbapi.OperationalError("the connection is lost")

    def arm() -> None:
        armed[0] = True

    sqlalchemy.event.listen(database, "commit", begins)
    dialect.do_commit = lost
    return arm
