"""The plan of an account: the operator sets it, with a reason, and everybody in the account sees it."""

from __future__ import annotations

from sqlalchemy import update
from sqlmodel import col

from core.identity.audit_log import record_event
from core.identity.tables import User
from core.ledger.corrections import require_account, require_reason
from core.ledger.tables import Account
from core.plans import Plan
from core.pricing.book import current_prices
from core.pricing.refund_rules import LateRule
from core.services.application import Application
from core.services.top_up import require_operator


def set_plan(app: Application, operator: User, account_id: str, plan: Plan, *, reason: str) -> bool:
    """Give an account a plan, for the runs that are started from now on; False when it had it already.

    Raises `NotAllowedError`, `ReasonMissingError`, `AccountNotActiveError`.
    """
    require_operator(operator)
    reason = require_reason(reason)
    with app.db.write() as session:
        changed = session.connection().execute(
            update(Account)
            .where(col(Account.id) == account_id, col(Account.plan) != plan.value)
            .values(plan=plan.value)
            .returning(col(Account.id))
        )
        if changed.first() is None:
            require_account(session, account_id)
            return False
        record_event(
            session,
            actor=operator.id,
            action="account.plan",
            subject=account_id,
            account_id=account_id,
            details={"plan": plan.value, "reason": reason},
        )
    return True


def list_promises(app: Application, plan: str) -> list[LateRule]:
    """What the price book in force gives back for late results to this plan and to no other."""
    with app.db.read() as session:
        return [rule for rule in current_prices(session).late_rules if rule.plan == plan]
