"""Money by card: Stripe Checkout through Stripe's own SDK. Whatever asks Stripe runs in no transaction.

Stripe's reference: docs.stripe.com/api/checkout/sessions, docs.stripe.com/api/idempotent_requests,
docs.stripe.com/currencies (smallest units) and docs.stripe.com/webhooks (signatures).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlmodel import Session

from core.config import Settings
from core.db import new_id, utcnow
from core.errors import BadSignatureError, CardPaymentsDownError, ConfigError, InvalidAmountError, StripeRefusedError
from core.money import format_tokens, from_minor
from core.payments.card_tables import CardSession
from core.payments.offers import Offers
from core.payments.provider import Instructions, Opened, Wanted
from core.payments.tables import Payment

if TYPE_CHECKING:
    from stripe import StripeClient
    from stripe.checkout import Session as CheckoutSession

log = logging.getLogger("visionmeter")

STRIPE = "stripe"
TIMEOUT_S = 15
SIGNATURE_TOLERANCE_S = 300
# Of one look at what was not heard; more than a shop has refunds and disputes in a month.
EVENTS_MAX = 5_000
# Stripe keeps a session for a day at most and an idempotency key for a day at least: within them, one payment can have
# no second session. Stripe asks for half an hour between making and ending.
SESSION_LIFE = timedelta(hours=23)
OPENED_LATEST = SESSION_LIFE - timedelta(hours=1)
# docs.stripe.com/currencies: what differs from CLDR's decimals, which ours are.
_DECIMALS = {
    **dict.fromkeys(
        ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"), 0
    ),
    **dict.fromkeys(("BHD", "JOD", "KWD", "OMR", "TND"), 3),
}


@dataclass(frozen=True, slots=True)
class Checkout:
    """A Checkout session as Stripe told it; `amount` in Stripe's smallest unit, `currency` in capitals.

    `payment_id` is empty for a session that is not ours.
    """

    session_id: str
    payment_id: str
    status: str
    payment_status: str
    amount: int
    currency: str
    intent_id: str | None
    url: str = ""


@dataclass(frozen=True, slots=True)
class StripeEvent:
    """A signed event: its id, its type, and the object that it is about as JSON."""

    id: str
    kind: str
    object: Mapping[str, Any]


def stripe_amount(amount_minor: int, currency: str) -> int:
    """An amount in Stripe's smallest unit. Raises `InvalidAmountError` for one that Stripe cannot take."""
    decimals = _DECIMALS.get(currency, 2)
    amount = from_minor(amount_minor, currency) * Decimal(10) ** decimals
    # The last of three decimals is 0, and at most eight digits are taken.
    step = 10 if decimals == 3 else 1
    if amount % step or not 0 < amount < 100_000_000:
        raise InvalidAmountError(f"Cards do not take {from_minor(amount_minor, currency):,} {currency}.")
    return int(amount)


@dataclass(frozen=True, slots=True)
class StripeCheckout:
    """Payments on Stripe's page."""

    offers: Offers
    client: StripeClient
    public_url: str
    name: str = STRIPE

    def open(self, _session: Session, _account_id: str, wanted: Wanted) -> Opened:
        terms = self.offers.terms(wanted.amount_minor)
        stripe_amount(terms.amount_minor, terms.currency)
        return Opened(terms, new_id("card"), is_paid=False)

    def instructions(self, session: Session, payment: Payment) -> Instructions:
        row = session.get(CardSession, payment.id)
        return Instructions(url="" if row is None else row.url)

    def make_session(self, payment: Payment, *, saves_card: bool = False) -> Checkout | None:
        """The payment's session; asked again within its life it is the same one. None for a payment that is too old.

        With `saves_card` Stripe keeps the card to be charged later. Raises `CardPaymentsDownError`.
        """
        if utcnow() > payment.created_at + OPENED_LATEST:
            return None
        back = f"{self.public_url}/top_up?payment={payment.id}"
        known = {"payment_id": payment.id}
        # So that a refund or a dispute names the payment, whatever comes first.
        intent: Any = {"metadata": known}
        more: Any = {}
        if saves_card:
            intent["setup_future_usage"], more["customer_creation"] = "off_session", "always"
        wanted: Any = {
            "mode": "payment",
            "client_reference_id": payment.id,
            "metadata": known,
            "payment_intent_data": intent,
            **more,
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": payment.currency.lower(),
                        "unit_amount": stripe_amount(payment.amount_minor, payment.currency),
                        "product_data": {"name": f"{format_tokens(payment.credited_mt)} tokens"},
                    },
                }
            ],
            "expires_at": int((payment.created_at + SESSION_LIFE).timestamp()),
            "success_url": f"{back}&card=done",
            "cancel_url": f"{back}&card=back",
        }
        with asking_stripe():
            session = self.client.v1.checkout.sessions.create(wanted, {"idempotency_key": payment.id})
        return _read_session(session)

    def get_session(self, session_id: str) -> Checkout:
        """A session as it is now. Raises `CardPaymentsDownError`."""
        with asking_stripe():
            return _read_session(self.client.v1.checkout.sessions.retrieve(session_id))

    def expire_session(self, session_id: str) -> Checkout:
        """End a session, so that it cannot be paid any more; gives it as it is then, which may be paid.

        Raises `CardPaymentsDownError`.
        """
        import stripe

        with asking_stripe():
            try:
                return _read_session(self.client.v1.checkout.sessions.expire(session_id))
            except stripe.InvalidRequestError:
                # Only an open session can be ended: it was paid, or ended, a moment ago.
                return _read_session(self.client.v1.checkout.sessions.retrieve(session_id))

    def payment_of_intent(self, intent_id: str) -> str:
        """Which payment an intent of Stripe's is for; empty when it is not ours. Raises `CardPaymentsDownError`."""
        with asking_stripe():
            metadata = self.client.v1.payment_intents.retrieve(intent_id).metadata
        return str(metadata["payment_id"]) if metadata and "payment_id" in metadata else ""

    def list_events(self, kinds: Sequence[str], since: datetime) -> Iterator[StripeEvent]:
        """Events of these kinds since then, the newest first: Stripe keeps them for 30 days, heard or not.

        Page after page as they are taken, `EVENTS_MAX` at most. Raises `CardPaymentsDownError`.
        """
        with asking_stripe():
            asked = {"types": list(kinds), "created": {"gte": int(since.timestamp())}, "limit": 100}
            found = self.client.v1.events.list(asked)  # type: ignore[arg-type]  # a plain dict, which is what it takes
            for event in islice(found.auto_paging_iter(), EVENTS_MAX):
                yield _read_event(event.to_dict())

    def ping(self) -> None:
        """Ask Stripe for as little as there is. Raises `CardPaymentsDownError` when the key does not do it."""
        with asking_stripe():
            self.client.v1.checkout.sessions.list({"limit": 1})
            self.client.v1.events.list({"limit": 1})


def read_stripe(settings: Settings, offers: Offers) -> StripeCheckout | None:
    """Stripe as the operator set it up; None without a key. Raises `ConfigError` for what is missing beside it."""
    key = settings.stripe_secret_key.get_secret_value()
    if not key:
        return None
    if not settings.stripe_webhook_secret.get_secret_value():
        raise ConfigError("VISIONMETER_STRIPE_WEBHOOK_SECRET is missing: Stripe shows it with the webhook's endpoint.")
    if not settings.public_base:
        raise ConfigError(
            "VISIONMETER_PUBLIC_URL is needed to take cards: the portal's address, such as https://vision.example.com."
        )
    return StripeCheckout(offers, _client(key, settings.stripe_api_base), settings.public_base)


def read_event(settings: Settings, body: bytes, signature: str) -> StripeEvent:
    """An event that Stripe signed at most five minutes ago. Raises `BadSignatureError` for anything else."""
    import stripe

    try:
        # A header of other letters than ASCII is a TypeError to hmac, a body that is no UTF-8 a ValueError.
        stripe.WebhookSignature.verify_header(
            body, signature, settings.stripe_webhook_secret.get_secret_value(), SIGNATURE_TOLERANCE_S
        )
        return _read_event(json.loads(body))
    except (stripe.SignatureVerificationError, ValueError, TypeError, KeyError):
        raise BadSignatureError(
            "This is no fresh event with Stripe's signature: compare VISIONMETER_STRIPE_WEBHOOK_SECRET with the "
            "endpoint's signing secret, and this machine's clock with the time."
        ) from None


def _read_event(event: Mapping[str, Any]) -> StripeEvent:
    return StripeEvent(str(event["id"]), str(event["type"]), dict(event["data"]["object"]))


def read_session_json(session: Mapping[str, Any]) -> Checkout:
    """A Checkout session from an event."""
    metadata = session.get("metadata") or {}
    # A payment link takes any `client_reference_id` from its address, and no metadata: both must name the payment.
    known = str(metadata.get("payment_id", ""))
    return Checkout(
        str(session["id"]),
        known if known == session.get("client_reference_id") else "",
        str(session.get("status") or ""),
        str(session.get("payment_status") or ""),
        int(session.get("amount_total") or 0),
        str(session.get("currency") or "").upper(),
        id_of(session.get("payment_intent")),
        str(session.get("url") or ""),
    )


def id_of(reference: Any) -> str | None:
    """What Stripe names by its id or, where it was asked to, by the object."""
    if isinstance(reference, Mapping):
        reference = reference.get("id")
    return None if reference is None else str(reference)


def _read_session(session: CheckoutSession) -> Checkout:
    return read_session_json(session.to_dict())


@cache
def _client(key: str, api_base: str) -> StripeClient:
    import stripe

    # Telemetry would tell Stripe how long each of our requests took. Its log lines repeat what ours say.
    stripe.enable_telemetry = False
    logging.getLogger("stripe").setLevel(logging.WARNING)
    return stripe.StripeClient(
        key,
        base_addresses={"api": api_base.rstrip("/")} if api_base else None,
        max_network_retries=2,
        http_client=stripe.RequestsClient(timeout=TIMEOUT_S),
    )


@contextmanager
def asking_stripe() -> Iterator[None]:
    """Whatever Stripe refuses, or does not answer, is a `CardPaymentsDownError`, and logged without what was sent.

    What it would refuse again (no such object, not with this key, no) is a `StripeRefusedError`.
    """
    import stripe

    try:
        yield
    except stripe.StripeError as error:
        # Not its message, which may repeat what was sent.
        log.warning("Stripe: %s, status %s, code %s", type(error).__name__, error.http_status, error.code)
        is_final = isinstance(error, (stripe.InvalidRequestError, stripe.PermissionError, stripe.CardError))
        raise (StripeRefusedError if is_final else CardPaymentsDownError)(
            "Stripe does not answer or refuses: try again in a minute. `visionmeter doctor` looks at the key."
        ) from None
