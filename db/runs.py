"""Runs: one row for each fire, who works at it, and how far it is.

Knows the table `runs`, its lease by the database's clock, and the attempt that fences a late writer. Must not know what a
stage does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from sqlalchemy import Connection, Row, delete, func, or_, select, update

from corpusmill.errors import LeaseLost, NewerVersion, NotFound
from corpusmill.ids import new_id
from corpusmill.schedules import ScheduleDefinition
from corpusmill.validation import read_stored
from db.engine import db_now, insert_into
from db.schedules import Schedule
from db.tables import reviews, runs, schedules

log = structlog.get_logger(__name__)

Trigger = Literal["cron", "tick", "manual"]
RunStatus = Literal["waiting", "running", "paused", "succeeded", "failed", "skipped", "cancelled"]
Stage = Literal["read", "label", "deliver", "review", "report"]
#: The statuses of runs that have not ended.
UNFINISHED: tuple[RunStatus, ...] = ("waiting", "running", "paused")
#: The longest for which a run is put off, in seconds: whatever seems to be for longer was before the clock was set back.
LONGEST_PAUSE = 300.0
#: So long a run that this program cannot read is left alone for one that can.
_BEYOND_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as its row stands. Times are seconds since 1970; `now` is the database's clock at the time of reading.
    `position` is what the source gave, until the run has ended; it comes with the one run that is asked for by its id."""

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
    position: Mapping[str, Any] | None = None
    counts: Mapping[str, Any]
    report: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    cancel: bool
    created_at: float
    started_at: float | None
    finished_at: float | None
    now: float

    @property
    def new_documents(self) -> int:
        """How many documents were to be labelled: those never seen, with another text, or by another revision."""
        return sum(self._documents(name) for name in ("new", "changed", "relabelled"))

    @property
    def reused_documents(self) -> int:
        return self._documents("reused")

    @property
    def failed_documents(self) -> int:
        return self._documents("failed")

    @property
    def broken(self) -> tuple[str, ...]:
        """A sentence for each rule of `fail_if` that the report breaks."""
        return tuple((self.report or {}).get("broken", ()))

    @property
    def exit_code(self) -> int:
        """0: well, or not ended; 1: it failed, was cancelled, could not ask people or write its report, or a rule is broken;
        3: documents failed."""
        if self.status in {"failed", "cancelled"} or self.broken or (self.status == "succeeded" and self.error):
            return 1
        return 3 if self.failed_documents else 0

    def _documents(self, name: str) -> int:
        return int(self.counts.get("documents", {}).get(name, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A run that this process holds: `owner` and the run's attempt are the fence."""

    run: Run
    owner: str


#: Without `position`, which for a folder lists every file.
_READ = select(
    *[runs.c[name] for name in Run.__dataclass_fields__ if name not in ("schedule_id", "now", "position")],
    schedules.c.id.label("schedule_id"),
    db_now().label("now"),
).join(schedules, schedules.c.key == runs.c.schedule_key)


def fire(
    connection: Connection,
    schedule: Schedule,
    fire_time: float,
    trigger: Trigger,
    *,
    status: RunStatus = "waiting",
    run_id: str | None = None,
) -> str | None:
    """A run for a slot, or None where the slot has one: of any number of tickers one writes it. Returns its id, which is
    `run_id` where it is given."""
    ended = None if status in UNFINISHED else db_now()
    row = (
        insert_into(connection, runs)
        .values(
            id=run_id or new_id("run"), schedule_key=schedule.key, fire_time=fire_time, trigger=trigger, status=status,
            stage="read", definition=schedule.definition.model_dump(mode="json"), created_at=db_now(),
            finished_at=ended,
        )
        .on_conflict_do_nothing(index_elements=["schedule_key", "fire_time"])
        .returning(runs.c.id)
    )  # fmt: skip
    written: str | None = connection.scalar(row)
    return written


def fire_now(connection: Connection, schedule: Schedule, run_id: str) -> bool:
    """A run by hand at this moment, to the millisecond. Returns whether it was written: that moment may have one."""
    moment = round(float(connection.execute(select(db_now())).scalar_one()), 3)
    return fire(connection, schedule, moment, "manual", run_id=run_id) is not None


def is_there(connection: Connection, run_id: str) -> bool:
    """Whether there is a run with that id."""
    return connection.scalar(select(runs.c.key).where(runs.c.id == run_id)) is not None


def get(connection: Connection, run_id: str) -> Run:
    """The run with that id. Raises NotFound."""
    row = connection.execute(_READ.add_columns(runs.c.position).where(runs.c.id == run_id)).one_or_none()
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


def jobs_of_unfinished(connection: Connection, schedule_key: int) -> list[str]:
    """Ids of the jobs of a schedule's runs that have not ended."""
    query = select(runs.c.job_id).where(
        runs.c.schedule_key == schedule_key, runs.c.status.in_(UNFINISHED), runs.c.job_id.is_not(None)
    )
    return list(connection.scalars(query))


def has_slot(connection: Connection, schedule_key: int, fire_time: float) -> bool:
    """Whether a slot has its run."""
    query = select(runs.c.key).where(runs.c.schedule_key == schedule_key, runs.c.fire_time == fire_time)
    return connection.scalar(query) is not None


def corpus_of(run_id: str) -> str:
    """The id of the corpus that a run makes of what it reads; the files of its attempts are called `ID-ATTEMPT`."""
    return "corpus_" + run_id.removeprefix("run_")


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
    `among` are the ids that may be taken. The one that has waited longest comes first: since it was made, since the time
    that it was put off until, or since its lease ran out.
    """
    _shorten(connection, lease)
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
    due = or_(runs.c.not_before <= db_now(), runs.c.not_before > db_now() + LONGEST_PAUSE)
    wanted = [runs.c.status.in_(UNFINISHED), due, free, first]
    if among is not None:
        wanted.append(runs.c.id.in_(among))
    waits_since = func.coalesce(runs.c.lease_until, func.nullif(runs.c.not_before, 0.0), runs.c.created_at)
    candidate = (
        select(runs.c.key).where(*wanted).order_by(waits_since, runs.c.key).limit(1).with_for_update(skip_locked=True)
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


def _shorten(connection: Connection, lease: float) -> None:
    """Leases that end far ahead were taken before the clock was set back, and would outlast a dead process by as much: they
    end in a lease from now. A process that lives renews its own three times in that."""
    connection.execute(
        update(runs)
        .where(runs.c.status.in_(UNFINISHED), runs.c.lease_until > db_now() + 2 * lease)
        .values(lease_until=db_now() + lease)
    )


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
    """End a run. Raises LeaseLost. What its source gave has become the schedule's, or is given again."""
    ended = {"owner": None, "lease_until": None, "status": status, "finished_at": db_now(), "position": None}
    _change(connection, held, **ended | values)


def forget_old(connection: Connection, schedule_key: int, *, seconds: float, keep: int) -> int:
    """Delete the runs of a schedule that ended more than `seconds` ago, but for the `keep` newest that succeeded, and those
    that asked people something: what they say is kept with it. Returns how many."""
    newest = (
        select(runs.c.key)
        .where(runs.c.schedule_key == schedule_key, runs.c.status == "succeeded")
        .order_by(runs.c.key.desc())
        .limit(keep)
    )
    asked = select(reviews.c.key).where(reviews.c.run_key == runs.c.key).exists()
    old = (
        runs.c.schedule_key == schedule_key,
        runs.c.status.not_in(UNFINISHED),
        runs.c.finished_at < db_now() - seconds,
    )
    return connection.execute(delete(runs).where(*old, runs.c.key.not_in(newest), ~asked)).rowcount


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
