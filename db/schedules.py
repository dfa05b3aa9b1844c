"""Schedules: their rows, and which are due.

Knows the table `schedules`. Must not know when an expression fires (`corpusmill.cron` does) or what a run does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, exc, insert, select, update

from corpusmill.errors import Conflict, NotFound
from corpusmill.schedules import ScheduleDefinition
from corpusmill.validation import read_stored
from db import idempotency
from db.engine import db_now
from db.tables import runs, schedules


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule as its row stands. Times are seconds since 1970; `revision` counts the changes of the definition."""

    key: int
    id: str
    name: str
    definition: ScheduleDefinition
    revision: int
    enabled: bool
    next_fire_at: float | None
    position: Mapping[str, Any] | None
    created_at: float
    updated_at: float


_COLUMNS = [schedules.c[name] for name in Schedule.__dataclass_fields__]


def create(connection: Connection, *, id: str, definition: ScheduleDefinition, next_fire_at: float | None) -> None:
    """A row for a new schedule; repeating it with the same id changes nothing. Raises Conflict where the name is taken."""
    if connection.scalar(select(schedules.c.key).where(schedules.c.id == id)) is not None:
        return
    _write(
        connection,
        insert(schedules).values(
            id=id, **_values(definition), next_fire_at=next_fire_at, created_at=db_now(), updated_at=db_now()
        ),
        definition.name,
    )


def change(
    connection: Connection, schedule: Schedule, definition: ScheduleDefinition, *, next_fire_at: float | None
) -> None:
    """Put another definition in place; another source is read from its beginning. Repeated, it changes nothing. Raises
    Conflict where the name is taken, or the schedule was changed meanwhile."""
    position = schedule.position if definition.source == schedule.definition.source else None
    written = _write(
        connection,
        update(schedules)
        .where(schedules.c.key == schedule.key, schedules.c.revision == schedule.revision)
        .values(
            **_values(definition),
            next_fire_at=next_fire_at,
            position=position,
            revision=schedule.revision + 1,
            updated_at=db_now(),
        ),
        definition.name,
    )
    if written.rowcount:
        return
    there = get(connection, schedule.id)
    if (there.revision, there.definition) != (schedule.revision + 1, definition):
        raise Conflict(f"The schedule {schedule.id} was changed meanwhile: look at it again.")


def _write(connection: Connection, statement: Any, name: str) -> Any:
    try:
        with connection.begin_nested():
            return connection.execute(statement)
    except exc.IntegrityError as error:
        raise Conflict(f"There is a schedule named {name!r} already.") from error


def _values(definition: ScheduleDefinition) -> dict[str, Any]:
    return {
        "name": definition.name,
        "definition": definition.model_dump(mode="json"),
        "enabled": definition.enabled,
    }


def get(connection: Connection, schedule_id: str) -> Schedule:
    """The schedule with that id. Raises NotFound."""
    row = connection.execute(select(*_COLUMNS).where(schedules.c.id == schedule_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no schedule {schedule_id!r}.")
    return _schedule(row)


def page(connection: Connection, *, before: int | None, limit: int, name: str | None = None) -> list[Schedule]:
    """Up to `limit` schedules, newest first, older than the key `before`; with a name, that one alone."""
    query = select(*_COLUMNS).order_by(schedules.c.key.desc()).limit(limit)
    if before is not None:
        query = query.where(schedules.c.key < before)
    if name is not None:
        query = query.where(schedules.c.name == name)
    return [_schedule(row) for row in connection.execute(query)]


def due(connection: Connection, now: float) -> list[int]:
    """Keys of the schedules whose next slot has come."""
    return list(
        connection.scalars(
            select(schedules.c.key)
            .where(schedules.c.enabled, schedules.c.next_fire_at <= now)
            .order_by(schedules.c.key)
        )
    )


def keys(connection: Connection) -> list[int]:
    """Keys of all schedules."""
    return list(connection.scalars(select(schedules.c.key).order_by(schedules.c.key)))


def enabled(connection: Connection) -> list[int]:
    """Keys of all schedules that fire."""
    return list(connection.scalars(select(schedules.c.key).where(schedules.c.enabled).order_by(schedules.c.key)))


def locked(connection: Connection, schedule_key: int) -> Schedule | None:
    """The schedule, whose row nobody else changes until this transaction ends; None where it was deleted."""
    row = connection.execute(
        select(*_COLUMNS).where(schedules.c.key == schedule_key).with_for_update(key_share=True)
    ).one_or_none()
    return None if row is None else _schedule(row)


def fired(connection: Connection, schedule_key: int, *, next_fire_at: float | None) -> None:
    """Note the next slot."""
    connection.execute(update(schedules).where(schedules.c.key == schedule_key).values(next_fire_at=next_fire_at))


def keep_position(connection: Connection, schedule_key: int, position: Mapping[str, Any]) -> None:
    """Note where the source goes on."""
    connection.execute(update(schedules).where(schedules.c.key == schedule_key).values(position=dict(position)))


def remove(connection: Connection, schedule_id: str) -> None:
    """Delete a schedule with its runs, ledger and reviews. Raises NotFound."""
    idempotency.forget_answers(connection, [schedule_id])
    idempotency.forget_answers(connection, select(runs.c.id).join(schedules).where(schedules.c.id == schedule_id))
    if not connection.execute(delete(schedules).where(schedules.c.id == schedule_id)).rowcount:
        raise NotFound(f"There is no schedule {schedule_id!r}.")


def _schedule(row: Row[Any]) -> Schedule:
    values = dict(row._mapping)
    return Schedule(**values | {"definition": read_stored(ScheduleDefinition, values["definition"])})
