"""Turns a corpus into a job's shards.

Knows the settings' sizes and the store's lengths. The rule itself is `corpusmill.shards.plan_shards`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from corpora import Store
from corpusmill.settings import Settings
from corpusmill.shards import SHARD_SIZES, ShardSize, Slice, plan_shards
from corpusmill.tasks import Task
from db import corpora, jobs
from db.corpora import Corpus, store_directory
from db.engine import Connection, Engine, reading, transact

_BLOCK = 1 << 16


def slices(settings: Settings, corpus: Corpus, task: Task) -> list[Slice] | None:
    """The shards of a job over a corpus, or None while the corpus is validating."""
    if corpus.status != "ready":
        return None
    usual = SHARD_SIZES[task]
    size = ShardSize(documents=settings.shard_documents or usual.documents, bytes=settings.shard_bytes or usual.bytes)
    store = Store(store_directory(settings.data_dir, corpus.id))
    return list(plan_shards(_lengths(store.text_sizes()), size))


def plan_waiting(database: Engine, settings: Settings, corpus_id: str | None = None) -> int:
    """Plan the jobs whose corpus has become ready meanwhile, and fail those whose corpus was rejected. Returns how many."""
    with reading(database) as connection:
        only = corpora.get(connection, corpus_id).key if corpus_id else None
        waiting = jobs.unplanned(connection, only)
    for job_key, found_id, task in waiting:
        with reading(database) as connection:
            corpus = corpora.get(connection, found_id)
        planned = slices(settings, corpus, task)

        def write(
            connection: Connection,
            job_key: int = job_key,
            corpus: Corpus = corpus,
            planned: list[Slice] | None = planned,
        ) -> None:
            if planned is None:
                why = (corpus.error or {}).get("message", "it holds no documents.")
                jobs.fail(connection, job_key, code="corpus_rejected", message=f"The corpus was rejected: {why}")
            else:
                jobs.plan(connection, job_key, planned, invalid=corpus.invalid)

        transact(database, write)
    return len(waiting)


def _lengths(sizes: Any) -> Iterator[int]:
    """Plain integers in blocks: iterating a memory map element by element is ten times slower."""
    for start in range(0, len(sizes), _BLOCK):
        yield from sizes[start : start + _BLOCK].tolist()
