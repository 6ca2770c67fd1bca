"""Charging a card that Stripe keeps: payment intents without the customer present, and the card's own end.

Stripe's reference: docs.stripe.com/payments/save-during-payment and docs.stripe.com/api/payment_intents. Whatever asks
Stripe runs in no transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlmodel import Session

from core.db import new_id
from core.payments.offers import Offers
from core.payments.provider import Instructions, Opened, Wanted
from core.payments.stripe_checkout import StripeCheckout, asking_stripe, id_of, stripe_amount
from core.payments.tables import Payment

log = logging.getLogger("visionmeter")

SAVED_CARD = "saved_card"
# Of one customer of Stripe's since one payment was opened; his top-ups wait for one another.
INTENTS_MAX = 200


@dataclass(frozen=True, slots=True)
class Intent:
    """A payment intent as Stripe told it; `amount` in Stripe's smallest unit, `currency` in capitals.

    `refusal` is `card_declined` or `authentication_required` when it will not be paid any more, else empty.
    """

    intent_id: str
    payment_id: str
    status: str
    amount: int
    currency: str
    refusal: str


@dataclass(frozen=True, slots=True)
class KeptCard:
    """A card that Stripe keeps after a payment."""

    customer_id: str
    method_id: str
    brand: str
    last4: str


@dataclass(frozen=True, slots=True)
class SavedCards:
    """Payments with a card that Stripe keeps: nobody is asked, so there is nothing to do for the customer."""

    offers: Offers
    name: str = SAVED_CARD

    def open(self, _session: Session, _account_id: str, wanted: Wanted) -> Opened:
        terms = self.offers.terms(wanted.amount_minor)
        stripe_amount(terms.amount_minor, terms.currency)
        return Opened(terms, new_id("auto"), is_paid=False)

    def instructions(self, _session: Session, _payment: Payment) -> Instructions:
        return Instructions()


def charge_card(stripe: StripeCheckout, payment: Payment, customer_id: str, method_id: str) -> Intent | None:
    """Charge a kept card for a payment; asked again within a day it is the same charge. Raises `CardPaymentsDownError`.

    A refusal is an answer, not an error. None, and nothing was charged, when Stripe does not take the request: it has
    no such card any more, or the amount is too small. `StripeRefusedError` where it does not say what it did.
    """
    import stripe as sdk

    with asking_stripe():
        try:
            intent = stripe.client.v1.payment_intents.create(
                {
                    "amount": stripe_amount(payment.amount_minor, payment.currency),
                    "currency": payment.currency.lower(),
                    "customer": customer_id,
                    "payment_method": method_id,
                    "off_session": True,
                    "confirm": True,
                    "metadata": {"payment_id": payment.id},
                },
                {"idempotency_key": payment.id},
            )
        except sdk.CardError as error:
            body: Any = error.json_body or {}
            refused = (body.get("error") or {}).get("payment_intent")
            if not isinstance(refused, Mapping):
                raise
            return read_intent(refused)
        except sdk.InvalidRequestError as error:
            log.warning("payment %s: Stripe does not take the charge, code %s", payment.id, error.code)
            return None
    return read_intent(intent.to_dict())


def get_intent(stripe: StripeCheckout, intent_id: str) -> Intent:
    """An intent as it is now. Raises `CardPaymentsDownError`."""
    with asking_stripe():
        return read_intent(stripe.client.v1.payment_intents.retrieve(intent_id).to_dict())


def find_intent(stripe: StripeCheckout, payment: Payment, customer_id: str) -> Intent | None:
    """The intent of a payment whose answer was lost, too long ago to ask by its key; None when none was ever made.

    Raises `CardPaymentsDownError`.
    """
    # An hour earlier: clocks differ.
    since = int(payment.created_at.timestamp()) - 3600
    with asking_stripe():
        found = stripe.client.v1.payment_intents.list(
            {"customer": customer_id, "created": {"gte": since}, "limit": 100}
        )
        intents = [read_intent(one.to_dict()) for one in islice(found.auto_paging_iter(), INTENTS_MAX)]
    return next((one for one in intents if one.payment_id == payment.id), None)


def read_intent(intent: Mapping[str, Any]) -> Intent:
    """A payment intent as Stripe's JSON."""
    status, error = str(intent.get("status") or ""), intent.get("last_payment_error") or {}
    refusal = ""
    if status in ("requires_payment_method", "requires_action", "canceled"):
        codes = (error.get("code"), error.get("decline_code"))
        wants_holder = status == "requires_action" or "authentication_required" in codes
        refusal = "authentication_required" if wants_holder else "card_declined"
    return Intent(
        str(intent["id"]),
        str((intent.get("metadata") or {}).get("payment_id", "")),
        status,
        int(intent.get("amount") or 0),
        str(intent.get("currency") or "").upper(),
        refusal,
    )


def get_kept_card(stripe: StripeCheckout, intent_id: str) -> KeptCard | None:
    """The card that a Checkout payment left with Stripe; None when it left none. Raises `CardPaymentsDownError`."""
    with asking_stripe():
        intent = stripe.client.v1.payment_intents.retrieve(intent_id, {"expand": ["payment_method"]}).to_dict()
    method, customer_id = intent.get("payment_method"), id_of(intent.get("customer"))
    if not isinstance(method, Mapping) or customer_id is None:
        return None
    card = method.get("card") or {}
    return KeptCard(customer_id, str(method["id"]), str(card.get("brand") or ""), str(card.get("last4") or ""))


def detach_card(stripe: StripeCheckout, method_id: str) -> None:
    """Let Stripe forget a card; one that it forgot before is no mistake. Raises `CardPaymentsDownError`."""
    import stripe as sdk

    with asking_stripe():
        try:
            stripe.client.v1.payment_methods.detach(method_id)
        except sdk.InvalidRequestError:
            return
