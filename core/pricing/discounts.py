"""Discounts by the number of charged images of a batch, with a floor so that one more image never costs less.

A plain volume discount lowers the bill at each tier: 49 images less 5 % are 46.55, 50 less 10 % are 45.00, and
padding 49 large pictures with one tiny one would pay. So a batch never costs less than any smaller batch that it
contains: for each tier it has passed, the most that a batch still in that tier could have cost (one image fewer
than the next tier asks for, the most expensive ones, at that tier's discount) is a floor under the total.

Why no added image lowers a total, T = max(volume total U, floor G): inside a tier, U gains a unit, and the sums
in G are over the most expensive images of a larger set, so none shrinks. When the image is the first of a new
tier, the old batch had exactly as many images as the old tier's floor counts, so that floor, over the most
expensive of the new set, is at least the old U. A larger batch is reached image by image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

from core.errors import ConfigError
from core.money import to_millitokens
from core.pricing.formula import NO_DISCOUNT, charge_tokens

# As long as the column that a receipt keeps it in.
_PERCENT_CHARACTERS_MAX = 40


@dataclass(frozen=True, slots=True)
class BatchDiscount:
    """From `images_min` charged images on, each image costs `percent` less."""

    images_min: int
    percent: Decimal


class NextTier(NamedTuple):
    """How many charged images a batch lacks for the next discount, and its percent."""

    images_missing: int
    percent: Decimal


@dataclass(frozen=True, slots=True)
class ChargedImages:
    """The prices of the images of a batch that are charged, in their order; milli-tokens.

    An image costs `units_mt + floors_mt`: its discounted price and its share of the floor.
    """

    discount_percent: Decimal
    units_mt: Sequence[int]
    floors_mt: Sequence[int]


def read_discounts(data: object) -> tuple[BatchDiscount, ...]:
    """Tiers from a price book's JSON: `[{"images_min": 10, "percent": "5"}, …]`, percents as text.

    Raises `ConfigError` that names the tier when the data are anything else.
    """
    if not isinstance(data, list):
        raise ConfigError("batch_discounts of the price book is a list of tiers; use [] for no discounts.")
    discounts = tuple(_read_tier(number, tier) for number, tier in enumerate(data, start=1))
    check_discounts(discounts)
    return discounts


def write_discounts(discounts: Sequence[BatchDiscount]) -> list[dict[str, Any]]:
    """Tiers as JSON, percents as text: what `read_discounts` reads."""
    return [{"images_min": tier.images_min, "percent": str(tier.percent)} for tier in discounts]


def check_discounts(discounts: Sequence[BatchDiscount]) -> None:
    """Raise `ConfigError` unless tiers start at 2 images or more, both numbers rise, and 0 < percent < 100."""
    for number, tier in enumerate(discounts, start=1):
        where = f"batch_discounts of the price book, tier {number}:"
        if type(tier.images_min) is not int or tier.images_min < 2:
            raise ConfigError(f"{where} images_min is a whole number of at least 2, not {tier.images_min!r}.")
        if not isinstance(tier.percent, Decimal) or not tier.percent.is_finite() or not 0 < tier.percent < 100:
            raise ConfigError(f"{where} percent is more than 0 and less than 100, not {tier.percent}.")
        if len(str(tier.percent)) > _PERCENT_CHARACTERS_MAX:
            raise ConfigError(f"{where} percent has at most {_PERCENT_CHARACTERS_MAX} characters.")
    for number, (before, tier) in enumerate(pairwise(discounts), start=2):
        where = f"batch_discounts of the price book, tier {number}:"
        if tier.images_min <= before.images_min:
            raise ConfigError(f"{where} images_min is above the {before.images_min} of the tier before.")
        if tier.percent <= before.percent:
            raise ConfigError(f"{where} percent is above the {before.percent} of the tier before.")


def find_next_tier(images: int, discounts: Sequence[BatchDiscount]) -> NextTier | None:
    """What a batch of so many charged images lacks for the next tier; None when it has the last one."""
    for tier in discounts:
        if tier.images_min > images:
            return NextTier(tier.images_min - images, tier.percent)
    return None


def price_charged(exact: Sequence[Decimal], discounts: Sequence[BatchDiscount], *, minimum: Decimal) -> ChargedImages:
    """The prices of the charged images of one batch from their exact, unrounded prices in tokens.

    Each is discounted by the batch's tier and rounded once. If that comes to less than the floor (see the module),
    what is missing is spread over the images in proportion to what the discount saves each, so none costs more
    than its list price. The same images in another order cost the same, except that images of equal price may
    differ among themselves by one milli-token.
    """

    @cache
    def unit_mt(tokens: Decimal, percent: Decimal) -> int:
        return to_millitokens(charge_tokens(tokens, discount_percent=percent, minimum=minimum))

    reached = [
        BatchDiscount(0, NO_DISCOUNT),
        *(tier for tier in discounts if tier.images_min <= len(exact)),
    ]
    percent = reached[-1].percent
    units_mt = [unit_mt(tokens, percent) for tokens in exact]
    dearest = sorted(range(len(exact)), key=lambda position: exact[position], reverse=True)
    floor_total_mt = max(
        (
            sum(unit_mt(exact[position], tier.percent) for position in dearest[: following.images_min - 1])
            for tier, following in pairwise(reached)
        ),
        default=0,
    )
    saved_mt = [unit_mt(exact[position], NO_DISCOUNT) - units_mt[position] for position in dearest]
    floors_mt = [0] * len(exact)
    shares_mt = spread(max(0, floor_total_mt - sum(units_mt)), saved_mt)
    for position, share_mt in zip(dearest, shares_mt, strict=True):
        floors_mt[position] = share_mt
    return ChargedImages(percent, units_mt, floors_mt)


def spread(amount: int, weights: Sequence[int]) -> list[int]:
    """Whole parts of `amount` in proportion to `weights`; they sum to it, and none is above its weight.

    Part i is ⌊amount · W_i / W⌋ less the same for i − 1, where W_i is the sum of the first i weights. Raises
    `ValueError` for an amount that is negative or above the sum of the weights, or a negative weight.
    """
    total = sum(weights)
    if not 0 <= amount <= total or min(weights, default=0) < 0:
        raise ValueError(f"{amount} cannot be spread over weights that sum to {total}")
    if amount == 0:
        return [0] * len(weights)
    parts, given, weight_so_far = [], 0, 0
    for weight in weights:
        weight_so_far += weight
        due = amount * weight_so_far // total
        parts.append(due - given)
        given = due
    return parts


def _read_tier(number: int, tier: object) -> BatchDiscount:
    where = f"batch_discounts of the price book, tier {number}:"
    if not isinstance(tier, Mapping) or set(tier) != {"images_min", "percent"}:
        raise ConfigError(f"{where} a tier has images_min and percent.")
    if not isinstance(tier["percent"], str):
        raise ConfigError(f'{where} percent is text, such as "5" or "7.5", so that it never passes through a float.')
    try:
        percent = Decimal(tier["percent"])
    except InvalidOperation:
        raise ConfigError(f"{where} percent is a number as text, not {tier['percent']!r}.") from None
    return BatchDiscount(tier["images_min"], percent)
