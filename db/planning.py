"""Turns a corpus into a job's shards.

Knows the settings' sizes and the store's lengths. The rule itself is `corpusmill.shards.plan_shards`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from corpora import Store
from corpusmill.errors import CorpusDamaged, NotFound
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
    """Plan the jobs whose corpus has become ready meanwhile, and fail those whose corpus was rejected or is damaged. Returns
    how many."""
    with reading(database) as connection:
        only = corpora.get(connection, corpus_id).key if corpus_id else None
        waiting = jobs.unplanned(connection, only)
    for job_key, found_id, task in waiting:
        with reading(database) as connection:
            corpus = corpora.get(connection, found_id)
        transact(database, partial(_plan, job_key=job_key, corpus=corpus, planned=_planned(settings, corpus, task)))
    return len(waiting)


def _planned(settings: Settings, corpus: Corpus, task: Task) -> list[Slice] | CorpusDamaged | None:
    """The same as `slices`, where damage of one corpus keeps no job over another waiting."""
    try:
        return slices(settings, corpus, task)
    except CorpusDamaged as damage:
        return damage
    except NotFound:
        return CorpusDamaged(f"The files of {corpus.id} are not in the data directory of whoever was to plan the job.")


def _plan(connection: Connection, *, job_key: int, corpus: Corpus, planned: list[Slice] | CorpusDamaged | None) -> None:
    if isinstance(planned, CorpusDamaged):
        jobs.fail(connection, job_key, code=planned.code, message=str(planned))
    elif planned is None:
        why = (corpus.error or {}).get("message", "it holds no documents.")
        jobs.fail(connection, job_key, code="corpus_rejected", message=f"The corpus was rejected: {why}")
    else:
        jobs.plan(connection, job_key, planned, invalid=corpus.invalid)


def _lengths(sizes: Any) -> Iterator[int]:
    """Plain integers in blocks: iterating a memory map element by element is ten times slower."""
    for start in range(0, len(sizes), _BLOCK):
        yield from sizes[start : start + _BLOCK].tolist()
