"""When a schedule fires: cron expressions on the clock of a zone, and the window of a night.

Knows wall clocks, and the two days of the year on which they jump. Must not know the time, nor who fires.

An expression names wall-clock slots. Each fires once: a slot that the clock skips in spring fires at the first instant after
the jump, and one that the clock shows twice in autumn fires the first time. Several slots that come to the same instant are
one fire.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

#: Of no meaning but that a rare expression (29 February on a Monday) has the 50 years that `cronsim` looks ahead.
_SOMETIME = datetime(2000, 1, 1)
_FIELDS = 5


def zone_of(name: str) -> ZoneInfo:
    """The zone of that name. Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:  # of no such zone, of a directory of zones, of a path out of them
        raise ValueError(f"there is no time zone {name!r}: give a name such as UTC or Europe/Berlin") from error


def check(expression: str) -> str:
    """The expression, where it has five fields and fires at all. Raises ValueError."""
    if len(expression.split()) != _FIELDS:
        raise ValueError("a cron expression has five fields: minute, hour, day of the month, month, day of the week")
    try:
        first = next(CronSim(expression, _SOMETIME), None)
    except CronSimError as error:
        raise ValueError(f"not a cron expression: {str(error)[:1].lower()}{str(error)[1:]}") from error
    if first is None:
        raise ValueError("this cron expression never fires")
    return expression


def fires(expression: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """The instants (UTC) after `after`, an aware time, at which an expression fires, in order and without an end."""
    last = after.astimezone(UTC)
    wall = after.astimezone(zone).replace(tzinfo=None, fold=0)
    for slot in CronSim(expression, wall):
        instant = _instant(slot, zone)
        if instant > last:
            last = instant
            yield instant


def next_fires(expression: str, zone: ZoneInfo, after: datetime, count: int) -> list[datetime]:
    """The first `count` fires after an instant, in UTC."""
    found: list[datetime] = []
    for instant in fires(expression, zone, after):
        if len(found) == count:
            break
        found.append(instant)
    return found


def slots_between(expression: str, zone: ZoneInfo, after: datetime, until: datetime) -> Iterator[datetime]:
    """The fires after `after` and up to `until`, that instant included, in UTC."""
    for instant in fires(expression, zone, after):
        if instant > until:
            return
        yield instant


def in_window(start: time, end: time, zone: ZoneInfo, instant: datetime) -> bool:
    """Whether a wall clock of the zone stands between `start` (included) and `end` (excluded), over midnight where the
    start is later than the end."""
    wall = instant.astimezone(zone).time().replace(fold=0)
    if start < end:
        return start <= wall < end
    return wall >= start or wall < end


def _instant(slot: datetime, zone: ZoneInfo) -> datetime:
    """The instant at which the clock first shows a slot, or has just jumped over it."""
    early, late = (slot.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (1, 0))
    if early >= late:  # shown once, or twice: of two the first, which is fold 0
        return late
    # Skipped: between the two readings of it lies the jump, the first instant whose wall clock is past the slot.
    below, above = 0, int((late - early).total_seconds())
    while below < above:
        middle = (below + above) // 2
        if (early + timedelta(seconds=middle)).astimezone(zone).replace(tzinfo=None, fold=0) >= slot:
            above = middle
        else:
            below = middle + 1
    return early + timedelta(seconds=above)
