"""What the pages, the keeper and the runner ask of an account, by name, as the pages' presets ask it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlmodel import col, select

from core.db import utcnow
from core.identity.tables import User
from core.jobs import jobs
from core.jobs.results import find_results
from core.jobs.tables import Job, Result
from core.ledger import ledger, roll_up, seal
from core.ledger.tables import Account
from core.pricing.receipts import Cursor, ReceiptFilter
from core.pricing.tables import Receipt
from core.services import account_view, admin, corrections, limits, receipts, statement, usage_details, usage_report
from core.services.application import Application
from core.usage import details as usage_charts
from core.usage import queries
from core.usage.queries import Selection

# Days that begin at half an hour of UTC.
ZONE = ZoneInfo("Asia/Kolkata")
PAGE, LONG_PAGE = 51, 201
KEYS_OF_A_QUOTE = 50
VIEWS = {
    "all that moved the balance": ("top_up", "bonus", "capture", "refund", "adjustment"),
    "top-ups": ("top_up", "bonus"),
    "charges": ("capture",),
    "refunds and corrections": ("refund", "adjustment", "freeze", "unfreeze"),
    "everything": None,
}
# Looking through names is no page: what it costs is told, and it is as slow as there is much to look through.
SEARCH = "search: a picture's name that is nowhere"

Question = Callable[[], object]


def days_until_today(count: int) -> tuple[datetime, datetime]:
    """The last days of the zone, today the last of them."""
    today = datetime.now(ZONE).date()
    first, end = today - timedelta(days=count - 1), today + timedelta(days=1)
    return datetime.combine(first, time.min, ZONE), datetime.combine(end, time.min, ZONE)


def questions(app: Application, user: User) -> dict[str, Question]:
    """The questions of an operator whose own account has receipts and runs."""
    account_id = user.account_id
    with app.db.read() as session:
        own = Receipt.account_id == account_id
        receipt = session.exec(select(Receipt).where(own).order_by(col(Receipt.created_at)).limit(1)).one()
        job_id = session.exec(select(Job.id).where(Job.account_id == account_id).limit(1)).one()
        keys = session.exec(select(Result.charge_key).where(Result.account_id == account_id).limit(KEYS_OF_A_QUOTE))
        charge_keys, newest_seq = list(keys.all()), session.get_one(Account, account_id).version

    def read(ask: Callable[[Any], object]) -> Question:
        def asked() -> object:
            with app.db.read() as session:
                return ask(session)

        return asked

    def entries_of(view: str, **which: Any) -> Question:
        return lambda: account_view.list_transactions(app, user, kinds=VIEWS[view], limit=LONG_PAGE, **which)

    with app.db.read() as session:
        actors = queries.used_actors(session, account_id)
    one_key = Selection(actors=actors[:1], outcomes=["charged", "failed"])

    def usage(days: int, **which: Any) -> Question:
        return lambda: usage_report.report_usage(app, user, *days_until_today(days), zone=ZONE, **which)

    def of_period(ask: Callable[..., object], days: int, **which: Any) -> Question:
        return lambda: ask(app, user, *days_until_today(days), **which)

    def details(days: int, **which: Any) -> dict[str, Question]:
        """The charts beside the days, each by itself."""
        words = f"{days} days" + (", a key, two outcomes" if which else "")
        zoned = {"zone": ZONE, **which}

        def chart(ask: Callable[..., object], **more: Any) -> Question:
            return read(lambda session: ask(session, account_id, *days_until_today(days), *more.values(), **which))

        shown = min(days, usage_details.LATENCY_DAYS_MAX)
        times = read(
            lambda session: usage_charts.sum_latencies(session, account_id, *days_until_today(shown), ZONE, **which)
        )
        return {
            f"usage: hours and weekdays, {words}": chart(usage_charts.count_hours, zone=ZONE),
            f"usage: times, {words}": times,
            f"usage: classes, {words}": chart(usage_charts.count_classes),
            f"usage: given back and refunded, {words}": of_period(usage_details.report_returns, days, **zoned),
            f"usage: by key and person, {words}": of_period(usage_report.report_callers, days, **which),
        }

    month = datetime.now(ZONE).replace(day=1) - timedelta(days=1)
    since, until = days_until_today(90)
    half_a_year_ago = Cursor(datetime.now(UTC) - timedelta(days=180), "rcpt_8")
    return {
        "every page: balance": lambda: account_view.get_balance(app, user),
        "every page: images that wait or run": lambda: account_view.count_open_images(app, user),
        "every page: low balance": lambda: limits.find_low_balance(app, user),
        "usage: models": lambda: usage_report.used_models(app, user),
        "usage: 30 days and the 30 before": usage(30),
        "usage: 90 days and the 90 before": usage(90),
        "usage: 365 days": usage(365),
        "usage: callers": lambda: usage_report.used_callers(app, user),
        "usage: 90 days by key": usage(90, by="actor"),
        "usage: 90 days, a key, two outcomes": usage(90, which=one_key),
        "usage: 365 days by key": usage(365, by="actor"),
        "usage: this month with its forecast": lambda: usage_details.report_month(app, user),
        **details(90),
        **details(90, which=one_key),
        **details(365),
        **{f"transactions: {view}": entries_of(view) for view in VIEWS},
        **{f"transactions: {view}, 90 days": entries_of(view, since=since, until=until) for view in VIEWS},
        **{f"transactions: {view}, a page far back": entries_of(view, before_seq=newest_seq // 3) for view in VIEWS},
        "receipts: first page": lambda: receipts.list_receipts(app, user),
        "receipts: 90 days": lambda: receipts.list_receipts(app, user, ReceiptFilter("", since, until)),
        "receipts: a page far back": lambda: receipts.list_receipts(app, user, after=half_a_year_ago),
        "receipts: by number": lambda: receipts.list_receipts(app, user, ReceiptFilter(receipt.id)),
        "receipts: one with its computation": lambda: receipts.get_receipt(app, user, receipt.id),
        "detect: last runs": lambda: account_view.list_jobs(app, user),
        "detect: one run": lambda: account_view.get_job(app, user, job_id),
        "detect: results there already": read(lambda session: find_results(session, account_id, charge_keys)),
        "detect: work under way": read(lambda session: ledger.find_taken_keys(session, account_id, charge_keys)),
        "account: months": lambda: statement.statement_months(app, user, zone=ZONE),
        "account: statement of last month": lambda: statement.build_statement(
            app, user, month.year, month.month, zone=ZONE
        ),
        "account: limits": lambda: limits.get_limits(app, user),
        "admin: customers": lambda: admin.list_customers(app, user, limit=LONG_PAGE),
        "admin: charges": lambda: corrections.list_charges(app, user, account_id, limit=PAGE),
        "admin: a charge by number": lambda: corrections.list_charges(app, user, account_id, reference=receipt.id),
        "keeper: leases that ran out": read(lambda session: ledger.due_accounts(session, utcnow())),
        "keeper: jobs that lost their runner": read(lambda session: jobs.lapsed_jobs(session, utcnow())),
        "keeper: accounts to seal": read(seal.unsealed_accounts),
        "keeper: accounts to sum": read(roll_up.behind_accounts),
        "runner: is there work": read(lambda session: jobs.has_work(session, "bench")),
        SEARCH: lambda: receipts.list_receipts(app, user, ReceiptFilter("nothing has this name")),
    }
