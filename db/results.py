"""Results: one row for each document of a job that has ended, written in bulk and read by position.

Knows the table `results` and each dialect's fastest way in. Must not know which shard or worker a row came from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, exc, func, select

from corpusmill.documents import Result
from corpusmill.errors import DocumentError
from corpusmill.shards import Slice
from db.engine import without_row
from db.tables import results

_READ_ROWS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """A result as it is kept, with its sufficient statistics."""

    position: int
    document_id: str
    status: Literal["succeeded", "failed"]
    output: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    n_tokens: int
    n_segments: int
    truncated: bool
    statistics: Mapping[str, Any] | None = None


_COLUMNS = (
    "job_key", "position", "document_id", "status", "output", "error", "label", "score", "n_tokens", "n_segments",
    "truncated", "statistics",
)  # fmt: skip


def row_of(result: Result, statistics: Mapping[str, Any] | None) -> ResultRow:
    """The row of a result."""
    error = result.error
    return ResultRow(
        position=result.position,
        document_id=result.document_id,
        status=result.status,
        output=result.output,
        error={"code": error.code, "message": error.message, "retryable": error.retryable} if error else None,
        n_tokens=result.n_tokens,
        n_segments=result.n_segments,
        truncated=result.truncated,
        statistics=statistics,
    )


def result_of(row: ResultRow) -> Result:
    """The result that a row was made of."""
    return Result(
        position=row.position,
        document_id=row.document_id,
        output=None if row.status == "failed" else dict(row.output or {}),
        error=DocumentError(**row.error) if row.error else None,
        n_tokens=row.n_tokens,
        n_segments=row.n_segments,
        truncated=row.truncated,
    )


def write(connection: Connection, job_key: int, rows: Sequence[ResultRow]) -> None:
    """Insert the rows, replacing what stands at their positions (documents that failed and were run again)."""
    if not rows:
        return
    values = [_values(job_key, row) for row in rows]
    if connection.dialect.name == "postgresql":
        _copy(connection, values)
    else:
        connection.exec_driver_sql(_UPSERT, values)


_UPSERT = (
    f"INSERT INTO results ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "  # noqa: S608
    "ON CONFLICT (job_key, position) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:])
)


def _copy(connection: Connection, values: list[tuple[Any, ...]]) -> None:
    """COPY into a staging table of this transaction, then one INSERT: COPY itself knows no ON CONFLICT."""
    columns = ", ".join(_COLUMNS)
    connection.exec_driver_sql(
        "CREATE TEMPORARY TABLE IF NOT EXISTS results_staging (LIKE results INCLUDING DEFAULTS) ON COMMIT DELETE ROWS"
    )
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(f"COPY results_staging ({columns}) FROM STDIN") as copy:
            for row in values:
                copy.write_row(row)
    except driver.Error as error:  # the driver's own, which SQLAlchemy does not see
        without_row(error)
        if isinstance(error, driver.OperationalError):
            raise exc.OperationalError("COPY results_staging", None, error) from error
        raise
    connection.exec_driver_sql(
        f"INSERT INTO results ({columns}) SELECT {columns} FROM results_staging "  # noqa: S608
        "ON CONFLICT (job_key, position) DO UPDATE SET "
        + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:])
    )


def _values(job_key: int, row: ResultRow) -> tuple[Any, ...]:
    output = row.output or {}
    label = output.get("label")
    return (
        job_key, row.position, row.document_id, row.status, _json(row.output), _json(row.error), label,
        output.get("score"), row.n_tokens, row.n_segments, row.truncated, _json(row.statistics),
    )  # fmt: skip


def _json(value: Mapping[str, Any] | None) -> str | None:
    # NUL cannot be kept in PostgreSQL, and no JSON says NaN: the one is replaced, the other is a fault of ours.
    if value is None:
        return None
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("\\u0000", "�") if "\\u0000" in text else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows to read: positions from `start` to `stop` (excluded), and what they must be."""

    start: int = 0
    stop: int | None = None
    status: str | None = None
    label: str | None = None
    min_score: float | None = None
    max_score: float | None = None


def read(
    connection: Connection, job_key: int, selection: Selection, *, limit: int | None = None
) -> Iterator[ResultRow]:
    """Rows in order of position, streamed: memory does not grow with their number."""
    query = (
        select(*[results.c[name] for name in _READ])
        .where(results.c.job_key == job_key, results.c.position >= selection.start)
        .order_by(results.c.position)
    )
    if selection.stop is not None:
        query = query.where(results.c.position < selection.stop)
    if selection.status is not None:
        query = query.where(results.c.status == selection.status)
    if selection.label is not None:
        query = query.where(results.c.label == selection.label)
    if selection.min_score is not None:
        query = query.where(results.c.score >= selection.min_score)
    if selection.max_score is not None:
        query = query.where(results.c.score <= selection.max_score)
    if limit is not None:
        query = query.limit(limit)
    for row in connection.execute(query.execution_options(yield_per=_READ_ROWS)):
        yield _row(row)


def kept(connection: Connection, job_key: int, piece: Slice) -> list[ResultRow]:
    """The succeeded documents of a slice with their statistics, in order of position."""
    query = (
        select(*[results.c[name] for name in (*_READ, "statistics")])
        .where(results.c.job_key == job_key, results.c.status == "succeeded")
        .where(results.c.position >= piece.start, results.c.position < piece.stop)
        .order_by(results.c.position)
    )
    return [ResultRow(**row._mapping) for row in connection.execute(query)]


def succeeded(connection: Connection, job_key: int, piece: Slice) -> int:
    """How many documents of a slice have succeeded."""
    query = (
        select(func.count())
        .select_from(results)
        .where(results.c.job_key == job_key, results.c.status == "succeeded")
        .where(results.c.position >= piece.start, results.c.position < piece.stop)
    )
    return connection.execute(query).scalar_one()


def statistics(connection: Connection, job_key: int) -> Iterator[Mapping[str, Any]]:
    """The sufficient statistics of a job's succeeded documents, in order of position."""
    query = (
        select(results.c.statistics)
        .where(results.c.job_key == job_key, results.c.statistics.is_not(None))
        .order_by(results.c.position)
    )
    yield from connection.scalars(query.execution_options(yield_per=_READ_ROWS))


_READ = ("position", "document_id", "status", "output", "error", "n_tokens", "n_segments", "truncated")


def _row(row: Row[Any]) -> ResultRow:
    return ResultRow(**dict(zip(_READ, row, strict=True)))
