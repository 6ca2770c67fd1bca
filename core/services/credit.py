"""Crediting a payment: once, however many say that it was paid, with its bonus as an entry of its own."""

from __future__ import annotations

from sqlmodel import Session

from core.config import Settings
from core.ledger import ledger
from core.ledger.posting import lock_account
from core.ledger.tables import Account
from core.payments import invoices, payments
from core.services.card_reversals import collect_owed


def credit_payment(session: Session, settings: Settings, payment_id: str, *, actor: str) -> bool:
    """Mark a payment as paid and credit what it bought; False when that was done before.

    Raises `PaymentNotFoundError`. A frozen account is credited too. What the account owes for money that went back to
    a card is taken then. Its invoice is issued in the same transaction, where the operator issues any.
    """
    # The account first, as everywhere.
    lock_account(session, payments.get_payment(session, payment_id).account_id)
    payment = payments.mark_paid(session, payment_id, actor=actor)
    if payment is None:
        return False
    source, account_id = f"house:{payment.provider}", payment.account_id
    entry = ledger.post_top_up(session, account_id, payment.tokens_mt, source=source, actor=actor, memo=payment.id)
    if payment.bonus_mt:
        ledger.post_bonus(session, account_id, payment.bonus_mt, actor=actor, memo=payment.id)
    payments.note_entry(session, payment.id, entry.seq)
    collect_owed(session, account_id)
    if (seller := invoices.read_seller(settings)) is not None:
        account = session.get_one(Account, account_id)
        invoices.issue_invoice(session, seller, payment, account_name=account.name)
    return True
