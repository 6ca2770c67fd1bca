"""Cards that Stripe keeps: taken over from a payment, forgotten here and there. Stripe is asked in no transaction.

A card that goes is written down in the same transaction, and the keeper tells Stripe until it has heard.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from sqlalchemy import delete, text
from sqlmodel import Session, col, select

from core.db import insert_if_absent, utcnow
from core.errors import CardPaymentsDownError, PaymentUnderWayError, StripeRefusedError
from core.identity.tables import User
from core.ledger.posting import lock_account
from core.ledger.tables import Account
from core.payments.auto_tables import AutoTopUp, ForgottenCard, SavedCard
from core.payments.card_tables import SAVES_CARD, CardSession
from core.payments.stripe_saved import KeptCard, detach_card, get_kept_card
from core.payments.tables import Payment
from core.services import auto_rules, cards
from core.services.application import Application
from core.services.team import require_now, require_role

log = logging.getLogger("visionmeter")

AT_ONCE = 50


def forget_card(app: Application, user: User) -> None:
    """Remove the kept card, here and at Stripe, which also turns automatic top-ups off.

    Raises `RoleNeededError` for all but owners, or `PaymentUnderWayError` while it is being charged.
    """
    require_role(user, "owner")
    with app.db.write() as session:
        lock_account(session, user.account_id)
        require_now(session, user, "owner")
        card = session.get(SavedCard, user.account_id)
        if card is None:
            return
        if auto_rules.is_charging(session, user.account_id):
            raise PaymentUnderWayError("This card is being charged: wait for the answer.")
        auto_rules.turn_off(session, user.account_id, user.id)
        _remove(session, card)
        auto_rules.record(session, user.account_id, user.id, "card.forget")
    detach_soon(app)


def remove_all(session: Session, account_id: str) -> None:
    """In the transaction that ends an account: its rule and card go; `detach_soon` after it tells Stripe."""
    rule, card = session.get(AutoTopUp, account_id), session.get(SavedCard, account_id)
    if rule is not None:
        session.delete(rule)
    if card is not None:
        _remove(session, card)


def detach_soon(app: Application) -> None:
    """Tell Stripe of the cards that are not used any more; where it does not answer, the keeper does that later."""
    if cards.find_stripe(app) is not None:
        with suppress(CardPaymentsDownError):
            detach_due(app)


def detach_due(app: Application) -> None:
    """Let Stripe forget the cards that nothing here uses any more. Raises `CardPaymentsDownError`."""
    with app.db.read() as session:
        found = session.exec(select(ForgottenCard).order_by(col(ForgottenCard.forgotten_at)).limit(AT_ONCE)).all()
    for card in found:
        try:
            detach_card(cards.require_stripe(app), card.method_id)
        except StripeRefusedError:
            log.error("Stripe refuses to forget the card %s: detach it in its dashboard", card.method_id)
        with app.db.write() as session:
            session.execute(delete(ForgottenCard).where(col(ForgottenCard.method_id) == card.method_id))


def remember_due(app: Application) -> None:
    """Ask Stripe for the cards that paid payments were to keep, the first paid first; not while one is being charged.

    Raises `CardPaymentsDownError` after some that were not answered; they all come again.
    """
    due = select(Payment, CardSession).join(CardSession, col(CardSession.payment_id) == col(Payment.id))
    idle = col(Payment.account_id).not_in(auto_rules.charging_accounts())
    due = due.where(text(SAVES_CARD), Payment.state == "paid", idle)
    with app.db.read() as session:
        found = session.exec(due.order_by(col(Payment.paid_at)).limit(AT_ONCE)).all()
    patience = cards.Patience()
    for payment, row in found:
        kept = None
        try:
            if row.intent_id is not None:
                kept = get_kept_card(cards.require_stripe(app), row.intent_id)
        except StripeRefusedError:
            log.error("payment %s: Stripe does not tell the card that it was to keep; none is kept", payment.id)
        except CardPaymentsDownError as error:
            patience.wear(error)
            continue
        _remember(app, payment, kept)


def _remember(app: Application, payment: Payment, kept: KeptCard | None) -> None:
    """Keep a card in place of the one before; not while that one is being charged."""
    with app.db.write() as session:
        lock_account(session, payment.account_id)
        row = session.get_one(CardSession, payment.id, populate_existing=True)
        if not row.saves_card or (kept is not None and auto_rules.is_charging(session, payment.account_id)):
            return
        row.saves_card = False
        session.add(row)
        account = session.get_one(Account, payment.account_id)
        if kept is None:
            return
        if account.closed_at is not None:
            _note_forgotten(session, kept.method_id)
            return
        former = session.get(SavedCard, payment.account_id)
        if former is not None and former.method_id == kept.method_id:
            return
        if former is not None:
            _remove(session, former)
        session.add(
            SavedCard(
                account_id=payment.account_id,
                customer_id=kept.customer_id,
                method_id=kept.method_id,
                brand=kept.brand,
                last4=kept.last4,
            )
        )
        auto_rules.record(session, payment.account_id, payment.opened_by, "card.save")


def _remove(session: Session, card: SavedCard) -> None:
    _note_forgotten(session, card.method_id)
    session.delete(card)
    session.flush()


def _note_forgotten(session: Session, method_id: str) -> None:
    values = {"method_id": method_id, "forgotten_at": utcnow()}
    insert_if_absent(session, ForgottenCard, values, returning="method_id")
