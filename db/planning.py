"""Turns a corpus into a job's shards.

Knows the settings' sizes and the store's lengths. The rule itself is `corpusmill.shards.plan_shards`.
"""

from __future__ import annotations

from functools import partial

import structlog

from corpora import Store
from corpusmill.errors import CorpusDamaged, NotFound
from corpusmill.settings import Settings
from corpusmill.shards import SHARD_SIZES, ShardSize, Slice, plan_shards
from corpusmill.tasks import Task
from db import corpora, files, jobs
from db.corpora import Corpus, store_directory
from db.engine import Connection, Engine, reading, transact

log = structlog.get_logger(__name__)


def slices(settings: Settings, corpus: Corpus, task: Task) -> list[Slice] | None:
    """The shards of a job over a corpus, or None while it is validating, and where it was rejected.

    Raises NotFound where its files are gone, CorpusDamaged, and OSError where this machine cannot read them now.
    """
    if corpus.status != "ready":
        return None
    usual = SHARD_SIZES[task]
    size = ShardSize(documents=settings.shard_documents or usual.documents, bytes=settings.shard_bytes or usual.bytes)
    store = Store(store_directory(settings.data_dir, corpus.id))
    return list(plan_shards(store.text_sizes(), size))


def plan_waiting(database: Engine, settings: Settings, corpus_id: str | None = None) -> int:
    """Plan the jobs whose corpus has become ready meanwhile, and fail those whose corpus was rejected or is damaged. Those
    whose corpus this machine cannot read now go on waiting. Returns how many were planned or failed."""
    with reading(database) as connection:
        only = corpora.get(connection, corpus_id).key if corpus_id else None
        waiting = jobs.unplanned(connection, only)
    done = 0
    for job_key, found_id, task in waiting:
        with reading(database) as connection:
            corpus = corpora.get(connection, found_id)
        try:
            planned = _planned(settings, corpus, task)
        except OSError as error:
            log.warning("a job is not planned", job=job_key, corpus=found_id, why=str(error))
            continue
        transact(database, partial(_plan, job_key=job_key, corpus=corpus, planned=planned))
        done += 1
    return done


def _planned(settings: Settings, corpus: Corpus, task: Task) -> list[Slice] | CorpusDamaged | None:
    """The same as `slices`, where damage of one corpus keeps no job over another waiting."""
    try:
        return slices(settings, corpus, task)
    except CorpusDamaged as damage:
        return damage
    except NotFound:
        return files.gone(settings.data_dir, corpus.id)


def _plan(connection: Connection, *, job_key: int, corpus: Corpus, planned: list[Slice] | CorpusDamaged | None) -> None:
    if isinstance(planned, CorpusDamaged):
        jobs.fail(connection, job_key, code=planned.code, message=str(planned))
    elif planned is None:
        why = (corpus.error or {}).get("message", "it holds no documents.")
        jobs.fail(connection, job_key, code="corpus_rejected", message=f"The corpus was rejected: {why}")
    else:
        jobs.plan(connection, job_key, planned, invalid=corpus.invalid)
