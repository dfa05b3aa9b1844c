"""Which slots have come: what is fired of them, what is made up for, and what gives way to a run that has not ended.

Knows the policies. Must not know what a run does. Any number of tickers may run: the unique key of a slot decides, and a
schedule's row is locked while its slots are written.
"""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from corpusmill import cron
from corpusmill.errors import Conflict, NewerVersion
from corpusmill.schedules import ScheduleDefinition
from db import runs, schedules
from db.engine import Connection, Engine, now, reading, transact
from db.runs import Trigger
from db.schedules import Schedule

log = structlog.get_logger(__name__)

#: A slot is on time up to so many seconds late: later it was missed, and `catch_up` says what becomes of it.
GRACE_SECONDS = 300.0
#: Of missed slots that are made up for, so many are written at once; the next tick writes more.
_AT_ONCE = 500
_DAY = 86_400.0


def tick(database: Engine, *, at: float | None = None) -> list[str]:
    """Write a run for each slot that has come. Returns the ids of the new runs, in order.

    `at` is another clock's time, of an operator who makes up for slots by hand: then the last slot up to it is also fired
    where it never was.
    """
    clock = now(database) if at is None else at
    trigger: Trigger = "cron" if at is None else "tick"
    with reading(database) as connection:
        keys = schedules.due(connection, clock) if at is None else schedules.enabled(connection)
    fired: list[str] = []
    for key in keys:
        try:
            fired += transact(database, lambda connection, key=key: _fire(connection, key, clock, trigger))  # type: ignore[misc]
        except NewerVersion as error:
            log.warning("schedule left to newer programs", schedule=key, why=str(error))
    return fired


def _fire(connection: Connection, schedule_key: int, clock: float, trigger: Trigger) -> list[str]:
    schedule = schedules.locked(connection, schedule_key)
    if schedule is None or not schedule.enabled or schedule.next_fire_at is None:
        return []
    if schedule.next_fire_at > clock:
        last = _last_before(schedule.definition, clock) if trigger == "tick" else None
        if last is None or runs.has_slot(connection, schedule_key, last):
            return []
        # asked for by hand: skipped it could never be made up for again
        run_id = runs.fire(connection, schedule, last, trigger)
        return [run_id] if run_id is not None else []
    slots, following = _due(schedule, clock)
    fired = _write(connection, schedule, slots, trigger)
    schedules.fired(connection, schedule_key, next_fire_at=following)
    return fired


def _due(schedule: Schedule, clock: float) -> tuple[list[float], float]:
    """The slots to be fired, and the first one that is left for later."""
    definition = schedule.definition
    assert schedule.next_fire_at is not None, "only what is due comes here"
    if definition.catch_up == "all":
        slots: list[float] = []
        for instant in cron.fires(
            definition.cron, cron.zone_of(definition.timezone), _moment(schedule.next_fire_at - 1)
        ):
            slot = instant.timestamp()
            if slot > clock or len(slots) == _AT_ONCE:
                return slots, slot
            slots.append(slot)
    last = _last_before(definition, clock)
    wanted = last is not None and (definition.catch_up == "latest" or clock - last <= GRACE_SECONDS)
    return [last] if last is not None and wanted else [], next_fire(definition, clock)


def _write(connection: Connection, schedule: Schedule, slots: list[float], trigger: Trigger) -> list[str]:
    """Runs for slots, as the overlap policy has it; slots that are made up for together wait for each other."""
    overlap = schedule.definition.overlap
    busy = bool(runs.unfinished(connection, schedule_key=schedule.key))
    fired = []
    for slot in slots:
        if overlap == "cancel" and not runs.has_slot(connection, schedule.key, slot):
            runs.request_cancel(connection, schedule.key)
        status: runs.RunStatus = "skipped" if busy and overlap == "skip" else "waiting"
        run_id = runs.fire(connection, schedule, slot, trigger, status=status)
        if run_id is not None:
            fired.append(run_id)
    return fired


def run_now(connection: Connection, schedule_id: str, run_id: str) -> None:
    """A run by hand, beside the clock; repeating it with the same id changes nothing. Raises NotFound, and Conflict where
    another has not ended and the schedule's policy is to skip."""
    if runs.is_there(connection, run_id):
        return
    schedule = schedules.locked(connection, schedules.get(connection, schedule_id).key)
    assert schedule is not None, "it was just read in this transaction"
    busy = runs.unfinished(connection, schedule_key=schedule.key)
    if busy and schedule.definition.overlap == "skip":
        raise Conflict(f"The run {busy[0]} of this schedule has not ended, and its overlap is `skip`.")
    if busy and schedule.definition.overlap == "cancel":
        runs.request_cancel(connection, schedule.key)
    if not runs.fire_now(connection, schedule, run_id):
        raise Conflict("Another run of this schedule was asked for at the same moment: try again.")


def next_fire(definition: ScheduleDefinition, after: float) -> float:
    """The first slot after an instant; both in seconds since 1970."""
    [instant] = cron.next_fires(definition.cron, cron.zone_of(definition.timezone), _moment(after), 1)
    return instant.timestamp()


def _last_before(definition: ScheduleDefinition, clock: float) -> float | None:
    """The last slot up to an instant, looked for further and further back; None where there is none in four years."""
    zone, back = cron.zone_of(definition.timezone), _DAY / 24
    while back < 1_500 * _DAY:
        last = None
        for instant in cron.slots_between(definition.cron, zone, _moment(clock - back), _moment(clock)):
            last = instant
        if last is not None:
            return last.timestamp()
        back *= 8
    return None


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
