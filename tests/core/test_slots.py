"""Periods cut into spans of one offset: where the clocks change, and what is refused because it cannot be exact."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from core.slots import SLOT, SLOTS_A_DAY, Span, day_of, find_spans, slot_of

NEW_YORK, LORD_HOWE = ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe")


def test_a_slot_begins_on_the_quarter() -> None:
    """The last microsecond belongs to the slot, the next one to the next."""
    moment = datetime(2026, 3, 10, 12, 15, tzinfo=UTC)
    assert (
        slot_of(moment) == slot_of(moment - timedelta.resolution) + 1 == slot_of(moment + SLOT - timedelta.resolution)
    )
    assert day_of(slot_of(moment) // SLOTS_A_DAY) == moment.date()
    assert slot_of(moment.astimezone(NEW_YORK)) == slot_of(moment)


def test_spans_meet_where_the_clocks_change() -> None:
    """A year of New York has three spans without a gap, cut at 07:00 and 06:00 UTC; Nepal has one, 23 slots ahead."""
    start, end = datetime(2026, 1, 1, tzinfo=NEW_YORK), datetime(2027, 1, 1, tzinfo=NEW_YORK)
    forward, back = datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 11, 1, 6, tzinfo=UTC)
    assert find_spans(start, end, NEW_YORK) == [
        Span(slot_of(start), slot_of(forward), -20),
        Span(slot_of(forward), slot_of(back), -16),
        Span(slot_of(back), slot_of(end), -20),
    ]
    (nepal,) = find_spans(start, end, ZoneInfo("Asia/Kathmandu"))
    assert nepal == Span(slot_of(start), slot_of(end), 23)
    assert [span.shift for span in find_spans(start, end, LORD_HOWE)] == [44, 42, 44]
    assert find_spans(start, start, NEW_YORK) == []


def test_what_cannot_be_exact_is_refused() -> None:
    """A period within a quarter of an hour, an offset of 44:30 minutes, and clocks that changed at 00:01."""
    day = datetime(2026, 3, 10, tzinfo=UTC)
    for start, end in ((day + timedelta(minutes=5), day + timedelta(days=1)), (day, day + timedelta(microseconds=1))):
        with pytest.raises(ValueError, match="not on a quarter"):
            find_spans(start, end, UTC)
    with pytest.raises(ValueError, match="whole quarters"):
        find_spans(datetime(1971, 1, 1, tzinfo=UTC), datetime(1971, 1, 2, tzinfo=UTC), ZoneInfo("Africa/Monrovia"))
    with pytest.raises(ValueError, match="within a quarter"):
        find_spans(datetime(2010, 11, 6, tzinfo=UTC), datetime(2010, 11, 9, tzinfo=UTC), ZoneInfo("America/St_Johns"))


@pytest.mark.parametrize(
    ("zone", "day"),
    [("America/Santiago", (2026, 9, 6)), ("America/Havana", (2026, 11, 1)), ("Africa/Cairo", (2026, 4, 24))],
)
def test_a_day_whose_midnight_the_clocks_skip_or_repeat(zone: str, day: tuple[int, int, int]) -> None:
    """A period that begins on it is cut as any other, and its days are one after another."""
    where = ZoneInfo(zone)
    start = datetime(*day, tzinfo=where)
    spans = find_spans(start, datetime(*day, tzinfo=where) + timedelta(days=3), where)
    assert spans[0].start == slot_of(start)
    slots = [(slot, span.shift) for span in spans for slot in range(span.start, span.end)]
    days = {day_of((slot + shift) // SLOTS_A_DAY) for slot, shift in slots}
    assert {start.date() + timedelta(days=number) for number in range(3)} <= days
