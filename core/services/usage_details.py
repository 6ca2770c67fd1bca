"""The charts of the Usage page beside the days: hours, times, classes, what went back, and how the month may end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo

from sqlalchemy import select, text
from sqlmodel import Session, col

from core.identity.callers import Caller
from core.jobs.tables import Job, JobImage
from core.ledger import spending
from core.ledger.tables import ENTRY_NOT_USAGE, Entry
from core.pricing.tables import Receipt
from core.services.application import Application
from core.services.metered_detection import billing_day
from core.slots import period_of
from core.usage import details, queries
from core.usage.forecast import HISTORY_DAYS_MAX, Forecast, forecast_month
from core.usage.latency import Latency
from core.usage.queries import EVERYTHING, Selection

# A histogram has several rows for each of another roll-up's: a year of them takes a quarter of a second.
LATENCY_DAYS_MAX = 92


@dataclass(frozen=True, slots=True)
class Details:
    """Images by weekday (0 is Monday) and hour, times of charged images by day, objects by class.

    The times are those of the period's last `LATENCY_DAYS_MAX` days.
    """

    hours: Mapping[tuple[int, int], int]
    latencies: Mapping[date, Latency]
    classes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Returns:
    """Milli-tokens that came back in a period.

    `given_back_mt` was held and never taken, by day, model and caller; `refunded_mt` was taken and refunded, by day.
    """

    given_back_mt: Sequence[tuple[date, str, str, int]]
    refunded_mt: Mapping[date, int]

    @property
    def given_back_by_day(self) -> Counter[date]:
        """What was never taken, by day."""
        days: Counter[date] = Counter()
        for day, _model, _actor, amount_mt in self.given_back_mt:
            days[day] += amount_mt
        return days


@dataclass(frozen=True, slots=True)
class Month:
    """The running month of the billing time zone: what each day used, the account's cap, the forecast or None."""

    today: date
    daily_mt: Mapping[date, int]
    cap_mt: int | None
    forecast: Forecast | None

    @property
    def days(self) -> list[date]:
        """From the first to today."""
        return [self.today.replace(day=number) for number in range(1, self.today.day + 1)]


def report_details(
    app: Application, user: Caller, start: datetime, end: datetime, *, zone: tzinfo, which: Selection = EVERYTHING
) -> Details:
    """Of `start` ≤ t < `end`; hours and days are those of `zone`.

    Raises `ValueError` when the period begins or ends within a quarter of an hour.
    """
    days = queries.days_of(start, end, zone)[-LATENCY_DAYS_MAX:]
    since = max(start, datetime.combine(days[0], time.min, tzinfo=zone)) if days else start
    with app.db.read() as session:
        return Details(
            details.count_hours(session, user.account_id, start, end, zone, which=which),
            details.sum_latencies(session, user.account_id, since, end, zone, which=which),
            details.count_classes(session, user.account_id, start, end, which=which),
        )


def report_returns(
    app: Application, user: Caller, start: datetime, end: datetime, *, zone: tzinfo, which: Selection = EVERYTHING
) -> Returns:
    """What came back in `start` ≤ t < `end`; a refund counts on the day that it was made.

    Raises `ValueError` when the period begins or ends within a quarter of an hour.
    """
    with app.db.read() as session:
        return Returns(
            details.sum_given_back(session, user.account_id, start, end, zone, which=which),
            _sum_refunds(session, user.account_id, start, end, zone, which),
        )


def report_month(app: Application, user: Caller, *, which: Selection = EVERYTHING) -> Month:
    """This month in the time zone in which caps count. The cap is the account's, whatever is selected."""
    today, zone = billing_day(app), app.settings.billing_zone
    first = min(today.replace(day=1), today - timedelta(days=HISTORY_DAYS_MAX))
    start, end = period_of(first, today, zone)
    with app.db.read() as session:
        daily_mt: Counter[date] = Counter()
        for one in queries.sum_days(session, user.account_id, start, end, zone, which=which):
            daily_mt[one.day] += one.amount_mt
        cap_mt = spending.get_spending(session, user.account_id, today).month_cap_mt
    return Month(today, daily_mt, cap_mt, forecast_month(daily_mt, today))


def _sum_refunds(
    session: Session, account_id: str, start: datetime, end: datetime, zone: tzinfo, which: Selection
) -> Mapping[date, int]:
    refunds: Counter[date] = Counter()
    if not which.has_outcome("charged"):
        return refunds
    # The few refunds of the period; where it matters, each with its receipt and its run.
    query = select(col(Entry.created_at), col(Entry.posted_change_mt)).where(
        col(Entry.account_id) == account_id,
        text(ENTRY_NOT_USAGE),
        col(Entry.kind) == "refund",
        col(Entry.created_at) >= start,
        col(Entry.created_at) < end,
    )
    if which.models is not None:
        query = query.join(Receipt, col(Receipt.hold_id) == col(Entry.hold_id))
        query = query.where(col(Receipt.model).in_(which.models))
    if which.actors is not None:
        query = (
            query.join(JobImage, col(JobImage.hold_id) == col(Entry.hold_id))
            .join(Job, col(Job.id) == col(JobImage.job_id))
            .where(col(Job.actor).in_(which.actors))
        )
    for at, amount_mt in session.execute(query):
        refunds[at.astimezone(zone).date()] += amount_mt
    return refunds
