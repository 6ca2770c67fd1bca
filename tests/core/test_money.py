"""Milli-tokens: exact, never a float."""

from __future__ import annotations

from decimal import Decimal

import pytest

from core import money


@pytest.mark.parametrize(
    ("exact", "rounded"),
    [("0.0004999", "0.000"), ("0.0005", "0.001"), ("0.0015", "0.002"), ("0.0025", "0.003"), ("7", "7.000")],
)
def test_round_tokens(exact: str, rounded: str) -> None:
    """Half a milli-token goes up, never to the even neighbour."""
    assert str(money.round_tokens(Decimal(exact))) == rounded


def test_off_the_grid_is_refused() -> None:
    """A finer amount than a milli-token is an error, not a silent rounding."""
    with pytest.raises(ValueError, match=r"0\.001"):
        money.to_millitokens(Decimal("0.0005"))


@pytest.mark.parametrize("amount_mt", [0, 1, 10, 999, 1000, 10**15 + 1])
def test_there_and_back(amount_mt: int) -> None:
    """Milli-tokens to tokens and back is exact, also far beyond a float's integers."""
    assert money.to_millitokens(money.from_millitokens(amount_mt)) == amount_mt


@pytest.mark.parametrize(("text", "amount_mt"), [("1,000", 1_000_000), (" 12.5 ", 12_500), ("0.001", 1), ("-3", -3000)])
def test_parse_tokens(text: str, amount_mt: int) -> None:
    """What a person types becomes milli-tokens."""
    assert money.parse_tokens(text) == amount_mt


@pytest.mark.parametrize("text", ["", "ten", "NaN", "Infinity", "0.0001", "1e999999"])
def test_parse_refuses(text: str) -> None:
    """What is no amount raises ValueError and nothing else."""
    with pytest.raises(ValueError, match=r"."):
        money.parse_tokens(text)


@pytest.mark.parametrize(
    ("amount_mt", "signed", "shown"),
    [(1_234_500, False, "1,234.500"), (-1000, True, "−1.000"), (1000, True, "+1.000"), (0, True, "0.000")],
)
def test_format_tokens(amount_mt: int, signed: bool, shown: str) -> None:
    """Three decimals, thousands separated, a real minus."""
    assert money.format_tokens(amount_mt, signed=signed) == shown


def test_to_currency() -> None:
    """1,000 tokens at 0.01 are 10.00, and half a cent goes up."""
    assert money.to_currency(1_000_000, Decimal("0.01")) == Decimal("10.00")
    assert money.to_currency(500, Decimal("0.01")) == Decimal("0.01")


@pytest.mark.parametrize("text", ["1,5", ",,1", "1_000", "1e3", "١٢", "1,0000", "1 000"])
def test_ambiguous_numbers_are_refused(text: str) -> None:
    """A comma that could be a decimal one, and other spellings that a person may mean differently, are no amount."""
    with pytest.raises(ValueError, match=r"."):
        money.parse_tokens(text)


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [("1.50", "CNY", 150), ("150", "JPY", 150), ("1.005", "KWD", 1005), ("0", "CNY", 0), ("-2", "CNY", -200)],
)
def test_minor_units(amount: str, currency: str, minor: int) -> None:
    """As many decimals as the currency has coins for, there and back."""
    assert money.to_minor(Decimal(amount), currency) == minor
    assert money.from_minor(minor, currency) == Decimal(amount)


@pytest.mark.parametrize(("amount", "currency"), [("0.005", "CNY"), ("0.5", "JPY")])
def test_no_coin_is_that_small(amount: str, currency: str) -> None:
    """An amount between two coins is refused and never rounded."""
    with pytest.raises(ValueError, match=currency):
        money.to_minor(Decimal(amount), currency)


@pytest.mark.parametrize(("amount_mt", "count", "mean"), [(10, 4, 3), (9, 4, 2), (1, 3, 0), (0, 5, 0), (7, 0, 0)])
def test_a_mean_is_rounded_half_up(amount_mt: int, count: int, mean: int) -> None:
    """What one of several costs, for display."""
    assert money.mean_mt(amount_mt, count) == mean
