"""When a schedule fires: each wall-clock slot once, over both changes of the clock, and only within its window."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpusmill import cron

BERLIN, SYDNEY, NEW_YORK, LORD_HOWE = (
    ZoneInfo(name) for name in ("Europe/Berlin", "Australia/Sydney", "America/New_York", "Australia/Lord_Howe")
)
ZONES = [BERLIN, SYDNEY, NEW_YORK, LORD_HOWE, ZoneInfo("America/Santiago"), ZoneInfo("UTC"), ZoneInfo("Asia/Kolkata")]
EXPRESSIONS = [
    "30 2 * * *", "0 * * * *",
    "*/20 * * * *", "15 1-3 * * *", "0 0 * * *", "45 1 * * SUN", "0 3 1 * *", "5,35 2 * * MON-FRI",
]  # fmt: skip


def local(expression: str, zone: ZoneInfo, after: datetime, count: int) -> list[str]:
    return [fire.astimezone(zone).isoformat() for fire in cron.next_fires(expression, zone, after, count)]


def test_a_slot_that_the_clock_skips_fires_once_at_the_next_instant_there_is() -> None:
    after = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert local("30 2 * * *", BERLIN, after, 2) == ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]


def test_a_slot_that_the_clock_shows_twice_fires_the_first_time_alone() -> None:
    after = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert local("30 2 * * *", BERLIN, after, 2) == ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]


def test_an_hourly_schedule_fires_once_for_each_hour_that_the_clock_shows() -> None:
    spring = local("0 * * * *", BERLIN, datetime(2026, 3, 29, 0, 30, tzinfo=UTC), 2)
    assert spring == ["2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"]
    autumn = local("0 * * * *", BERLIN, datetime(2026, 10, 24, 23, 30, tzinfo=UTC), 3)
    assert autumn == ["2026-10-25T02:00:00+02:00", "2026-10-25T03:00:00+01:00", "2026-10-25T04:00:00+01:00"]


def test_a_change_of_half_an_hour_skips_no_slot_and_repeats_none() -> None:
    after = datetime(2026, 10, 3, 12, tzinfo=UTC)  # Lord Howe goes from 02:00 to 02:30 on 4 October
    assert local("10 2 * * *", LORD_HOWE, after, 2) == ["2026-10-04T02:30:00+11:00", "2026-10-05T02:10:00+11:00"]


def test_slots_between_two_instants_hold_the_later_one_and_not_the_earlier() -> None:
    first, last = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
    found = list(cron.slots_between("0 0 * * *", ZoneInfo("UTC"), first, last))
    assert found == [datetime(2026, 1, 2, tzinfo=UTC), last]


instants = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))


@settings(deadline=None)
@given(st.sampled_from(EXPRESSIONS), st.sampled_from(ZONES), instants)
def test_fires_are_in_order_and_after_the_instant_that_they_follow(
    expression: str, zone: ZoneInfo, after: datetime
) -> None:
    found = cron.next_fires(expression, zone, after, 8)
    assert found[0] > after
    assert all(one < other for one, other in pairwise(found))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(EXPRESSIONS), st.sampled_from(ZONES), instants)
def test_it_does_not_matter_at_which_instants_a_ticker_looks(expression: str, zone: ZoneInfo, after: datetime) -> None:
    until = after + timedelta(days=9)
    whole = list(cron.slots_between(expression, zone, after, until))
    looks = [after + timedelta(hours=7 * step) for step in range(31)] + [until]
    pieces = [fire for one, other in pairwise(looks) for fire in cron.slots_between(expression, zone, one, other)]
    assert pieces == whole


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(ZONES), st.integers(2024, 2034), st.integers(0, 23), st.integers(0, 59))
def test_a_daily_slot_fires_once_on_each_day_of_the_calendar(zone: ZoneInfo, year: int, hour: int, minute: int) -> None:
    start = datetime(year, 1, 1, tzinfo=zone) - timedelta(seconds=1)
    end = datetime(year + 1, 1, 1, tzinfo=zone) - timedelta(seconds=1)
    days = [
        fire.astimezone(zone).date()
        for fire in cron.slots_between(f"{minute} {hour} * * *", zone, start, end)
    ]  # fmt: skip
    assert len(days) == len(set(days)) == (366 if year % 4 == 0 else 365)


@settings(deadline=None)
@given(st.sampled_from(ZONES), instants, st.times(), st.times())
def test_a_window_and_the_one_that_begins_when_it_ends_share_no_instant_and_leave_none(
    zone: ZoneInfo, instant: datetime, one: time, other: time
) -> None:
    if one != other:
        assert cron.in_window(one, other, zone, instant) != cron.in_window(other, one, zone, instant)


@pytest.mark.parametrize(
    ("moment", "inside"),
    [("21:59", False), ("22:00", True), ("23:59", True), ("00:00", True), ("05:59", True), ("06:00", False)],
)
def test_a_window_over_midnight_begins_with_its_start_and_is_over_at_its_end(moment: str, inside: bool) -> None:
    at = datetime.fromisoformat(f"2026-07-01T{moment}").replace(tzinfo=BERLIN)
    assert cron.in_window(time(22), time(6), BERLIN, at) is inside


@pytest.mark.parametrize(
    "expression", ["", "* * * *", "* * * * * *", "60 * * * *", "x * * * *", "0 0 30 2 *", "0 0 31 4,6 *", "@daily"]
)
def test_an_expression_that_cannot_fire_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"cron|fires"):
        cron.check(expression)


@pytest.mark.parametrize("name", ["", "Berlin", "Europe", "../etc/passwd", "/etc/localtime", "Europe/\0"])
def test_a_zone_that_is_none_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="time zone"):
        cron.zone_of(name)
