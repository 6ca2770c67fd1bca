"""What money buys: bonus tiers at N and N ± 1, limits, and currencies with and without cents."""

from __future__ import annotations

from decimal import Decimal

import pytest

from core import errors
from core.config import Settings
from core.payments.offers import Offers, read_offers


def offers(**changes: object) -> Offers:
    """An offer with these settings."""
    return read_offers(Settings(_env_file=None, **changes))


@pytest.mark.parametrize(
    ("minor", "tokens_mt", "bonus_mt", "percent"),
    [
        (1_000, 1_000_000, 0, "0"),
        (49_999, 49_999_000, 0, "0"),
        (50_000, 50_000_000, 1_500_000, "3"),
        (99_999, 99_999_000, 2_999_970, "3"),
        (100_000, 100_000_000, 5_000_000, "5"),
    ],
)
def test_tiers_at_their_edges(minor: int, tokens_mt: int, bonus_mt: int, percent: str) -> None:
    """A tier counts from its amount on, and not a cent before."""
    terms = offers(top_up_bonus="500: 3, 1000: 5").terms(minor)
    assert (terms.tokens_mt, terms.bonus_mt, terms.bonus_percent) == (tokens_mt, bonus_mt, Decimal(percent))


def test_price_with_the_bonus() -> None:
    """¥1,000 with 5 % more: 105,000 tokens at ¥0.009524; the next tier is said, beyond the last there is none."""
    offer = offers(top_up_bonus="500: 3, 1000: 5")
    assert offer.terms(100_000).effective_price == Decimal("0.009524")
    assert [offer.next_tier(minor) and offer.next_tier(minor).percent for minor in (100, 50_000, 100_000)] == [
        3,
        5,
        None,
    ]


@pytest.mark.parametrize(("minor", "allowed"), [(999, False), (1_000, True), (5_000_000, True), (5_000_001, False)])
def test_limits(minor: int, allowed: bool) -> None:
    """Both limits belong to what is allowed."""
    if allowed:
        assert offers().terms(minor).amount_minor == minor
        return
    with pytest.raises(errors.InvalidAmountError):
        offers().terms(minor)


def test_a_currency_without_cents() -> None:
    """¥1,000 of JPY are 1,000 minor units, and half a yen is refused."""
    changes = {"currency": "jpy", "price_per_token": "0.3", "top_up_presets": "500,1000", "top_up_bonus": ""}
    terms = offers(**changes).terms(1000)
    assert (terms.currency, terms.tokens_mt, terms.bonus_mt) == ("JPY", 3_333_333, 0)
    with pytest.raises(errors.ConfigError, match="VISIONMETER_TOP_UP_MIN"):
        offers(**changes, top_up_min="10.5")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("top_up_presets", ""),
        ("top_up_presets", "50; 100"),
        ("top_up_presets", "50,60000"),
        ("top_up_bonus", "100"),
        ("top_up_bonus", "500: 3, 400: 5"),
        ("top_up_bonus", "500: 101"),
        ("top_up_bonus", "500: 0"),
        ("top_up_max", "9"),
        ("currency", "XYZ"),
    ],
)
def test_wrong_settings_are_named(setting: str, value: str) -> None:
    """Each wrong offer stops the start with the name of its setting."""
    with pytest.raises(errors.ConfigError, match="VISIONMETER_" + ("TOP_UP" if "top_up" in setting else "CURRENCY")):
        offers(**{setting: value})
