"""Ways to pay and states of payments, in words."""

from __future__ import annotations

from core.payments.providers import VOUCHERS
from core.payments.stripe_checkout import STRIPE
from core.payments.stripe_saved import SAVED_CARD
from core.payments.tables import Payment
from ui.i18n import _


def way_words(provider: str) -> str:
    """A way to pay, in words that follow an amount."""
    words = {
        "bank_transfer": _("by bank transfer"),
        STRIPE: _("by card"),
        SAVED_CARD: _("by saved card"),
        VOUCHERS: _("by voucher"),
    }
    return words.get(provider, provider)


def state_words(payment: Payment) -> str:
    """A payment's state, in words."""
    if payment.state == "cancelled" and payment.reason:
        return _("rejected")
    words = {
        "pending": _("waiting for the money"),
        "paid": _("paid"),
        "cancelled": _("cancelled"),
        "expired": _("given up"),
    }
    return words.get(payment.state, payment.state)
