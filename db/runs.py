"""Runs: one row for each fire, who works at it, and how far it is.

Knows the table `runs`, its lease by the database's clock, and the attempt that fences a late writer. Must not know what a
stage does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from sqlalchemy import Connection, Row, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from corpusmill.errors import LeaseLost, NewerVersion, NotFound
from corpusmill.ids import new_id
from corpusmill.schedules import ScheduleDefinition
from corpusmill.validation import read_stored
from db.engine import db_now
from db.schedules import Schedule
from db.tables import runs, schedules

log = structlog.get_logger(__name__)

Trigger = Literal["cron", "tick", "manual"]
RunStatus = Literal["waiting", "running", "paused", "succeeded", "failed", "skipped", "cancelled"]
Stage = Literal["read", "label", "deliver", "review", "report"]
#: The statuses of runs that have not ended.
UNFINISHED: tuple[RunStatus, ...] = ("waiting", "running", "paused")
#: So long a run that this program cannot read is left alone for one that can.
_BEYOND_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as its row stands. Times are seconds since 1970; `now` is the database's clock at the time of reading."""

    key: int
    id: str
    schedule_key: int
    schedule_id: str
    fire_time: float
    trigger: Trigger
    status: RunStatus
    stage: Stage
    attempt: int
    failures: int
    corpus_id: str | None
    job_id: str | None
    definition: ScheduleDefinition
    position: Mapping[str, Any] | None
    counts: Mapping[str, Any]
    report: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    cancel: bool
    created_at: float
    started_at: float | None
    finished_at: float | None
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A run that this process holds: `owner` and the run's attempt are the fence."""

    run: Run
    owner: str


_READ = select(
    *[runs.c[name] for name in Run.__dataclass_fields__ if name not in ("schedule_id", "now")],
    schedules.c.id.label("schedule_id"),
    db_now().label("now"),
).join(schedules, schedules.c.key == runs.c.schedule_key)


def fire(
    connection: Connection, schedule: Schedule, fire_time: float, trigger: Trigger, *, status: RunStatus = "waiting"
) -> str | None:
    """A run for a slot, or None where the slot has one: of any number of tickers one writes it. Returns its id."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    ended = None if status in UNFINISHED else db_now()
    row = (
        dialect.insert(runs)
        .values(
            id=new_id("run"), schedule_key=schedule.key, fire_time=fire_time, trigger=trigger, status=status,
            stage="read", definition=schedule.definition.model_dump(mode="json"), created_at=db_now(),
            finished_at=ended,
        )
        .on_conflict_do_nothing(index_elements=["schedule_key", "fire_time"])
        .returning(runs.c.id)
    )  # fmt: skip
    written: str | None = connection.scalar(row)
    return written


def fire_now(connection: Connection, schedule: Schedule) -> str | None:
    """A run by hand at this moment, to the millisecond, or None where that moment has one. Returns its id."""
    moment = round(float(connection.execute(select(db_now())).scalar_one()), 3)
    return fire(connection, schedule, moment, "manual")


def get(connection: Connection, run_id: str) -> Run:
    """The run with that id. Raises NotFound."""
    row = connection.execute(_READ.where(runs.c.id == run_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no run {run_id!r}.")
    return _run(row)


def page(connection: Connection, schedule_key: int, *, before: int | None, limit: int) -> list[Run]:
    """Up to `limit` runs of a schedule, newest first, older than the key `before`."""
    query = _READ.where(runs.c.schedule_key == schedule_key).order_by(runs.c.key.desc()).limit(limit)
    if before is not None:
        query = query.where(runs.c.key < before)
    return [_run(row) for row in connection.execute(query)]


def before(connection: Connection, run: Run, limit: int) -> list[Run]:
    """Up to `limit` runs of the same schedule that succeeded before this one, newest first."""
    query = (
        _READ.where(runs.c.schedule_key == run.schedule_key, runs.c.key < run.key, runs.c.status == "succeeded")
        .order_by(runs.c.key.desc())
        .limit(limit)
    )
    return [_run(row) for row in connection.execute(query)]


def unfinished(connection: Connection, *, schedule_key: int | None = None, until: float | None = None) -> list[str]:
    """Ids of the runs that have not ended, in order; those of one schedule, of slots up to `until`, where that is said."""
    query = select(runs.c.id).where(runs.c.status.in_(UNFINISHED)).order_by(runs.c.key)
    if schedule_key is not None:
        query = query.where(runs.c.schedule_key == schedule_key)
    if until is not None:
        query = query.where(runs.c.fire_time <= until)
    return list(connection.scalars(query))


def has_slot(connection: Connection, schedule_key: int, fire_time: float) -> bool:
    """Whether a slot has its run."""
    query = select(runs.c.key).where(runs.c.schedule_key == schedule_key, runs.c.fire_time == fire_time)
    return connection.scalar(query) is not None


def request_cancel(connection: Connection, schedule_key: int) -> None:
    """Cancel what has not ended of a schedule: what nobody has begun now, the rest when it is next looked at."""
    mine = runs.c.schedule_key == schedule_key
    connection.execute(
        update(runs)
        .where(mine, runs.c.status == "waiting", runs.c.started_at.is_(None), runs.c.owner.is_(None))
        .values(status="cancelled", cancel=True, finished_at=db_now())
    )
    connection.execute(update(runs).where(mine, runs.c.status.in_(UNFINISHED)).values(cancel=True, not_before=0.0))


def claim(
    connection: Connection, *, owner: str, lease: float, among: Collection[str] | None = None
) -> Held | None:  # fmt: skip
    """Take a run that can go on: the first of each schedule that has not ended, held by nobody, and not put off.

    None also where the one whose turn it is was stored by a newer version: it is put off, for a program of that version.
    `among` are the ids that may be taken. The same run is not given again before others had their turn: the one that was
    held longest ago comes first.
    """
    earlier = runs.alias("earlier")
    first = ~(
        select(earlier.c.key)
        .where(
            earlier.c.schedule_key == runs.c.schedule_key,
            earlier.c.key < runs.c.key,
            earlier.c.status.in_(UNFINISHED),
        )
        .exists()
    )
    free = or_(runs.c.lease_until.is_(None), runs.c.lease_until < db_now())
    wanted = [runs.c.status.in_(UNFINISHED), runs.c.not_before <= db_now(), free, first]
    if among is not None:
        wanted.append(runs.c.id.in_(among))
    candidate = (
        select(runs.c.key)
        .where(*wanted)
        .order_by(runs.c.attempt, runs.c.key)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    taken = connection.execute(
        update(runs)
        .where(runs.c.key == candidate.scalar_subquery(), free)
        .values(owner=owner, lease_until=db_now() + lease, attempt=runs.c.attempt + 1)
        .returning(runs.c.id)
    ).scalar_one_or_none()
    if taken is None:
        return None
    try:
        return Held(run=get(connection, taken), owner=owner)
    except NewerVersion as error:
        log.warning("run left to newer programs", run=taken, why=str(error))
        put_back = {"owner": None, "lease_until": None, "not_before": db_now() + _BEYOND_SECONDS}
        connection.execute(update(runs).where(runs.c.id == taken).values(**put_back))
        return None


def renew(connection: Connection, held: Held, *, lease: float) -> None:
    """Hold the run for another lease. Raises LeaseLost where it was taken over, ended or deleted.

    In a transaction that writes for the run this comes first: the row is then locked, and nobody takes the run over before
    the commit."""
    _change(connection, held, lease_until=db_now() + lease)


def advance(connection: Connection, held: Held, **values: Any) -> None:
    """Write columns of a held run. Raises LeaseLost."""
    _change(connection, held, **values)


def release(connection: Connection, held: Held, *, after: float = 0.0, **values: Any) -> None:
    """Give a run back for others to go on with, in `after` seconds at the earliest. Raises LeaseLost."""
    _change(connection, held, owner=None, lease_until=None, not_before=db_now() + after, **values)


def end(connection: Connection, held: Held, status: RunStatus, **values: Any) -> None:
    """End a run. Raises LeaseLost."""
    _change(connection, held, owner=None, lease_until=None, status=status, finished_at=db_now(), **values)


def amend(connection: Connection, run_key: int, **values: Any) -> None:
    """Write columns of a run that has ended, for a later one that made up for it."""
    connection.execute(update(runs).where(runs.c.key == run_key, runs.c.status.not_in(UNFINISHED)).values(**values))


def started(connection: Connection, held: Held) -> None:
    """Note that the run goes on, and since when it does. Raises LeaseLost."""
    begun = db_now() if held.run.started_at is None else runs.c.started_at
    _change(connection, held, status="running", started_at=begun)


def _change(connection: Connection, held: Held, **values: Any) -> None:
    mine = (runs.c.key == held.run.key, runs.c.owner == held.owner, runs.c.attempt == held.run.attempt)
    if not connection.execute(update(runs).where(*mine, runs.c.status.in_(UNFINISHED)).values(**values)).rowcount:
        raise LeaseLost(f"The run {held.run.id} was taken over, has ended or is gone.")


def _run(row: Row[*tuple[Any, ...]]) -> Run:
    values = dict(row._mapping)
    return Run(
        **values
        | {
            "definition": read_stored(ScheduleDefinition, values["definition"]),
            "counts": values["counts"] or {},
        }
    )
