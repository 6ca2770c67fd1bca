"""An account's spending caps and the alert before its balance runs out."""

from __future__ import annotations

from collections.abc import Sequence

from core.identity.tables import User
from core.ledger import spending
from core.ledger.spending import Spending
from core.ledger.tables import LowBalanceAlert
from core.services.application import Application
from core.services.metered_detection import billing_day
from core.services.team import require_role


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


def list_alerts(app: Application, user: User) -> Sequence[LowBalanceAlert]:
    """Alerts of the account that nobody has dismissed, newest first."""
    with app.db.read() as session:
        return spending.open_alerts(session, user.account_id)


def dismiss_alerts(app: Application, user: User) -> None:
    """Take the alerts off the pages of the whole account; the next crossing makes a new one."""
    require_role(user, "member")
    with app.db.write() as session:
        spending.dismiss_alerts(session, user.account_id)
