"""Automatic top-ups: a kept card is charged once for each time that a balance is low, and stops when it is declined.

Whether a top-up is due is decided under the account's lock, and an index lets one be under way; what it costs counts in
its month before Stripe is asked. Stripe is never called inside of a transaction; its word ends in `_settle`.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, text, update
from sqlmodel import Session, col, select

from core.db import insert_if_absent, utcnow
from core.errors import (
    CardPaymentsDownError,
    InvalidAmountError,
    NoSavedCardError,
    StripeRefusedError,
)
from core.identity.tables import User
from core.ledger.posting import lock_account
from core.ledger.tables import Account
from core.payments import payments
from core.payments.auto_tables import IS_ARMED, AutoTopUp, SavedCard
from core.payments.card_tables import CardSession
from core.payments.offers import read_offers
from core.payments.provider import Wanted
from core.payments.stripe_checkout import OPENED_LATEST, stripe_amount
from core.payments.stripe_saved import (
    SAVED_CARD,
    Intent,
    SavedCards,
    charge_card,
    find_intent,
    get_intent,
)
from core.payments.tables import Payment
from core.services import auto_rules, card_reversals, cards
from core.services.application import Application
from core.services.credit import credit_payment
from core.services.team import require_now, require_role

log = logging.getLogger("visionmeter")

# Longer than Stripe is asked for one: as long as nobody knows what became of a charge there is no second one.
TTL_DAYS = 30
REASONS = {
    "card_declined": "The bank declined the saved card.",
    "authentication_required": "The bank wants the card's holder to confirm.",
}


@dataclass(frozen=True, slots=True)
class AutoView:
    """An account's rule and card, None where there is none, and what was charged in this month in minor units."""

    rule: AutoTopUp | None
    card: SavedCard | None
    month_minor: int

    @property
    def is_full(self) -> bool:
        """Whether the month's ceiling leaves no room for another top-up."""
        return self.rule is not None and self.month_minor + self.rule.amount_minor > self.rule.month_max_minor


# The customer --------------------------------------------------------------------------------------


def get_auto(app: Application, user: User) -> AutoView:
    """The account's automatic top-up as it is now."""
    with app.db.read() as session:
        rule, card = session.get(AutoTopUp, user.account_id), session.get(SavedCard, user.account_id)
        return AutoView(rule, card, _month_minor(app, session, user.account_id))


def find_stopped(app: Application, user: User) -> str:
    """Why the account's automatic top-up has stopped; empty while it works, or is off."""
    with app.db.read() as session:
        rule = session.get(AutoTopUp, user.account_id)
        return rule.stopped if rule is not None and rule.is_on else ""


def turn_on(app: Application, user: User, *, threshold_mt: int, amount_minor: int, month_max_minor: int) -> None:
    """Buy for `amount_minor` whenever less than `threshold_mt` is available, within a ceiling for a month.

    Also after it had stopped. Months are those of the billing time zone. Raises `RoleNeededError` for all but owners,
    `NoSavedCardError`, or `InvalidAmountError` for what cannot be bought, or would not lift the balance over the
    threshold.
    """
    require_role(user, "owner")
    terms = read_offers(app.settings).terms(amount_minor)
    stripe_amount(terms.amount_minor, terms.currency)
    if not 0 < threshold_mt <= terms.tokens_mt:
        raise InvalidAmountError("The threshold is above zero, and at most what one top-up buys.")
    if not amount_minor <= month_max_minor <= 10**12:
        raise InvalidAmountError("The ceiling of a month has room for one top-up at least.")
    values = {
        "is_on": True,
        "threshold_mt": threshold_mt,
        "amount_minor": amount_minor,
        "month_max_minor": month_max_minor,
        "currency": terms.currency,
        "stopped": "",
        "changed_at": utcnow(),
    }
    with app.db.write() as session:
        lock_account(session, user.account_id)
        require_now(session, user, "owner")
        if session.get(SavedCard, user.account_id) is None:
            raise NoSavedCardError("Save a card first: pay once by card, and tick the box to keep it.")
        row = {"account_id": user.account_id, **values}
        if insert_if_absent(session, AutoTopUp, row, returning="account_id") is None:
            session.execute(update(AutoTopUp).where(col(AutoTopUp.account_id) == user.account_id).values(**values))
        amounts = {"amount_mt": threshold_mt, "amount_minor": amount_minor, "month_max_minor": month_max_minor}
        auto_rules.record(session, user.account_id, user.id, "auto_top_up.turn_on", **amounts)


def turn_off(app: Application, user: User) -> None:
    """Charge nothing any more; what is under way goes on. Raises `RoleNeededError` for all but owners."""
    require_role(user, "owner")
    with app.db.write() as session:
        lock_account(session, user.account_id)
        require_now(session, user, "owner")
        auto_rules.turn_off(session, user.account_id, user.id)


# The keeper ----------------------------------------------------------------------------------------


def charge_due(app: Application, stopping: threading.Event | None = None) -> int:
    """Begin a top-up for each account whose balance is low, and charge it; gives how many were begun.

    Any number of processes may do this at once. One that ends in between leaves a payment that `check` goes on with.
    None is begun any more where Stripe does not answer, or once `stopping` is set. A rule that cannot be met any more
    is stopped.
    """
    _stop_other_currencies(app)
    due = select(AutoTopUp).join(Account, col(Account.id) == col(AutoTopUp.account_id))
    due = due.where(
        text(IS_ARMED),
        Account.status == "active",
        col(Account.posted_mt) - col(Account.held_mt) < col(AutoTopUp.threshold_mt),
        # Who waits for Stripe, owes something or has reached his ceiling needs no transaction that writes.
        col(AutoTopUp.account_id).not_in(auto_rules.charging_accounts()),
    )
    with app.db.read() as session:
        account_ids = [
            rule.account_id
            for rule in session.exec(due).all()
            if _has_room(app, session, rule) and not card_reversals.owed_by(session, rule.account_id)
        ]
    begun = 0
    for account_id in account_ids:
        if stopping is not None and stopping.is_set():
            break
        payment = _begin(app, account_id)
        if payment is None:
            continue
        begun += 1
        try:
            check(app, payment.id)
        except StripeRefusedError:
            continue
        except CardPaymentsDownError:
            # It is asked for again later, by the same key; the others would each wait as long.
            break
    return begun


def _stop_other_currencies(app: Application) -> None:
    """Stop what was turned on in a currency that is not the service's any more: its numbers mean something else."""
    other = col(AutoTopUp.currency) != read_offers(app.settings).currency
    with app.db.read() as session:
        account_ids = session.exec(select(AutoTopUp.account_id).where(text(IS_ARMED), other)).all()
    for account_id in account_ids:
        with app.db.write() as session:
            lock_account(session, account_id)
            auto_rules.stop(session, account_id, "currency")


def _begin(app: Application, account_id: str) -> Payment | None:
    """The pending payment of a top-up that is due, in its own transaction; None when it is not, or one is under way."""
    with app.db.write() as session:
        lock_account(session, account_id)
        account = session.get_one(Account, account_id, populate_existing=True)
        rule = session.get(AutoTopUp, account_id, populate_existing=True)
        if rule is None or not rule.is_on or rule.stopped or session.get(SavedCard, account_id) is None:
            return None
        is_low = account.posted_mt - account.held_mt < rule.threshold_mt
        if not is_low or account.status != "active" or auto_rules.is_charging(session, account_id):
            return None
        if rule.currency != read_offers(app.settings).currency or not _has_room(app, session, rule):
            return None
        # What was taken back for money that went back is the customer's to pay, not the card's.
        if card_reversals.owed_by(session, account_id):
            return None
        try:
            payment = payments.open_payment(
                session,
                SavedCards(read_offers(app.settings)),
                account_id,
                Wanted(rule.amount_minor),
                actor=SAVED_CARD,
                ttl_days=TTL_DAYS,
                pending_max=None,
            )
        except InvalidAmountError:
            # The operator's limits changed since it was turned on.
            auto_rules.stop(session, account_id, "limits")
            return None
        cards.note_opened(app, session, payment)
        auto_rules.record(session, account_id, SAVED_CARD, "auto_top_up.begin", amount_minor=payment.amount_minor)
        return payment


def check(app: Application, payment_id: str) -> Payment:
    """Charge a payment that was begun, or ask what became of it; gives it as it is then.

    Raises `PaymentNotFoundError`, `PaymentNotOfferedError` or `CardPaymentsDownError`.
    """
    stripe = cards.require_stripe(app)
    with app.db.read() as session:
        payment = payments.get_payment(session, payment_id)
        row = session.get_one(CardSession, payment_id)
        card = session.get(SavedCard, payment.account_id)
    intent: Intent | None = None
    try:
        if row.intent_id is not None:
            intent = get_intent(stripe, row.intent_id)
        elif card is not None and payment.state == "pending" and utcnow() < payment.created_at + OPENED_LATEST:
            intent = charge_card(stripe, payment, card.customer_id, card.method_id)
        elif card is not None:
            # Stripe may have forgotten the key by now: a second question could be a second charge.
            intent = find_intent(stripe, payment, card.customer_id)
    except StripeRefusedError:
        # What became of this charge is asked for again; there is no use in another one.
        with app.db.write() as session:
            lock_account(session, payment.account_id)
            auto_rules.stop(session, payment.account_id, "not_charged")
        raise
    with app.db.write() as session:
        if intent is None:
            _refuse(session, payment_id, reason="The saved card was not charged.", stopped="not_charged")
        else:
            _settle(app, session, payment_id, intent)
        return payments.get_payment(session, payment_id)


def settle_event(app: Application, session: Session, intent: Intent) -> None:
    """What an event says of an intent, in the transaction that notes the event."""
    _settle(app, session, intent.payment_id, intent)


def _settle(app: Application, session: Session, payment_id: str, intent: Intent) -> None:
    payment = payments.get_payment(session, payment_id)
    lock_account(session, payment.account_id)
    row = session.get_one(CardSession, payment_id, populate_existing=True)
    if row.intent_id is None:
        row.intent_id = intent.intent_id
        session.add(row)
        session.flush()
    if intent.status == "succeeded":
        expected = (row.intent_id, stripe_amount(payment.amount_minor, payment.currency), payment.currency)
        if (intent.intent_id, intent.amount, intent.currency) != expected:
            cards.flag(session, row, f"{intent.amount} {intent.currency} for it in intent {intent.intent_id}")
            return
        if credit_payment(session, app.settings, payment_id, actor=SAVED_CARD):
            log.info("payment %s is credited", payment_id)
            card_reversals.take_back(session, payment_id)
        cards.stop_checking(session, payment_id)
    elif intent.refusal and intent.intent_id == row.intent_id:
        _refuse(session, payment_id, reason=REASONS[intent.refusal], stopped=intent.refusal)


def _refuse(session: Session, payment_id: str, *, reason: str, stopped: str) -> None:
    payment = payments.get_payment(session, payment_id)
    lock_account(session, payment.account_id)
    cards.stop_checking(session, payment_id)
    if payments.get_payment(session, payment_id).state not in ("pending", "expired"):
        return
    payments.cancel_payment(session, payment_id, actor=SAVED_CARD, reason=reason)
    # Declined once: asking again and again would cost the operator fees and the customer his card.
    auto_rules.stop(session, payment.account_id, stopped)


def _has_room(app: Application, session: Session, rule: AutoTopUp) -> bool:
    return _month_minor(app, session, rule.account_id) + rule.amount_minor <= rule.month_max_minor


def _month_minor(app: Application, session: Session, account_id: str) -> int:
    """What was charged in this month of the billing time zone, or may yet be: all but what was refused."""
    now = datetime.now(app.settings.billing_zone)
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    query = select(func.coalesce(func.sum(Payment.amount_minor), 0)).where(
        Payment.account_id == account_id,
        Payment.provider == SAVED_CARD,
        Payment.state != "cancelled",
        Payment.currency == read_offers(app.settings).currency,
        col(Payment.created_at) >= start.astimezone(utcnow().tzinfo),
    )
    return int(session.exec(query).one())
