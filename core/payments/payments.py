"""Payments and their states. Every function runs in the caller's transaction.

Each change is one conditional `UPDATE … RETURNING`, so of any number of callers one makes it: whoever gets the payment
back from `mark_paid` credits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Update, case, func, text, update
from sqlmodel import Session, col, select

from core.db import one_at_a_time, utcnow
from core.errors import PaymentEndedError, PaymentNotFoundError, TooManyPaymentsError
from core.payments.provider import PaymentProvider, Wanted
from core.payments.tables import PENDING, Payment

PENDING_MAX = 5


def open_payment(
    session: Session,
    provider: PaymentProvider,
    account_id: str,
    wanted: Wanted,
    *,
    actor: str,
    ttl_days: int,
    pending_max: int | None = PENDING_MAX,
) -> Payment:
    """A new payment, pending; what is paid at once is marked by the caller.

    Raises what the provider raises, and `TooManyPaymentsError` for an account with `pending_max` open ones.
    """
    one_at_a_time(session, f"payments {account_id}")
    opened = provider.open(session, account_id, wanted)
    if pending_max is not None and not opened.is_paid and count_pending(session, account_id) >= pending_max:
        raise TooManyPaymentsError(
            f"{pending_max} payments of this account are open: pay or cancel one first.", payments_max=pending_max
        )
    now, terms = utcnow(), opened.terms
    payment = Payment(
        account_id=account_id,
        provider=provider.name,
        provider_reference=opened.reference,
        amount_minor=terms.amount_minor,
        currency=terms.currency,
        tokens_mt=terms.tokens_mt,
        bonus_mt=terms.bonus_mt,
        price_per_token=terms.price_per_token,
        bonus_percent=terms.bonus_percent,
        opened_by=actor,
        created_at=now,
        expires_at=now + timedelta(days=ttl_days),
    )
    session.add(payment)
    session.flush()
    return payment


def mark_paid(session: Session, payment_id: str, *, actor: str) -> Payment | None:
    """The payment, for the one caller who marked it as paid; None for all who come later.

    Also one that was cancelled or given up: the money is there. Raises `PaymentNotFoundError`.
    """
    change = update(Payment).where(col(Payment.id) == payment_id, col(Payment.state) != "paid")
    if _change(session, change, state="paid", paid_at=utcnow(), ended_by=actor, reason=""):
        return get_payment(session, payment_id)
    get_payment(session, payment_id)
    return None


def note_entry(session: Session, payment_id: str, entry_seq: int) -> None:
    """Which entry credited a payment."""
    session.execute(update(Payment).where(col(Payment.id) == payment_id).values(entry_seq=entry_seq))


def cancel_payment(session: Session, payment_id: str, *, actor: str, reason: str = "") -> Payment:
    """End a pending payment, or say why one that was given up is ended.

    Raises `PaymentNotFoundError`, or `PaymentEndedError` for one that was paid or cancelled.
    """
    change = update(Payment).where(col(Payment.id) == payment_id, col(Payment.state).in_(("pending", "expired")))
    if not _change(session, change, state="cancelled", ended_by=actor, reason=reason):
        ended = get_payment(session, payment_id)
        raise PaymentEndedError(f"This payment is {ended.state} already.", state=ended.state)
    return get_payment(session, payment_id)


def has_due(session: Session, now: datetime) -> bool:
    """Whether a pending payment's time is over."""
    return (
        session.exec(select(Payment.id).where(text(PENDING), col(Payment.expires_at) <= now).limit(1)).first()
        is not None
    )


def give_up_payment(session: Session, payment_id: str) -> bool:
    """Give up a pending payment before its time; False when it is not pending any more."""
    change = update(Payment).where(col(Payment.id) == payment_id, text(PENDING))
    return bool(_change(session, change, state="expired"))


def expire_due(session: Session, now: datetime) -> int:
    """Give up the pending payments whose time is over; gives how many."""
    change = update(Payment).where(text(PENDING), col(Payment.expires_at) <= now)
    return _change(session, change, state="expired")


def get_payment(session: Session, payment_id: str, account_id: str | None = None) -> Payment:
    """A payment as it is now, of an account or of any. Raises `PaymentNotFoundError`."""
    payment = session.get(Payment, payment_id, populate_existing=True)
    if payment is None or account_id not in (None, payment.account_id):
        raise PaymentNotFoundError("There is no such payment.")
    return payment


def list_payments(session: Session, account_id: str, *, limit: int = 50) -> Sequence[Payment]:
    """An account's payments of money, the open ones and then the newest first; vouchers are not among them."""
    query = select(Payment).where(Payment.account_id == account_id, Payment.amount_minor > 0)
    order = (
        case((col(Payment.state) == "pending", 0), else_=1),
        col(Payment.created_at).desc(),
        col(Payment.id).desc(),
    )
    return session.exec(query.order_by(*order).limit(limit)).all()


def count_pending(session: Session, account_id: str) -> int:
    """How many payments of an account are open."""
    query = select(func.count()).select_from(Payment).where(Payment.account_id == account_id, text(PENDING))
    return session.exec(query).one()


def list_pending(session: Session, *, limit: int = 200) -> Sequence[Payment]:
    """Everybody's pending payments, the one that is given up first first."""
    return session.exec(select(Payment).where(text(PENDING)).order_by(col(Payment.expires_at)).limit(limit)).all()


def find_by_reference(session: Session, reference: str) -> Payment | None:
    """The payment with this reference or id, whatever its state."""
    query = select(Payment).where((col(Payment.id) == reference) | (col(Payment.provider_reference) == reference))
    return session.exec(query.limit(1)).first()


def _change(session: Session, change: Update, **values: Any) -> int:
    return len(session.execute(change.values(**values).returning(col(Payment.id))).all())
