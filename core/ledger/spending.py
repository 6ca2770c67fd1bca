"""Spending caps of an account and of its budgets, and the alert before the balance runs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import update
from sqlmodel import Session, col, select

from core.db import utcnow
from core.errors import AccountNotActiveError, InvalidAmountError
from core.ledger.posting import AMOUNT_MT_MAX, explain_cap, spent_so_far
from core.ledger.tables import Account, Budget, LowBalanceAlert


@dataclass(frozen=True, slots=True)
class Spending:
    """Caps (None: no cap) and what counts against them on a day, in milli-tokens."""

    day_cap_mt: int | None
    month_cap_mt: int | None
    day_spent_mt: int
    month_spent_mt: int
    alert_below_mt: int | None


def get_spending(session: Session, account_id: str, day: date) -> Spending:
    """The caps of an account and what a day and its month have used of them."""
    account = session.get_one(Account, account_id, populate_existing=True)
    return Spending(account.day_cap_mt, account.month_cap_mt, *spent_so_far(account, day), account.alert_below_mt)


def require_within_caps(session: Session, account_id: str, amount_mt: int, day: date) -> None:
    """Say early and in one number that a batch passes a cap. The holds themselves are what guards.

    Raises `SpendingCapError`.
    """
    account = session.get_one(Account, account_id, populate_existing=True)
    day_spent_mt, month_spent_mt = spent_so_far(account, day)
    for spent_mt, cap_mt in ((day_spent_mt, account.day_cap_mt), (month_spent_mt, account.month_cap_mt)):
        if cap_mt is not None and amount_mt and spent_mt + amount_mt > cap_mt:
            raise explain_cap(account, day, amount_mt, scope="account")


def set_caps(session: Session, account_id: str, *, day_cap_mt: int | None, month_cap_mt: int | None) -> None:
    """Set or remove (None) an account's caps. What was spent before counts; a cap below it stops further spending.

    Raises `InvalidAmountError` for a negative cap.
    """
    for cap_mt in (day_cap_mt, month_cap_mt):
        require_cap(cap_mt)
    changed = session.execute(
        update(Account)
        .where(col(Account.id) == account_id)
        .values(day_cap_mt=day_cap_mt, month_cap_mt=month_cap_mt)
        .returning(col(Account.id))
    )
    if changed.first() is None:
        raise AccountNotActiveError("There is no such account.")


def require_cap(cap_mt: int | None) -> None:
    """Raise `InvalidAmountError` for what is no cap: a negative amount, or more than an account can hold."""
    if cap_mt is not None and not 0 <= cap_mt <= AMOUNT_MT_MAX:
        raise InvalidAmountError("A cap is zero or more tokens; leave it empty for no cap.")


def open_budget(session: Session, account_id: str, *, day_cap_mt: int | None, month_cap_mt: int | None) -> Budget:
    """A part of an account with caps of its own, for an API key: holds that name it count in it too."""
    budget = Budget(account_id=account_id, day_cap_mt=day_cap_mt, month_cap_mt=month_cap_mt)
    session.add(budget)
    session.flush()
    return budget


def get_budget(session: Session, budget_id: str, day: date) -> Spending:
    """The caps of a budget and what a day and its month have used of them."""
    budget = session.get_one(Budget, budget_id, populate_existing=True)
    return Spending(budget.day_cap_mt, budget.month_cap_mt, *spent_so_far(budget, day), None)


def set_alert(session: Session, account_id: str, alert_below_mt: int | None) -> None:
    """Warn when the settled balance falls below this; None warns no more. Raises `InvalidAmountError`."""
    if alert_below_mt is not None and not 0 < alert_below_mt <= AMOUNT_MT_MAX:
        raise InvalidAmountError("An alert needs an amount above zero; leave it empty for no alert.")
    session.execute(update(Account).where(col(Account.id) == account_id).values(alert_below_mt=alert_below_mt))


def set_alert_url(session: Session, account_id: str, url: str | None) -> None:
    """Tell this address, too, when the settled balance falls below the threshold; None tells none."""
    session.execute(update(Account).where(col(Account.id) == account_id).values(alert_url=url))


def get_alert(session: Session, account_id: str, seq: int) -> LowBalanceAlert:
    """The crossing that an entry made."""
    return session.get_one(LowBalanceAlert, (account_id, seq))


def open_alerts(session: Session, account_id: str) -> Sequence[LowBalanceAlert]:
    """Alerts that nobody has dismissed, newest first."""
    return session.exec(
        select(LowBalanceAlert)
        .where(LowBalanceAlert.account_id == account_id, col(LowBalanceAlert.dismissed_at).is_(None))
        .order_by(col(LowBalanceAlert.seq).desc())
    ).all()


def dismiss_alerts(session: Session, account_id: str) -> None:
    """The owner has seen them; the next crossing makes a new one."""
    session.execute(
        update(LowBalanceAlert)
        .where(col(LowBalanceAlert.account_id) == account_id, col(LowBalanceAlert.dismissed_at).is_(None))
        .values(dismissed_at=utcnow())
    )


def untold_alerts(session: Session, *, limit: int = 100) -> Sequence[LowBalanceAlert]:
    """Crossings that nobody was told of yet, oldest first."""
    return session.exec(
        select(LowBalanceAlert)
        .where(col(LowBalanceAlert.told_at).is_(None))
        .order_by(col(LowBalanceAlert.created_at))
        .limit(limit)
    ).all()


def mark_told(session: Session, account_id: str, seq: int) -> bool:
    """Whoever tells of a crossing says so first, and tells only if this is true."""
    told = (
        update(LowBalanceAlert)
        .where(
            col(LowBalanceAlert.account_id) == account_id,
            col(LowBalanceAlert.seq) == seq,
            col(LowBalanceAlert.told_at).is_(None),
        )
        .values(told_at=utcnow())
        .returning(col(LowBalanceAlert.seq))
    )
    return session.execute(told).first() is not None
