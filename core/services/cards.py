"""Card payments: Stripe's word on each, by signed events or by asking, credited once whatever comes and in what order.

Stripe is never called inside of a transaction. Whatever is learnt ends in `_settle` or `take_back`, which bring our
rows to what Stripe says and may be repeated.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from sqlalchemy import update
from sqlmodel import Session, col, select

from core.db import insert_if_absent, utcnow
from core.errors import CardPaymentsDownError, PaymentNotOfferedError, PaymentUnderWayError
from core.ledger.posting import lock_account
from core.payments import payments
from core.payments.card_tables import CardDispute, CardEvent, CardSession
from core.payments.offers import read_offers
from core.payments.stripe_checkout import (
    STRIPE,
    Checkout,
    StripeCheckout,
    StripeEvent,
    id_of,
    read_session_json,
    read_stripe,
    stripe_amount,
)
from core.payments.tables import Payment
from core.services import auto_rules, card_reversals
from core.services.application import Application
from core.services.credit import credit_payment

log = logging.getLogger("visionmeter")

_DECLINED = "The bank refused the payment."
UNHEARD = "Stripe did not say what became of it; it is not asked for any more"
SESSION_EVENTS = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
)

# An inquiry takes no money until it becomes a dispute, which is told by the second of these.
REVERSAL_EVENTS = (
    "charge.refunded",
    "charge.dispute.created",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.closed",
)

UNANSWERED_MAX = 3


class Patience:
    """For a round of questions: one that Stripe does not answer must not keep the others waiting; three end it."""

    def __init__(self) -> None:
        self.unanswered = 0

    def wear(self, error: CardPaymentsDownError) -> None:
        """One more was not answered. Raises `error` when that was enough."""
        self.unanswered += 1
        if self.unanswered == UNANSWERED_MAX:
            raise error


def note_opened(app: Application, session: Session, payment: Payment, *, saves_card: bool = False) -> None:
    """In the transaction that opens a card payment: Stripe is asked for it, also when nobody comes back."""
    first = utcnow() + timedelta(seconds=app.settings.stripe_check_after_s)
    session.add(CardSession(payment_id=payment.id, next_check_at=first, saves_card=saves_card))


def prepare_payment(app: Application, payment: Payment) -> str:
    """Where a pending payment is paid, its session made at Stripe where there is none; empty when it is too old.

    Raises `CardPaymentsDownError` or `PaymentNotOfferedError`.
    """
    row = _row(app, payment.id)
    if row.session_id is not None:
        return row.url
    checkout = require_stripe(app).make_session(payment, saves_card=row.saves_card)
    if checkout is None:
        return ""
    with app.db.write() as session:
        _note_session(session, payment.id, checkout)
    return checkout.url


def check_payment(app: Application, payment_id: str) -> Payment:
    """Ask Stripe for a payment and do what it says; gives the payment as it is then.

    Raises `PaymentNotFoundError`, `CardPaymentsDownError` or `PaymentNotOfferedError`.
    """
    with app.db.read() as session:
        payment = payments.get_payment(session, payment_id)
    stripe, row = require_stripe(app), _row(app, payment_id)
    if row.session_id is None:
        checkout = stripe.make_session(payment, saves_card=row.saves_card)
    else:
        checkout = stripe.get_session(row.session_id)
    with app.db.write() as session:
        if checkout is not None:
            _settle(app, session, payment_id, checkout)
        else:
            # It never had a session that anybody saw, and gets none any more.
            payments.give_up_payment(session, payment_id)
            stop_checking(session, payment_id)
        return payments.get_payment(session, payment_id)


def close_session(app: Application, payment: Payment) -> None:
    """End a payment's session at Stripe, so that it can be cancelled; what was paid a moment ago is credited.

    Raises `PaymentUnderWayError`, `CardPaymentsDownError` or `PaymentNotOfferedError`.
    """
    stripe, row = require_stripe(app), _row(app, payment.id)
    session_id = row.session_id
    if session_id is None:
        made = stripe.make_session(payment, saves_card=row.saves_card)
        if made is None:
            return
        session_id = made.session_id
    checkout = stripe.expire_session(session_id)
    with app.db.write() as session:
        _settle(app, session, payment.id, checkout)
    if checkout.status == "complete" and checkout.payment_status == "unpaid":
        raise PaymentUnderWayError("The bank is at work on this payment: wait for its answer.")


# Events --------------------------------------------------------------------------------------------


def receive_session(app: Application, event: StripeEvent) -> None:
    """Act on what Stripe tells of a Checkout session, once."""
    checkout = read_session_json(event.object)
    with app.db.write() as session:
        if not is_ours(session, checkout.payment_id) or not is_new(session, event):
            return
        _settle(app, session, checkout.payment_id, checkout, failed=event.kind.endswith("failed"))


def receive_reversal(app: Application, event: StripeEvent) -> bool:
    """Act on a refund or a dispute that Stripe tells of; False when that was done before, or it is no concern of ours.

    Raises `CardPaymentsDownError`.
    """
    facts = event.object
    payment_id, intent_id = str((facts.get("metadata") or {}).get("payment_id", "")), id_of(facts.get("payment_intent"))
    if not payment_id and intent_id is not None:
        with app.db.read() as session:
            known = select(CardSession.payment_id).where(CardSession.intent_id == intent_id)
            payment_id = session.exec(known).first() or ""
        # It came before the event of the payment itself.
        payment_id = payment_id or require_stripe(app).payment_of_intent(intent_id)
    with app.db.write() as session:
        if not is_ours(session, payment_id) or not is_new(session, event):
            return False
        account_id = payments.get_payment(session, payment_id).account_id
        lock_account(session, account_id)
        if event.kind == "charge.refunded":
            refunded = int(facts["amount_refunded"])
            less = update(CardSession).where(
                col(CardSession.payment_id) == payment_id, col(CardSession.refunded_minor) < refunded
            )
            changed = less.values(refunded_minor=refunded).returning(col(CardSession.payment_id))
            took_money = session.execute(changed).first() is not None
        else:
            took_money = _note_dispute(session, payment_id, event)
        card_reversals.take_back(session, payment_id)
        if took_money:
            # What is low now is so because of it: charging the card for that would undo the refund.
            auto_rules.stop(session, account_id, "reversed")
        return True


def _note_dispute(session: Session, payment_id: str, event: StripeEvent) -> bool:
    """Note what a dispute has come to; gives whether it is a new one that takes money."""
    facts = event.object
    state = "open"
    if event.kind == "charge.dispute.closed":
        # An inquiry that was closed without a dispute took no money either.
        state = "won" if facts.get("status") in ("won", "warning_closed") else "lost"
    elif event.kind == "charge.dispute.created" and str(facts.get("status", "")).startswith("warning"):
        return False
    values = {"id": str(facts["id"]), "payment_id": payment_id, "amount_minor": int(facts["amount"]), "state": state}
    is_new_one = insert_if_absent(session, CardDispute, values, returning="id") is not None
    if not is_new_one and state != "open":
        session.execute(update(CardDispute).where(col(CardDispute.id) == values["id"]).values(state=state))
    log.warning("payment %s is disputed: %s", payment_id, state)
    return is_new_one and state != "won"


def is_ours(session: Session, payment_id: str) -> bool:
    """Whether a payment that Stripe names is one of this installation's."""
    return bool(payment_id) and session.get(CardSession, payment_id) is not None


def is_new(session: Session, event: StripeEvent) -> bool:
    """Note an event; False when it was noted before."""
    values = {"id": event.id, "kind": event.kind, "received_at": utcnow()}
    return insert_if_absent(session, CardEvent, values, returning="id") is not None


# What Stripe says of a session -----------------------------------------------------------------------


def _settle(app: Application, session: Session, payment_id: str, checkout: Checkout, *, failed: bool = False) -> None:
    payment = payments.get_payment(session, payment_id)
    lock_account(session, payment.account_id)
    row = _note_session(session, payment_id, checkout)
    if checkout.payment_status == "paid":
        expected = (row.session_id, stripe_amount(payment.amount_minor, payment.currency), payment.currency)
        if (checkout.session_id, checkout.amount, checkout.currency) != expected:
            flag(session, row, f"{checkout.amount} {checkout.currency} for it in session {checkout.session_id}")
            return
        if credit_payment(session, app.settings, payment_id, actor=STRIPE):
            log.info("payment %s is credited", payment_id)
            # A refund may have been heard of first.
            card_reversals.take_back(session, payment_id)
        stop_checking(session, payment_id)
    elif checkout.session_id != row.session_id:
        return
    elif checkout.status == "expired":
        payments.give_up_payment(session, payment_id)
        stop_checking(session, payment_id)
    elif failed and payment.state in ("pending", "expired"):
        payments.cancel_payment(session, payment_id, actor=STRIPE, reason=_DECLINED)
        stop_checking(session, payment_id)


def flag(session: Session, row: CardSession, found: str) -> None:
    """Money that does not fit its payment: the operator sees it, and nothing is credited."""
    problem = f"Stripe has {found}"
    log.error("payment %s is not credited: %s, which does not fit what was opened", row.payment_id, problem)
    row.problem, row.next_check_at = problem, None
    session.add(row)
    session.flush()


def _note_session(session: Session, payment_id: str, checkout: Checkout) -> CardSession:
    row = session.get(CardSession, payment_id, populate_existing=True, with_for_update=True)
    assert row is not None  # made in the transaction that made the payment
    if row.session_id is None:
        row.session_id, row.url = checkout.session_id, checkout.url
    if row.session_id == checkout.session_id and checkout.intent_id is not None:
        row.intent_id = checkout.intent_id
    session.add(row)
    session.flush()
    return row


def stop_checking(session: Session, payment_id: str) -> None:
    """Nothing is left to ask of a payment."""
    mine = update(CardSession).where(col(CardSession.payment_id) == payment_id)
    session.execute(mine.values(next_check_at=None))
    session.execute(mine.where(col(CardSession.problem) == UNHEARD).values(problem=""))


def find_stripe(app: Application) -> StripeCheckout | None:
    """Stripe as it is set up; None where no cards are taken."""
    return read_stripe(app.settings, read_offers(app.settings))


def require_stripe(app: Application) -> StripeCheckout:
    """Stripe as it is set up. Raises `PaymentNotOfferedError` where no cards are taken."""
    stripe = find_stripe(app)
    if stripe is None:
        raise PaymentNotOfferedError("Cards are not taken here.", provider=STRIPE)
    return stripe


def _row(app: Application, payment_id: str) -> CardSession:
    with app.db.read() as session:
        row = session.get(CardSession, payment_id)
        assert row is not None  # made in the transaction that made the payment
        return row
