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
