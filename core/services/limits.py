"""An account's spending caps and the alert before its balance runs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.identity.audit_log import record_event
from core.identity.tables import User
from core.ledger import spending
from core.ledger.spending import Spending
from core.ledger.tables import Account, LowBalanceAlert
from core.services.application import Application
from core.services.metered_detection import billing_day
from core.services.team import require_role


@dataclass(frozen=True, slots=True)
class LowBalance:
    """The settled balance is below the threshold, and nobody has dismissed the alert yet; milli-tokens."""

    threshold_mt: int
    posted_mt: int


def get_limits(app: Application, user: User) -> Spending:
    """The caps of the account, and what today and this month have used of them."""
    with app.db.read() as session:
        return spending.get_spending(session, user.account_id, billing_day(app))


def set_limits(
    app: Application,
    owner: User,
    *,
    day_cap_mt: int | None,
    month_cap_mt: int | None,
    alert_below_mt: int | None,
) -> None:
    """Set caps and alert in milli-tokens; None removes one. Raises `RoleNeededError`, `InvalidAmountError`."""
    require_role(owner, "owner")
    with app.db.write() as session:
        spending.set_caps(session, owner.account_id, day_cap_mt=day_cap_mt, month_cap_mt=month_cap_mt)
        spending.set_alert(session, owner.account_id, alert_below_mt)
        record_event(
            session,
            actor=owner.id,
            action="limits.set",
            subject=owner.account_id,
            account_id=owner.account_id,
            details={"day_cap_mt": day_cap_mt, "month_cap_mt": month_cap_mt, "alert_below_mt": alert_below_mt},
        )


def get_alert_url(app: Application, user: User) -> str | None:
    """The address that is told of a low balance, besides people."""
    with app.db.read() as session:
        return session.get_one(Account, user.account_id).alert_url


def set_alert_url(app: Application, owner: User, url: str | None) -> None:
    """Have an address told by a signed webhook, once for each crossing; None tells none.

    Raises `RoleNeededError` or `WebhookUrlRefusedError`.
    """
    require_role(owner, "owner")
    if url is not None:
        app.fetcher.check_webhook_url(url)
    with app.db.write() as session:
        spending.set_alert_url(session, owner.account_id, url)
        record_event(
            session,
            actor=owner.id,
            action="limits.set_alert_url",
            subject=owner.account_id,
            account_id=owner.account_id,
        )


def list_alerts(app: Application, user: User) -> Sequence[LowBalanceAlert]:
    """Alerts of the account that nobody has dismissed, newest first."""
    with app.db.read() as session:
        return spending.open_alerts(session, user.account_id)


def find_low_balance(app: Application, user: User) -> LowBalance | None:
    """What the pages warn of: an open alert, as long as the balance is below what the owner asks to be warned at."""
    with app.db.read() as session:
        if not spending.open_alerts(session, user.account_id):
            return None
        account = session.get_one(Account, user.account_id)
    if account.alert_below_mt is None or account.posted_mt >= account.alert_below_mt:
        return None
    return LowBalance(account.alert_below_mt, account.posted_mt)


def dismiss_alerts(app: Application, user: User) -> None:
    """Take the alerts off the pages of the whole account; the next crossing makes a new one."""
    require_role(user, "member")
    with app.db.write() as session:
        spending.dismiss_alerts(session, user.account_id)
