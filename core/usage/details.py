"""When images come, how long they take, what they show and what went back.

Periods are half-open as in `core.usage.queries`, and whoever reads sees only what a `Selection` means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime, tzinfo
from typing import Any

from sqlalchemy import func, select
from sqlmodel import Session, col

from core.slots import find_spans, slots_between
from core.usage.latency import Latency, summarise
from core.usage.queries import EVERYTHING, Selection, narrow, sum_by_day, within
from core.usage.tables import (
    OUTCOMES,
    UsageCallerSlot,
    UsageClassSlot,
    UsageGivenBackSlot,
    UsageLatencySlot,
    UsageSlot,
)

SLOTS_AN_HOUR = 4
HOURS_A_WEEK = 168
# The slots count from a Thursday.
_FIRST_WEEKDAY = 3


def count_hours(
    session: Session,
    account_id: str,
    start: datetime,
    end: datetime,
    zone: tzinfo,
    *,
    which: Selection = EVERYTHING,
) -> Mapping[tuple[int, int], int]:
    """Images by weekday (0 is Monday) and hour of `zone`; hours without any are not there."""
    table: Any = UsageSlot if which.actors is None else UsageCallerSlot
    where = narrow(session, account_id, table, which)
    meant: Any = sum(getattr(table, outcome) for outcome in OUTCOMES if which.has_outcome(outcome))
    images: Counter[tuple[int, int]] = Counter()
    for span in find_spans(start, end, zone):
        hour = (table.slot + span.shift) // SLOTS_AN_HOUR % HOURS_A_WEEK
        for number, count in session.execute(
            select(hour, func.sum(meant)).where(*where, *within(table, span)).group_by(hour)
        ):
            if count:
                images[(number // 24 + _FIRST_WEEKDAY) % 7, number % 24] += int(count)
    return images


def sum_latencies(
    session: Session,
    account_id: str,
    start: datetime,
    end: datetime,
    zone: tzinfo,
    *,
    which: Selection = EVERYTHING,
) -> Mapping[date, Latency]:
    """The times of charged images, by day of `zone`. Days without a measured image are not there."""
    histograms: dict[date, Counter[int]] = {}
    if which.has_outcome("charged"):
        table: Any = UsageLatencySlot
        where = narrow(session, account_id, table, which)
        found = sum_by_day(session, table, where, [table.from_ms], [table.images], find_spans(start, end, zone))
        for day, (from_ms,), (images,) in found:
            histograms.setdefault(day, Counter())[from_ms] += images
    return {day: times for day in sorted(histograms) if (times := summarise(histograms[day]))}


def count_classes(
    session: Session, account_id: str, start: datetime, end: datetime, *, which: Selection = EVERYTHING
) -> dict[str, int]:
    """Objects by class in charged images, the most frequent first.

    Raises `ValueError` when the period begins or ends within a quarter of an hour.
    """
    if not which.has_outcome("charged"):
        return {}
    table: Any = UsageClassSlot
    first, last = slots_between(start, end)
    rows = session.execute(
        select(table.class_name, func.sum(table.objects))
        .where(*narrow(session, account_id, table, which), table.slot >= first, table.slot < last)
        .group_by(table.class_name)
    )
    return dict(sorted(((name, int(count)) for name, count in rows), key=lambda one: (-one[1], one[0])))


def sum_given_back(
    session: Session,
    account_id: str,
    start: datetime,
    end: datetime,
    zone: tzinfo,
    *,
    which: Selection = EVERYTHING,
) -> list[tuple[date, str, str, int]]:
    """Milli-tokens that were held and went back, by day of `zone`, model and caller."""
    table: Any = UsageGivenBackSlot
    where = narrow(session, account_id, table, which)
    if which.outcomes is not None:
        where.append(col(UsageGivenBackSlot.outcome).in_(which.outcomes))
    amounts: Counter[tuple[date, str, str]] = Counter()
    found = sum_by_day(
        session, table, where, [table.model, table.actor], [table.amount_mt], find_spans(start, end, zone)
    )
    for day, (model, actor), (amount_mt,) in found:
        amounts[day, model, actor] += amount_mt
    return [(*key, amounts[key]) for key in sorted(amounts)]
