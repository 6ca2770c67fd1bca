"""Milli-tokens: integers in the ledger, `Decimal` where they are computed, one rounding function.

One token is 1,000 milli-tokens (`_mt`). A float never holds money.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal

from babel.numbers import get_currency_precision

MILLITOKENS_PER_TOKEN = 1000
_TYPED = re.compile(r"-?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?", re.ASCII)
_MILLI = Decimal("0.001")
_CENT = Decimal("0.01")


def round_tokens(tokens: Decimal) -> Decimal:
    """Round tokens once, half up, to 0.001 (the only rounding of tokens in VisionMeter)."""
    return tokens.quantize(_MILLI, rounding=ROUND_HALF_UP)


def to_millitokens(tokens: Decimal) -> int:
    """Tokens, already on the 0.001 grid, as an integer of milli-tokens.

    Raises `ValueError` for a value off the grid: rounding happens in `round_tokens` and nowhere else.
    """
    scaled = tokens * MILLITOKENS_PER_TOKEN
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{tokens} tokens is not a multiple of 0.001")
    return int(scaled)


def from_millitokens(amount_mt: int) -> Decimal:
    """Milli-tokens as tokens with exactly three decimals."""
    return Decimal(amount_mt).scaleb(-3)


def mean_mt(amount_mt: int, count: int) -> int:
    """An amount shared among `count`, half up; 0 for none. For display, never for booking."""
    return (2 * amount_mt + count) // (2 * count) if count else 0


def parse_number(text: str) -> Decimal:
    """Text typed by a person ("1,000", "12.5") as a number; `ValueError` when it is no such number."""
    text = text.strip()
    # A comma only where it parts thousands: "1,5" could be meant as one and a half.
    if not _TYPED.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    number = Decimal(text.replace(",", ""))
    # Nobody types more than 10^15, and Decimal's own limits raise other errors.
    if not number.is_finite() or number.adjusted() > 15:
        raise ValueError(f"{text!r} is too large")
    return number


def parse_tokens(text: str) -> int:
    """The same as tokens, in milli-tokens."""
    return to_millitokens(parse_number(text))


def format_tokens(amount_mt: int, *, signed: bool = False) -> str:
    """Milli-tokens for display: `1,234.500`; with `signed`, `+1.000` and `−1.000`."""
    sign = "−" if amount_mt < 0 else ("+" if signed and amount_mt > 0 else "")
    return f"{sign}{from_millitokens(abs(amount_mt)):,.3f}"


def to_currency(amount_mt: int, price_per_token: Decimal) -> Decimal:
    """What an amount is worth in the currency's major unit, half up to 0.01. For display, never for booking."""
    return (from_millitokens(amount_mt) * price_per_token).quantize(_CENT, rounding=ROUND_HALF_UP)


def to_minor(amount: Decimal, currency: str) -> int:
    """An amount in a currency's major unit as an integer of its minor units: 1.50 CNY is 150, 150 JPY is 150.

    `currency` is its code in ISO 4217. Raises `ValueError` for an amount that the currency has no coins for.
    """
    scaled = amount.scaleb(get_currency_precision(currency))
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{amount} {currency} is not a whole number of minor units")
    return int(scaled)


def from_minor(amount_minor: int, currency: str) -> Decimal:
    """Minor units as an amount in the major unit, with as many decimals as the currency has."""
    return Decimal(amount_minor).scaleb(-get_currency_precision(currency))
