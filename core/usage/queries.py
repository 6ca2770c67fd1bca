"""What the Usage page shows, read from the roll-up. Periods are half-open: start ≤ t < end, aware datetimes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo

from sqlalchemy import func, select
from sqlmodel import Session, col

from core.slots import SLOTS_A_DAY, day_of, find_spans
from core.usage.tables import OUTCOMES, UsageSlot


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a period; `amount_mt` in milli-tokens, the rest in images."""

    amount_mt: int
    images: int
    charged: int
    free: int
    failed: int


@dataclass(frozen=True, slots=True)
class DayUsage:
    """One model on one day of the reader's time zone; `outcomes` says how many images ended how."""

    day: date
    model: str
    amount_mt: int
    outcomes: Mapping[str, int]

    @property
    def images(self) -> int:
        """Images, whatever their outcome."""
        return sum(self.outcomes.values())


def sum_days(
    session: Session,
    account_id: str,
    start: datetime,
    end: datetime,
    zone: tzinfo,
    *,
    models: Collection[str] | None = None,
) -> list[DayUsage]:
    """Tokens and images by day (of `zone`) and model, of some models or of all.

    Summed in the database from quarters of an hour. Raises `ValueError` when the period begins or ends within one.
    """
    if models is None:
        models = used_models(session, account_id)
    amounts: Counter[tuple[date, str]] = Counter()
    outcomes: dict[tuple[date, str], Counter[str]] = {}
    for span in find_spans(start, end, zone):
        day_number = (col(UsageSlot.slot) + span.shift) // SLOTS_A_DAY
        sums = [func.sum(getattr(UsageSlot, name)) for name in (*OUTCOMES, "amount_mt")]
        rows = session.execute(
            select(day_number, col(UsageSlot.model), *sums)
            .where(
                col(UsageSlot.account_id) == account_id,
                # Said so that the key is used: it has the model before the slot.
                col(UsageSlot.model).in_(models),
                col(UsageSlot.slot) >= span.start,
                col(UsageSlot.slot) < span.end,
            )
            .group_by(day_number, col(UsageSlot.model))
        )
        for number, model, *counts, amount_mt in rows:
            # A day on which the clocks change lies in two spans. PostgreSQL sums BIGINT as NUMERIC.
            key = day_of(number), model
            amounts[key] += int(amount_mt)
            outcomes.setdefault(key, Counter()).update(dict(zip(OUTCOMES, map(int, counts), strict=True)))
    return [DayUsage(day, model, amounts[day, model], outcomes[day, model]) for day, model in sorted(outcomes)]


def used_models(session: Session, account_id: str) -> list[str]:
    """The models an account has records of, by name; one look into the key for each, however many records there are."""
    least = select(func.min(col(UsageSlot.model))).where(col(UsageSlot.account_id) == account_id)
    models: list[str] = []
    model = session.execute(least).scalar()
    while model is not None:
        models.append(model)
        model = session.execute(least.where(col(UsageSlot.model) > model)).scalar()
    return sorted(models)


def sum_up(days: Iterable[DayUsage]) -> Totals:
    """Sums of some days. `failed` counts everything that was given back."""
    days = list(days)
    images = by_outcome(days)
    total, charged, free = sum(images.values()), images.get("charged", 0), images.get("free", 0)
    return Totals(sum(item.amount_mt for item in days), total, charged, free, total - charged - free)


def by_outcome(days: Iterable[DayUsage]) -> dict[str, int]:
    """Images by outcome, most frequent first, without those that did not occur."""
    images: Counter[str] = Counter()
    for item in days:
        images.update(item.outcomes)
    return {outcome: count for outcome, count in images.most_common() if count}


def previous_period(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """The period of the same length that ends where this one starts; whole days of one zone stay whole days."""
    return start - (end - start), start


def days_of(start: datetime, end: datetime, zone: tzinfo) -> list[date]:
    """Every day of a period, so that a chart shows empty days as empty."""
    first = start.astimezone(zone).date()
    last = (end - timedelta(microseconds=1)).astimezone(zone).date()
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
