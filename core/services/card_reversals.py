"""Money that went back to a card takes its tokens back: as far as they are there, and the rest is owed and shown."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, text
from sqlmodel import Session, col, select

from core.ledger import ledger
from core.ledger.corrections import post_adjustment
from core.ledger.posting import lock_account
from core.ledger.tables import Account
from core.payments import invoices, payments
from core.payments.card_tables import OWING, CardDispute, CardSession
from core.payments.stripe_checkout import STRIPE, stripe_amount
from core.payments.tables import Payment


def take_back(session: Session, payment_id: str) -> None:
    """Bring what was taken for a payment to what its refunds and disputes come to, whatever came first or twice.

    Takes at most what is available; `owed_mt` is the rest. A dispute that was won gives back. What was refunded gets a
    credit note. Does nothing for a payment that is not credited. Raises `PaymentNotFoundError`.
    """
    payment = payments.get_payment(session, payment_id)
    lock_account(session, payment.account_id)
    row = session.get(CardSession, payment_id, populate_existing=True)
    if row is None or payment.state != "paid":
        return
    disputes = select(func.coalesce(func.sum(CardDispute.amount_minor), 0))
    disputed = session.exec(disputes.where(CardDispute.payment_id == payment_id, CardDispute.state != "won")).one()
    paid = stripe_amount(payment.amount_minor, payment.currency)
    due_mt = payment.credited_mt * min(paid, row.refunded_minor + int(disputed)) // paid - row.taken_mt
    change_mt = -due_mt
    if due_mt > 0:
        change_mt = -min(due_mt, max(ledger.get_balance(session, payment.account_id).available_mt, 0))
    if change_mt:
        words = "the money went back to the card" if change_mt < 0 else "a dispute was won"
        reason = f"payment {payment_id}: {words}"
        post_adjustment(session, payment.account_id, change_mt, reason=reason, actor=STRIPE)
    invoices.issue_credit_note(session, payment, row.refunded_minor * payment.amount_minor // paid)
    row.taken_mt -= change_mt
    row.owed_mt = max(due_mt + change_mt, 0)
    session.add(row)
    session.flush()


def collect_owed(session: Session, account_id: str) -> None:
    """Take what an account owes for money that went back, as far as it is there now."""
    lock_account(session, account_id)
    query = select(CardSession.payment_id).join(Payment, col(Payment.id) == col(CardSession.payment_id))
    for payment_id in session.exec(query.where(text(OWING), Payment.account_id == account_id)).all():
        take_back(session, payment_id)


def owing_accounts(session: Session, *, limit: int = 100) -> Sequence[str]:
    """The accounts that owe something and have something: a hold was in the way, and has ended since."""
    query = select(Payment.account_id).join(CardSession, col(Payment.id) == col(CardSession.payment_id))
    query = query.join(Account, col(Account.id) == col(Payment.account_id))
    return session.exec(query.where(text(OWING), Account.posted_mt > Account.held_mt).distinct().limit(limit)).all()


def owed_by(session: Session, account_id: str) -> int:
    """The milli-tokens that an account owes for money that went back."""
    query = select(func.coalesce(func.sum(CardSession.owed_mt), 0))
    query = query.join(Payment, col(Payment.id) == col(CardSession.payment_id))
    return int(session.exec(query.where(text(OWING), Payment.account_id == account_id)).one())


def list_troubled(session: Session, *, limit: int = 100) -> Sequence[tuple[Payment, CardSession]]:
    """Card payments that want an operator's eye: money that did not fit, or tokens that are owed; the newest first."""
    query = select(Payment, CardSession).join(CardSession, col(Payment.id) == col(CardSession.payment_id))
    query = query.where((col(CardSession.owed_mt) > 0) | (col(CardSession.problem) != ""))
    return session.exec(query.order_by(col(Payment.created_at).desc()).limit(limit)).all()
