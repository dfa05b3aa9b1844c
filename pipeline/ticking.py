"""Which slots have come: what is fired of them, what is made up for, and what gives way to a run that has not ended.

Knows the policies. Must not know what a run does. Any number of tickers may run: the unique key of a slot decides, and a
schedule's row is locked while its slots are written.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from corpusmill import cron
from corpusmill.errors import Conflict, NewerVersion
from corpusmill.schedules import ScheduleDefinition
from db import runs, schedules
from db.engine import Connection, Engine, now, reading, transact
from db.schedules import Schedule

log = structlog.get_logger(__name__)

#: A slot is on time up to so many seconds late: later it was missed, and `catch_up` says what becomes of it.
GRACE_SECONDS = 300.0
#: Of missed slots that are made up for, so many are written at once; the next tick writes more.
_AT_ONCE = 500
#: By hand, a time up to so many seconds ahead is one at which all slots up to it have come.
_AHEAD_SECONDS = 7 * 86_400.0
_DAY = 86_400.0


def tick(database: Engine, *, at: float | None = None, by_hand: bool = False) -> list[str]:
    """Write a run for each slot that has come. Returns the ids of the new runs, in order.

    `at` is another clock's time. By hand, the last slot is fired whatever the policies say; with a time also where it was
    never due, as of a night before the schedule was made.
    """
    today = now(database)
    clock = today if at is None else at
    with reading(database) as connection:
        asked = by_hand and at is not None
        keys = schedules.enabled(connection) if asked else schedules.due(connection, clock)

    def fire(connection: Connection, key: int) -> list[str]:
        schedule = schedules.locked(connection, key)
        if schedule is None or not schedule.enabled or schedule.next_fire_at is None:
            return []
        if by_hand:
            return _by_hand(connection, schedule, clock, today)
        return _fire(connection, schedule, clock) if schedule.next_fire_at <= clock else []

    fired: list[str] = []
    for key in keys:
        try:
            fired += transact(database, lambda connection, key=key: fire(connection, key))  # type: ignore[misc]
        except NewerVersion as error:
            log.warning("schedule left to newer programs", schedule=key, why=str(error))
    return fired


def _fire(connection: Connection, schedule: Schedule, clock: float) -> list[str]:
    slots, following = _due(schedule, clock)
    fired = _write(connection, schedule, slots)
    schedules.fired(connection, schedule.key, next_fire_at=following)
    return fired


def _by_hand(connection: Connection, schedule: Schedule, clock: float, today: float) -> list[str]:
    """The last slot, and those before it of a schedule that makes up for all: each waits for its turn, for one that was
    skipped could never be made up for again.

    The next slot is the clock's business: a time that lies ahead puts off none that is still to come, and one that lies far
    ahead, such as of a wrong year, fires of these the last alone.
    """
    definition, following = schedule.definition, next_fire(schedule.definition, clock)
    slots: list[float] = []
    if definition.catch_up == "all":
        until = clock if clock <= today + _AHEAD_SECONDS else today
        slots, following = _each(schedule, until, lambda slot: not runs.has_slot(connection, schedule.key, slot))
    last = _last_before(definition, clock)
    if last is not None and last not in slots:
        slots.append(last)
    written = [runs.fire(connection, schedule, slot, "tick") for slot in slots]
    following = min(following, next_fire(definition, today))
    if schedule.next_fire_at is not None and following > schedule.next_fire_at:
        schedules.fired(connection, schedule.key, next_fire_at=following)
    return [run_id for run_id in written if run_id is not None]


def _due(schedule: Schedule, clock: float) -> tuple[list[float], float]:
    """The slots to be fired, and the first one that is left for later."""
    definition = schedule.definition
    if definition.catch_up == "all":
        return _each(schedule, clock)
    last = _last_before(definition, clock)
    wanted = last is not None and (definition.catch_up == "latest" or clock - last <= GRACE_SECONDS)
    return [last] if last is not None and wanted else [], next_fire(definition, clock)


def _each(
    schedule: Schedule, until: float, wanted: Callable[[float], bool] = lambda _: True
) -> tuple[list[float], float]:
    """The slots that are due up to an instant and wanted, as many as are written at once, and the first one after them."""
    definition, slots = schedule.definition, list[float]()
    assert schedule.next_fire_at is not None, "only what is enabled comes here"
    zone, before = cron.zone_of(definition.timezone), _moment(schedule.next_fire_at - 1)
    for instant in cron.fires(definition.cron, zone, before):
        slot = instant.timestamp()
        if slot > until or len(slots) == _AT_ONCE:
            return slots, slot
        if wanted(slot):
            slots.append(slot)
    return slots, next_fire(definition, until)


def _write(connection: Connection, schedule: Schedule, slots: list[float]) -> list[str]:
    """Runs for slots, as the overlap policy has it; slots that are made up for together wait for each other."""
    overlap = schedule.definition.overlap
    busy = bool(runs.unfinished(connection, schedule_key=schedule.key))
    fired = []
    for slot in slots:
        if overlap == "cancel" and not runs.has_slot(connection, schedule.key, slot):
            runs.request_cancel(connection, schedule.key)
        status: runs.RunStatus = "skipped" if busy and overlap == "skip" else "waiting"
        run_id = runs.fire(connection, schedule, slot, "cron", status=status)
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
