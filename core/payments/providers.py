"""The ways to pay that the operator has set up. Vouchers always are."""

from __future__ import annotations

from collections.abc import Mapping

from core.config import Settings
from core.payments.bank_transfer import BankTransfer
from core.payments.offers import read_offers
from core.payments.provider import PaymentProvider
from core.payments.stripe_checkout import read_stripe
from core.payments.vouchers import Vouchers

VOUCHERS = "vouchers"


def list_providers(settings: Settings) -> Mapping[str, PaymentProvider]:
    """The ways to pay by name."""
    offers, text = read_offers(settings), settings.bank_transfer.strip()
    found: list[PaymentProvider] = [Vouchers(offers)]
    if (stripe := read_stripe(settings, offers)) is not None:
        found.append(stripe)
    if text:
        found.append(BankTransfer(offers, text))
    return {provider.name: provider for provider in found}
