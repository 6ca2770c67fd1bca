"""Buying tokens: what is offered, opening and cancelling a payment, and the operator's word that the money came."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlmodel import Session

from core.errors import CardPaymentsDownError, PaymentNotOfferedError, PaymentUnderWayError
from core.identity import users
from core.identity.audit_log import record_event
from core.identity.tables import User
from core.ledger.corrections import require_reason
from core.ledger.idempotency import begin_idempotent, complete_idempotent
from core.ledger.posting import lock_account
from core.payments import payments
from core.payments.bank_transfer import normalise_reference
from core.payments.offers import Offers, read_offers
from core.payments.provider import Instructions, Wanted
from core.payments.providers import VOUCHERS, list_providers
from core.payments.stripe_checkout import STRIPE
from core.payments.stripe_saved import SAVED_CARD
from core.payments.tables import Payment
from core.services import card_reversals, cards, saved_cards
from core.services.application import Application
from core.services.credit import credit_payment
from core.services.team import require_now, require_role
from core.services.top_up import require_operator


@dataclass(frozen=True, slots=True)
class OpenPayment:
    """A payment with the address of who opened it."""

    payment: Payment
    email: str


def get_offers(app: Application) -> Offers:
    """What money buys here."""
    return read_offers(app.settings)


def list_money_providers(app: Application) -> list[str]:
    """The names of the ways to pay with money; empty where there are vouchers only."""
    return [name for name in list_providers(app.settings) if name != VOUCHERS]


def open_payment(
    app: Application, user: User, provider: str, amount_minor: int, *, idempotency_key: str, saves_card: bool = False
) -> Payment:
    """A pending payment of an amount of money, in minor units. A retry with the same key gives the same payment.

    With `saves_card` Stripe keeps the card of a payment by card, for automatic top-ups.

    Raises `RoleNeededError` for a viewer, and for all but owners with `saves_card`; `PaymentNotOfferedError`,
    `InvalidAmountError`, `TooManyPaymentsError` or `IdempotencyConflictError`.
    """
    # A kept card takes the place of the one that automatic top-ups charge.
    role = "owner" if saves_card else "member"
    require_role(user, role)
    account_id = user.account_id
    request: dict[str, object] = {"provider": provider, "amount_minor": amount_minor}
    if saves_card:
        request["saves_card"] = True
    if provider not in list_money_providers(app):
        raise PaymentNotOfferedError("This way to pay is not offered here.", provider=provider)
    with app.db.write() as session:
        # As he is now: the account may have been deleted since the page was drawn.
        lock_account(session, account_id)
        require_now(session, user, role)
        answer = begin_idempotent(session, account_id, "open_payment", idempotency_key, request)
        if answer is not None:
            return payments.get_payment(session, answer["payment_id"], account_id)
        payment = payments.open_payment(
            session,
            list_providers(app.settings)[provider],
            account_id,
            Wanted(amount_minor),
            actor=user.id,
            # Stripe keeps a session for no longer than a day.
            ttl_days=1 if provider == STRIPE else app.settings.payment_ttl_days,
        )
        if provider == STRIPE:
            cards.note_opened(app, session, payment, saves_card=saves_card)
        _record(session, user, "payment.open", payment)
        complete_idempotent(session, account_id, "open_payment", idempotency_key, {"payment_id": payment.id})
    if provider == STRIPE:
        # Without an answer the payment is open all the same, and the page offers to ask again.
        with suppress(CardPaymentsDownError):
            cards.prepare_payment(app, payment)
    return payment


def list_payments(app: Application, user: User, *, limit: int = 50) -> Sequence[Payment]:
    """The account's payments of money, newest first."""
    with app.db.read() as session:
        return payments.list_payments(session, user.account_id, limit=limit)


def find_payment(app: Application, user: User, payment_id: str) -> Payment:
    """One of the account's payments. Raises `PaymentNotFoundError`."""
    with app.db.read() as session:
        return payments.get_payment(session, payment_id, user.account_id)


def get_instructions(app: Application, payment: Payment) -> Instructions | None:
    """How to pay a pending payment; None when its way to pay is not offered any more."""
    provider = list_providers(app.settings).get(payment.provider)
    if provider is None:
        return None
    with app.db.read() as session:
        return provider.instructions(session, payment)


def prepare_payment(app: Application, user: User, payment_id: str) -> str:
    """Ask Stripe again for where a card payment is paid; empty when it is too old.

    Raises `RoleNeededError` for a viewer, `PaymentNotFoundError`, `PaymentNotOfferedError` or `CardPaymentsDownError`.
    """
    require_role(user, "member")
    return cards.prepare_payment(app, _require_card(find_payment(app, user, payment_id)))


def check_payment(app: Application, user: User, payment_id: str) -> Payment:
    """Ask Stripe for one of the account's card payments, as its customer comes back; gives it as it is then.

    Raises `PaymentNotFoundError`, `PaymentNotOfferedError` or `CardPaymentsDownError`.
    """
    payment = _require_card(find_payment(app, user, payment_id))
    return cards.check_payment(app, payment_id) if payment.state == "pending" else payment


def get_owed(app: Application, user: User) -> int:
    """The milli-tokens that the account owes for money that went back to a card."""
    with app.db.read() as session:
        return card_reversals.owed_by(session, user.account_id)


def cancel_payment(app: Application, user: User, payment_id: str) -> Payment:
    """End one of the account's payments that did not come. One by card that was paid a moment ago is credited instead.

    Raises `RoleNeededError` for a viewer, `PaymentNotFoundError`, or `PaymentEndedError` for one that ended before;
    for a card also `PaymentUnderWayError`, `PaymentNotOfferedError` or `CardPaymentsDownError`.
    """
    require_role(user, "member")
    payment = find_payment(app, user, payment_id)
    if _end_at_stripe(app, payment):
        payment = find_payment(app, user, payment_id)
        if payment.state == "paid":
            return payment
    with app.db.write() as session:
        payments.get_payment(session, payment_id, user.account_id)
        payment = payments.cancel_payment(session, payment_id, actor=user.id)
        _record(session, user, "payment.cancel", payment)
        return payment


# The operator --------------------------------------------------------------------------------------


def list_pending(app: Application, operator: User) -> list[OpenPayment]:
    """Everybody's pending payments, the one that is given up first first. Raises `NotAllowedError`."""
    require_operator(operator)
    with app.db.read() as session:
        return _with_addresses(session, payments.list_pending(session))


def find_by_reference(app: Application, operator: User, reference: str) -> OpenPayment | None:
    """The payment whose reference stands on a transfer, in whatever state, as it was typed off a bank's statement.

    Raises `NotAllowedError`.
    """
    require_operator(operator)
    with app.db.read() as session:
        payment = payments.find_by_reference(session, normalise_reference(reference))
        return None if payment is None else _with_addresses(session, [payment])[0]


def confirm_payment(app: Application, operator: User, payment_id: str) -> Payment:
    """The money is there: credit it, once, also when the payment was cancelled or given up. Gives it as it is now.

    For a card it is Stripe that says so: it is asked. Raises `NotAllowedError` or `PaymentNotFoundError`; for a card
    also `PaymentNotOfferedError` or `CardPaymentsDownError`.
    """
    require_operator(operator)
    with app.db.read() as session:
        provider = payments.get_payment(session, payment_id).provider
    if provider == STRIPE:
        return cards.check_payment(app, payment_id)
    if provider == SAVED_CARD:
        return saved_cards.check(app, payment_id)
    with app.db.write() as session:
        if credit_payment(session, app.settings, payment_id, actor=operator.id):
            _record(session, operator, "payment.confirm", payments.get_payment(session, payment_id))
        return payments.get_payment(session, payment_id)


def reject_payment(app: Application, operator: User, payment_id: str, *, reason: str) -> Payment:
    """The money did not come, or not this much: end the payment with a reason that the customer reads.

    Raises `NotAllowedError`, `ReasonMissingError`, `PaymentNotFoundError` or `PaymentEndedError`; for a card also
    `PaymentUnderWayError`, `PaymentNotOfferedError` or `CardPaymentsDownError`.
    """
    require_operator(operator)
    reason = require_reason(reason)
    with app.db.read() as session:
        payment = payments.get_payment(session, payment_id)
    _end_at_stripe(app, payment)
    with app.db.write() as session:
        payment = payments.cancel_payment(session, payment_id, actor=operator.id, reason=reason)
        _record(session, operator, "payment.reject", payment, reason=reason)
        return payment


@dataclass(frozen=True, slots=True)
class Trouble:
    """A card payment that wants the operator's eye: money that did not fit it, or milli-tokens that are owed."""

    found: OpenPayment
    problem: str
    taken_mt: int
    owed_mt: int


def list_troubled(app: Application, operator: User) -> list[Trouble]:
    """Card payments with money that did not fit or tokens that are owed, newest first. Raises `NotAllowedError`."""
    require_operator(operator)
    with app.db.read() as session:
        rows = card_reversals.list_troubled(session)
        found = _with_addresses(session, [payment for payment, _row in rows])
        return [Trouble(one, row.problem, row.taken_mt, row.owed_mt) for one, (_, row) in zip(found, rows, strict=True)]


def _end_at_stripe(app: Application, payment: Payment) -> bool:
    """Let nobody pay it any more where Stripe takes the money; whether there was something to end.

    Raises `PaymentUnderWayError` for a saved card that is being charged, and what `cards.close_session` raises.
    """
    if payment.provider not in (STRIPE, SAVED_CARD) or payment.state not in ("pending", "expired"):
        return False
    if payment.provider == SAVED_CARD:
        raise PaymentUnderWayError("The saved card is being charged: wait for Stripe's answer.")
    cards.close_session(app, payment)
    return True


def _require_card(payment: Payment) -> Payment:
    if payment.provider != STRIPE:
        raise PaymentNotOfferedError("This payment is not by card.", provider=payment.provider)
    return payment


def _with_addresses(session: Session, found: Sequence[Payment]) -> list[OpenPayment]:
    addresses = users.names_of(session, {payment.opened_by for payment in found})
    return [OpenPayment(payment, addresses.get(payment.opened_by, "")) for payment in found]


def _record(session: Session, user: User, action: str, payment: Payment, **more: str) -> None:
    money = {"amount_minor": payment.amount_minor, "currency": payment.currency, "amount_mt": payment.credited_mt}
    record_event(
        session,
        actor=user.id,
        action=action,
        subject=payment.id,
        account_id=payment.account_id,
        details={**money, **more},
    )
