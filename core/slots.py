"""Quarters of an hour, of which the days of every time zone are made.

A slot is a number: quarters of an hour since 1970 in UTC. Zones differ from UTC by whole quarters (India by 5:30, Nepal
by 5:45) and change their clocks at whole quarters, so a day of any zone is a run of slots, where an hour would be cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

SLOT_S = 900
SLOT = timedelta(seconds=SLOT_S)
SLOTS_A_DAY = 96
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Span:
    """The slots `start` ≤ slot < `end`, throughout which a zone is `shift` slots ahead of UTC."""

    start: int
    end: int
    shift: int


def slot_of(moment: datetime) -> int:
    """The slot that an aware moment lies in."""
    return (moment - _EPOCH) // SLOT


def period_of(first: date, last: date, zone: tzinfo) -> tuple[datetime, datetime]:
    """The days `first` … `last` of a zone as `start` ≤ t < `end`."""
    return (
        datetime.combine(first, time.min, tzinfo=zone),
        datetime.combine(last + timedelta(days=1), time.min, tzinfo=zone),
    )


def slots_between(start: datetime, end: datetime) -> tuple[int, int]:
    """The slots `first` ≤ slot < `last` of a period. Raises `ValueError` when it begins or ends within one."""
    return _boundary(start), _boundary(end)


def day_of(number: int) -> date:
    """The day whose number, counted from 1970-01-01 as 0, is (slot + shift) // `SLOTS_A_DAY`."""
    return _EPOCH.date() + timedelta(days=number)


def find_spans(start: datetime, end: datetime, zone: tzinfo) -> list[Span]:
    """A period cut where the zone changes its clocks, in order.

    Raises `ValueError` when it begins or ends within a quarter of an hour, or when the zone, as some did before 1972,
    differs from UTC by no whole quarters.
    """
    first, last = slots_between(start, end)
    spans: list[Span] = []
    while first < last:
        shift = _shift(first, zone)
        stop = min(first + SLOTS_A_DAY, last)
        # No zone changes its clocks twice within a day.
        if _shift(stop - 1, zone) != shift:
            stop = next(slot for slot in range(first, stop) if _shift(slot, zone) != shift)
            if _offset(moment_of(stop) - timedelta.resolution, zone) != shift * SLOT:
                raise ValueError(f"{zone} changed its clocks within a quarter of an hour before {moment_of(stop)}")
        if spans and spans[-1].shift == shift:
            first = spans.pop().start
        spans.append(Span(first, stop, shift))
        first = stop
    return spans


def _boundary(moment: datetime) -> int:
    # Python calls no time of a zone equal to one of another where the clocks change (PEP 495).
    moment = moment.astimezone(UTC)
    slot = slot_of(moment)
    if moment_of(slot) != moment:
        raise ValueError(f"{moment} is not on a quarter of an hour")
    return slot


def moment_of(slot: int) -> datetime:
    """When a slot begins, in UTC."""
    return _EPOCH + slot * SLOT


def _offset(moment: datetime, zone: tzinfo) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _shift(slot: int, zone: tzinfo) -> int:
    shift, rest = divmod(_offset(moment_of(slot), zone), SLOT)
    if rest:
        raise ValueError(f"{zone} is no whole quarters of an hour from UTC at {moment_of(slot)}")
    return shift
