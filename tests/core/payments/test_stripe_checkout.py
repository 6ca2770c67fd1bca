"""Amounts as Stripe counts them, and signatures as Stripe's documentation makes them."""

from __future__ import annotations

import pytest
import stripe

from core.config import Settings
from core.errors import BadSignatureError, InvalidAmountError
from core.payments.stripe_checkout import read_event, stripe_amount
from tests.stripe_stand_in import WEBHOOK_SECRET, sign


@pytest.mark.parametrize(
    ("minor", "currency", "amount"),
    [
        (1_999, "USD", 1_999),
        (1_999, "CNY", 1_999),
        (500, "JPY", 500),
        (500, "KRW", 500),
        (500, "ISK", 50_000),
        (500, "UGX", 50_000),
        (1_230, "KWD", 1_230),
        (99_999_999, "USD", 99_999_999),
    ],
)
def test_smallest_units(minor: int, currency: str, amount: int) -> None:
    """Currencies of none, two and three decimals, and those that Stripe counts otherwise than CLDR."""
    assert stripe_amount(minor, currency) == amount


@pytest.mark.parametrize(("minor", "currency"), [(1_231, "KWD"), (100_000_000, "USD"), (0, "USD"), (1_000_000, "ISK")])
def test_what_stripe_cannot_take(minor: int, currency: str) -> None:
    """A third decimal that is not 0, nine digits, nothing."""
    with pytest.raises(InvalidAmountError):
        stripe_amount(minor, currency)


def test_the_stand_in_signs_as_the_sdk_does() -> None:
    """So what the tests send is what Stripe would send."""
    body = '{"id": "evt_1", "type": "x", "data": {"object": {"id": "é"}}}'
    theirs = stripe.WebhookSignature.generate_signature_header(body, WEBHOOK_SECRET, 1_700_000_000)
    assert sign(body.encode(), at=1_700_000_000) == theirs
    settings = Settings(_env_file=None, stripe_webhook_secret=WEBHOOK_SECRET)
    assert read_event(settings, body.encode(), sign(body.encode())).object == {"id": "é"}


def test_no_secret_verifies_nothing() -> None:
    """An installation without the secret takes no event for signed, not even one signed with nothing."""
    with pytest.raises(BadSignatureError):
        read_event(Settings(_env_file=None), b"{}", sign(b"{}", secret=""))
