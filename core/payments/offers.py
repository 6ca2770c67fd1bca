"""What money buys: presets, limits and bonuses as the operator set them, and the terms of one amount."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from babel.numbers import is_currency

from core.config import Settings
from core.errors import ConfigError, InvalidAmountError
from core.money import from_millitokens, from_minor, round_tokens, to_millitokens, to_minor

# The ledger takes no more at once.
_CREDIT_MT_MAX = 10**15
_NUMBER = r"\d{1,12}(?:\.\d{1,4})?"
_PRESETS = re.compile(rf"{_NUMBER}(?:, ?{_NUMBER})*", re.ASCII)
_BONUS = re.compile(rf"{_NUMBER}: ?{_NUMBER}(?:, ?{_NUMBER}: ?{_NUMBER})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class BonusTier:
    """From `amount_minor_min` of money on, `percent` more tokens."""

    amount_minor_min: int
    percent: Decimal


@dataclass(frozen=True, slots=True)
class Terms:
    """What an amount of money (in the currency's minor units) buys, in milli-tokens."""

    amount_minor: int
    currency: str
    tokens_mt: int
    bonus_mt: int
    price_per_token: Decimal
    bonus_percent: Decimal

    @property
    def effective_price(self) -> Decimal:
        """Money for one token, the bonus counted, in the currency's major unit to six decimals."""
        tokens = from_millitokens(self.tokens_mt + self.bonus_mt)
        return (from_minor(self.amount_minor, self.currency) / tokens).quantize(Decimal("0.000001"))


@dataclass(frozen=True, slots=True)
class Offers:
    """The operator's offer. Amounts of money in minor units of `currency`; `tiers` rise."""

    currency: str
    price_per_token: Decimal
    presets_minor: tuple[int, ...]
    minor_min: int
    minor_max: int
    tiers: tuple[BonusTier, ...]

    def terms(self, amount_minor: int) -> Terms:
        """What an amount buys. Raises `InvalidAmountError` outside the limits."""
        if not self.minor_min <= amount_minor <= self.minor_max:
            least, most = (from_minor(limit, self.currency) for limit in (self.minor_min, self.minor_max))
            raise InvalidAmountError(f"A top-up is between {least:,} and {most:,} {self.currency}.")
        percent = max(
            (tier.percent for tier in self.tiers if tier.amount_minor_min <= amount_minor), default=Decimal(0)
        )
        tokens = round_tokens(from_minor(amount_minor, self.currency) / self.price_per_token)
        bonus = round_tokens(tokens * percent / 100)
        return Terms(
            amount_minor,
            self.currency,
            to_millitokens(tokens),
            to_millitokens(bonus),
            self.price_per_token,
            percent,
        )

    def next_tier(self, amount_minor: int) -> BonusTier | None:
        """The bonus that a little more money would give; None when there is no higher one."""
        return next((tier for tier in self.tiers if tier.amount_minor_min > amount_minor), None)


def read_offers(settings: Settings) -> Offers:
    """The offer from the settings. Raises `ConfigError` that names the setting that is wrong."""
    currency = settings.currency.upper()
    if not is_currency(currency):
        raise ConfigError("VISIONMETER_CURRENCY is a code of ISO 4217, such as CNY or JPY.")

    def minor(name: str, amount: Decimal) -> int:
        try:
            return to_minor(amount, currency)
        except ValueError as error:
            raise ConfigError(f"VISIONMETER_{name}: {error}.") from None

    least, most = minor("TOP_UP_MIN", settings.top_up_min), minor("TOP_UP_MAX", settings.top_up_max)
    if least > most:
        raise ConfigError("VISIONMETER_TOP_UP_MIN is at most VISIONMETER_TOP_UP_MAX.")
    if not _PRESETS.fullmatch(settings.top_up_presets):
        raise ConfigError("VISIONMETER_TOP_UP_PRESETS is amounts with commas between, such as 50, 100, 500.")
    presets = tuple(minor("TOP_UP_PRESETS", Decimal(text)) for text in settings.top_up_presets.split(","))
    if any(not least <= preset <= most for preset in presets):
        raise ConfigError("VISIONMETER_TOP_UP_PRESETS lie between VISIONMETER_TOP_UP_MIN and VISIONMETER_TOP_UP_MAX.")
    if settings.top_up_bonus and not _BONUS.fullmatch(settings.top_up_bonus):
        raise ConfigError("VISIONMETER_TOP_UP_BONUS is amounts with their percents, such as 500: 3, 1000: 5.")
    pairs = [pair.split(":") for pair in settings.top_up_bonus.split(",") if pair]
    tiers = tuple(BonusTier(minor("TOP_UP_BONUS", Decimal(at)), Decimal(percent)) for at, percent in pairs)
    rise = all(
        before.amount_minor_min < tier.amount_minor_min and before.percent < tier.percent
        for before, tier in pairwise(tiers)
    )
    if not rise or any(not 0 < tier.percent <= 100 for tier in tiers):
        raise ConfigError("VISIONMETER_TOP_UP_BONUS: amounts and percents rise, and no percent is above 100.")
    offers = Offers(currency, settings.price_per_token, presets, least, most, tiers)
    smallest, largest = offers.terms(least), offers.terms(most)
    if smallest.tokens_mt < 1 or largest.tokens_mt + largest.bonus_mt > _CREDIT_MT_MAX:
        raise ConfigError(
            "VISIONMETER_TOP_UP_MIN buys a token's thousandth at least, VISIONMETER_TOP_UP_MAX 10^12 tokens at most."
        )
    return offers
