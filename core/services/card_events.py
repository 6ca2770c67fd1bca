"""Stripe's signed events, each acted on once, whatever it is about."""

from __future__ import annotations

from core.payments import payments
from core.payments.stripe_checkout import StripeEvent, read_event
from core.payments.stripe_saved import SAVED_CARD, read_intent
from core.services import cards, saved_cards
from core.services.application import Application

INTENT_EVENTS = ("payment_intent.succeeded", "payment_intent.payment_failed", "payment_intent.canceled")


def receive_event(app: Application, body: bytes, signature: str) -> None:
    """Act on an event of Stripe's, once. Raises `BadSignatureError`, and `CardPaymentsDownError`: send it again.

    What is no concern of ours, such as another shop's payment on the same Stripe account, is passed over.
    """
    cards.require_stripe(app)
    event = read_event(app.settings, body, signature)
    if event.kind in cards.SESSION_EVENTS:
        cards.receive_session(app, event)
    elif event.kind in cards.REVERSAL_EVENTS:
        cards.receive_reversal(app, event)
    elif event.kind in INTENT_EVENTS:
        _receive_intent(app, event)


def _receive_intent(app: Application, event: StripeEvent) -> None:
    intent = read_intent(event.object)
    with app.db.write() as session:
        if not cards.is_ours(session, intent.payment_id):
            return
        # The intent of a Checkout session is the session's business.
        is_saved_card = payments.get_payment(session, intent.payment_id).provider == SAVED_CARD
        if is_saved_card and cards.is_new(session, event):
            saved_cards.settle_event(app, session, intent)
