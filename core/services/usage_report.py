"""What the Usage page shows for a period, in one call; who used it; and its records as CSV."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta, tzinfo

from sqlmodel import Session

from core.db import utcnow
from core.identity import api_keys, users
from core.identity.callers import Caller
from core.ledger.tables import Account
from core.services.application import Application
from core.services.metered_detection import billing_day
from core.usage import export, queries
from core.usage.queries import EVERYTHING, By, CallerUsage, DayUsage, Selection, Totals


@dataclass(frozen=True, slots=True)
class UsageReport:
    """One period. `days` lists every day of it, also the empty ones."""

    totals: Totals
    previous: Totals
    days: Sequence[date]
    by_day: Sequence[DayUsage]
    outcomes: dict[str, int]


@dataclass(frozen=True, slots=True)
class CallerReport:
    """What an API key used, which has a `name` and a `prefix`; or a person on the portal, who has an `email`."""

    actor: str
    totals: Totals
    name: str | None = None
    prefix: str | None = None
    email: str | None = None

    @property
    def words(self) -> str:
        """Who it is, in one line."""
        return f"{self.name} ({self.prefix}…)" if self.prefix else self.email or self.actor


def report_usage(
    app: Application,
    user: Caller,
    start: datetime,
    end: datetime,
    *,
    zone: tzinfo,
    which: Selection = EVERYTHING,
    by: By = "model",
    before: tuple[datetime, datetime] | None = None,
) -> UsageReport:
    """Totals, the period before, days and outcomes of `start` ≤ t < `end`; days are those of `zone`.

    What it is compared with is `before`, or a period as long that ends where this one starts.

    Raises `ValueError` when the period begins or ends within a quarter of an hour.
    """
    with app.db.read() as session:
        by_day = queries.sum_days(session, user.account_id, start, end, zone, which=which, by=by)
        period = before or queries.previous_period(start, end)
        previous = queries.sum_days(session, user.account_id, *period, zone, which=which)
    return UsageReport(
        totals=queries.sum_up(by_day),
        previous=queries.sum_up(previous),
        days=queries.days_of(start, end, zone),
        by_day=by_day,
        outcomes=queries.by_outcome(by_day),
    )


def report_callers(
    app: Application, user: Caller, start: datetime, end: datetime, *, which: Selection = EVERYTHING
) -> list[CallerReport]:
    """What each API key and each person used in `start` ≤ t < `end`; who used most comes first.

    Raises `ValueError` when the period begins or ends within a quarter of an hour.
    """
    with app.db.read() as session:
        found = queries.sum_callers(session, user.account_id, start, end, which=which)
        return _name(session, found)


def used_callers(app: Application, user: Caller) -> dict[str, str]:
    """Who the account has records of, in words, by the id of the API key or of the person."""
    with app.db.read() as session:
        nothing = queries.sum_up([])
        actors = queries.used_actors(session, user.account_id)
        named = _name(session, [CallerUsage(actor, nothing) for actor in actors])
    return {one.actor: one.words for one in sorted(named, key=lambda one: one.words)}


def _name(session: Session, found: Sequence[CallerUsage]) -> list[CallerReport]:
    actors = [one.actor for one in found]
    keys = {key.id: key for key in api_keys.find_keys(session, actors)}
    emails = users.names_of(session, actors)
    return [
        CallerReport(one.actor, one.totals, name=key.name, prefix=key.prefix)
        if (key := keys.get(one.actor))
        else CallerReport(one.actor, one.totals, email=emails.get(one.actor))
        for one in found
    ]


def add_up(callers: Sequence[CallerReport]) -> Totals:
    """The sums of some callers."""
    amount_mt, images, charged, free, failed = (
        sum(getattr(one.totals, field.name) for one in callers) for field in fields(Totals)
    )
    return Totals(amount_mt, images, charged, free, failed)


def records_csv(
    app: Application, user: Caller, start: datetime, end: datetime, *, which: Selection = EVERYTHING
) -> Iterator[str]:
    """Exactly the records behind a report, as CSV in pieces.

    It keeps one snapshot of the database open until it is read to its end, so write it somewhere first and hand that
    to a slow reader.
    """
    callers = used_callers(app, user)
    with app.db.read() as session:
        yield from export.records_csv(session, user.account_id, start, end, callers=callers, which=which)


def report_version(app: Application, user: Caller, models: Collection[str]) -> str:
    """Changes with every image and every entry of the account, with its cap and with the day of the caps: two reports
    of one version say the same of one period.

    `models` is what `used_models` answered. A record is committed long before the day after its own is over.
    """
    today = utcnow().replace(hour=0, minute=0, second=0, microsecond=0)
    with app.db.read() as session:
        images, amount_mt = queries.count_since(session, user.account_id, today - timedelta(days=1), models=models)
        account = session.get_one(Account, user.account_id)
        version, cap_mt = account.version, account.month_cap_mt
    return f"{today:%Y%m%d}-{billing_day(app)}-{images}-{amount_mt}-{version}-{cap_mt}"


def used_models(app: Application, user: Caller) -> list[str]:
    """Every model the account has a record of."""
    with app.db.read() as session:
        return queries.used_models(session, user.account_id)
