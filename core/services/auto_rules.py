"""The end of an automatic top-up's rule: stopped for a reason that the owner reads, or turned off.

Each runs in a transaction that holds the account's lock.
"""

from __future__ import annotations

import logging

from sqlalchemy import text, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from core.db import utcnow
from core.identity.audit_log import record_event
from core.payments.auto_tables import IS_ARMED, AutoTopUp
from core.payments.stripe_saved import SAVED_CARD
from core.payments.tables import Payment

log = logging.getLogger("visionmeter")


def stop(session: Session, account_id: str, reason: str) -> None:
    """Charge nothing any more until the owner turns it on again; `reason` is one of `AutoTopUp.stopped`."""
    mine = update(AutoTopUp).where(col(AutoTopUp.account_id) == account_id, text(IS_ARMED))
    stopped = mine.values(stopped=reason, changed_at=utcnow()).returning(col(AutoTopUp.account_id))
    if session.execute(stopped).first() is not None:
        record(session, account_id, SAVED_CARD, "auto_top_up.stop", reason=reason)
        log.warning("automatic top-ups of account %s have stopped: %s", account_id, reason)


def turn_off(session: Session, account_id: str, actor: str) -> None:
    """Charge nothing any more; what is under way goes on."""
    mine = update(AutoTopUp).where(col(AutoTopUp.account_id) == account_id, col(AutoTopUp.is_on))
    changed = mine.values(is_on=False, stopped="", changed_at=utcnow()).returning(col(AutoTopUp.account_id))
    if session.execute(changed).first() is not None:
        record(session, account_id, actor, "auto_top_up.turn_off")


def charging_accounts() -> SelectOfScalar[str]:
    """Whose kept card is being charged; also where that was given up, as nobody knows what became of it."""
    charge = aliased(Payment)  # so that it can stand inside a question about payments
    under_way = col(charge.state).in_(("pending", "expired"))
    return select(charge.account_id).where(charge.provider == SAVED_CARD, under_way)


def is_charging(session: Session, account_id: str) -> bool:
    """Whether this account's kept card is being charged."""
    charging = charging_accounts()
    return session.exec(charging.where(charging.selected_columns.account_id == account_id)).first() is not None


def record(session: Session, account_id: str, actor: str, action: str, **details: object) -> None:
    """One line of the account's audit log."""
    record_event(session, actor=actor, action=action, subject=account_id, account_id=account_id, details=details)
