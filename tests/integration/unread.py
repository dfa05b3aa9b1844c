"""What the tests of readers are told in: an upload that has arrived whole and that nobody has read."""

from __future__ import annotations

from corpora import Store
from corpusmill.settings import Settings
from db import corpora
from db.corpora import Corpus, store_directory, upload_path
from db.engine import Engine, reading, transact

BODY = b'{"text": "a"}\n{"text": "b"}\n'


def arrive(database: Engine, settings: Settings, corpus_id: str) -> None:
    path = upload_path(settings.data_dir, corpus_id)
    path.parent.mkdir(parents=True)
    store_directory(settings.data_dir, corpus_id).parent.mkdir()
    path.write_bytes(BODY)
    transact(
        database,
        lambda connection: corpora.create(
            connection, id=corpus_id, name=None, format="jsonl", encoding=None, bytes=len(BODY), sha256="0" * 64,
            options={"text_field": "text"},
        ),
    )  # fmt: skip


def found(database: Engine, corpus_id: str) -> Corpus:
    with reading(database) as connection:
        return corpora.get(connection, corpus_id)


def texts(settings: Settings, corpus_id: str) -> list[str]:
    return [one.text for one in Store(store_directory(settings.data_dir, corpus_id)).documents()]


def lapse(database: Engine) -> None:
    """The lease of whoever reads is over, as after a pause or while the database was away."""
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE corpora SET created_at = 1")
        connection.exec_driver_sql("UPDATE corpora SET lease_until = 1 WHERE lease_until IS NOT NULL")


def take(database: Engine, corpus_id: str, owner: str) -> None:
    lapse(database)
    taken = transact(database, lambda connection: corpora.claim(connection, corpus_id, owner=owner, lease=30.0))
    assert taken is not None
