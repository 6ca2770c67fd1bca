"""The queries behind the Usage page. Periods are half-open: start ≤ t < end, aware datetimes."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo

from sqlmodel import Session, col, select

from core.usage.tables import UsageRecord


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
    """One model on one day of the reader's time zone."""

    day: date
    model: str
    amount_mt: int
    images: int


def sum_up(records: Iterable[UsageRecord]) -> Totals:
    """Sums of some records. `failed` counts everything that was given back."""
    amount_mt = 0
    outcomes: Counter[str] = Counter()
    for record in records:
        amount_mt += record.amount_mt
        outcomes[record.outcome] += 1
    images = outcomes.total()
    charged, free = outcomes["charged"], outcomes["free"]
    return Totals(amount_mt, images, charged, free, images - charged - free)


def list_records(
    session: Session, account_id: str, start: datetime, end: datetime, *, models: Iterable[str] | None = None
) -> Sequence[UsageRecord]:
    """All records of a period, oldest first, of some models or of all."""
    query = select(UsageRecord).where(
        UsageRecord.account_id == account_id, UsageRecord.created_at >= start, UsageRecord.created_at < end
    )
    if models is not None:
        query = query.where(col(UsageRecord.model).in_(list(models)))
    return session.exec(query.order_by(col(UsageRecord.created_at))).all()


def used_models(session: Session, account_id: str) -> list[str]:
    """The models an account has records of, by name."""
    return sorted(session.exec(select(UsageRecord.model).where(UsageRecord.account_id == account_id).distinct()).all())


def by_day(records: Iterable[UsageRecord], zone: tzinfo) -> list[DayUsage]:
    """Tokens and images by day (of `zone`) and model."""
    amounts: Counter[tuple[date, str]] = Counter()
    images: Counter[tuple[date, str]] = Counter()
    for record in records:
        key = (record.created_at.astimezone(zone).date(), record.model)
        amounts[key] += record.amount_mt
        images[key] += 1
    return [DayUsage(day, model, amounts[day, model], images[day, model]) for day, model in sorted(images)]


def by_outcome(records: Iterable[UsageRecord]) -> dict[str, int]:
    """Images by outcome, most frequent first."""
    return dict(Counter(record.outcome for record in records).most_common())


def previous_period(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """The period of the same length that ends where this one starts."""
    return start - (end - start), start


def to_csv(records: Iterable[UsageRecord]) -> str:
    """Records as CSV, one line each, with a header; times in UTC, tokens with three decimals."""
    rows = [record.as_row() for record in records]
    columns = list(rows[0]) if rows else list(_EMPTY.as_row())
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def days_of(start: datetime, end: datetime, zone: tzinfo) -> list[date]:
    """Every day of a period, so that a chart shows empty days as empty."""
    first = start.astimezone(zone).date()
    last = (end - timedelta(microseconds=1)).astimezone(zone).date()
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]


_EMPTY = UsageRecord(
    account_id="",
    actor="",
    model="",
    model_version="",
    img_size=0,
    input_height=0,
    input_width=0,
    amount_mt=0,
    outcome="charged",
)
