"""What the Usage page shows for a period, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo

from core.identity.tables import User
from core.services.application import Application
from core.usage import queries
from core.usage.queries import DayUsage, Totals
from core.usage.tables import UsageRecord


@dataclass(frozen=True, slots=True)
class UsageReport:
    """One period. `days` lists every day of it, also the empty ones."""

    totals: Totals
    previous: Totals
    days: Sequence[date]
    by_day: Sequence[DayUsage]
    outcomes: dict[str, int]
    records: Sequence[UsageRecord]

    def csv(self) -> str:
        """Exactly the records behind the charts."""
        return queries.to_csv(self.records)


def report_usage(
    app: Application,
    user: User,
    start: datetime,
    end: datetime,
    *,
    zone: tzinfo,
    models: Sequence[str] | None = None,
) -> UsageReport:
    """Totals, the period before, days, outcomes and records of `start` ≤ t < `end`; days are those of `zone`."""
    with app.db.read() as session:
        records = queries.list_records(session, user.account_id, start, end, models=models)
        before = queries.list_records(session, user.account_id, *queries.previous_period(start, end), models=models)
    return UsageReport(
        totals=queries.sum_up(records),
        previous=queries.sum_up(before),
        days=queries.days_of(start, end, zone),
        by_day=queries.by_day(records, zone),
        outcomes=queries.by_outcome(records),
        records=records,
    )


def used_models(app: Application, user: User) -> list[str]:
    """Every model the account has a record of."""
    with app.db.read() as session:
        return queries.used_models(session, user.account_id)
