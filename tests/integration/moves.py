"""What is asked of a job, and what workers write where documents fail."""

from __future__ import annotations

from typing import Any

from corpusmill.shards import Slice
from db import job_moves, jobs, results, shards
from db.engine import Engine, reading, transact
from db.results import ResultRow, Selection
from db.shards import Claim

PAUSES = {
    "pause": job_moves.request_pause,
    "resume": job_moves.request_resume,
    "cancel": job_moves.request_cancel,
    "retry": job_moves.retry,
}


def ask(database: Engine, move: str, job_id: str = "job_a") -> jobs.Job:
    return transact(database, lambda connection: PAUSES[move](connection, job_id))


def rows(piece: Slice, failed: frozenset[int] = frozenset(), skip: frozenset[int] = frozenset()) -> list[ResultRow]:
    return [
        ResultRow(
            position=position, document_id=str(position), status="failed" if position in failed else "succeeded",
            output=None if position in failed else {"label": "x"},
            error={"code": "internal"} if position in failed else None,
            n_tokens=1, n_segments=1, truncated=False, statistics=None if position in failed else {"p": "x"},
        )
        for position in range(piece.start, piece.stop) if position not in skip
    ]  # fmt: skip


def finish(database: Engine, held: Claim, written: list[ResultRow], **usage: Any) -> bool:
    return transact(
        database, lambda connection: shards.finish(connection, held, rows=written, usage=usage, partial={}), patience=5
    )


def stored(database: Engine, job: jobs.Job) -> dict[int, str]:
    with reading(database) as connection:
        return {row.position: row.status for row in results.read(connection, job.key, Selection())}
