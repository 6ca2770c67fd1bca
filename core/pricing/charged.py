"""What was charged, summed over images that cost alike, and what it would have cost under other prices.

Everything is taken from receipts: they hold what a price is made of. One query sums a month by account, model, price
version, pixels and size of batch; each sum is then priced once, with the rounding of one image, times its images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from itertools import pairwise

from sqlalchemy import BigInteger, ColumnElement, bindparam, case, cast, func, select
from sqlmodel import Session

from core.db import UTCDateTime, table_of
from core.geometry import network_input
from core.money import to_millitokens
from core.pricing.book import Prices
from core.pricing.discounts import BatchDiscount
from core.pricing.formula import NO_DISCOUNT, charge_tokens, exact_tokens
from core.pricing.tables import Receipt

# A tiled image's own key, packed into one number: SQLite groups a million rows by one number twice as fast as by four.
_SIDE, _TILES = 4096, 1024


@dataclass(frozen=True, slots=True)
class ChargedGroup:
    """`images` of one account that cost alike but for their shares of a batch's floor; amounts in milli-tokens.

    `pixels` are those of all that ran for one of them; `floor_mt` is part of `amount_mt`, both of all images together.
    """

    account_id: str
    model: str
    price_version: str
    pixels: int
    batch_images: int
    images: int
    amount_mt: int
    floor_mt: int


def sum_charged(session: Session, start: datetime, end: datetime) -> list[ChargedGroup]:
    """What was charged in `start` ≤ t < `end`, of all accounts."""
    rows = session.execute(_SUM, {"start": start, "end": end})
    return [
        ChargedGroup(account, model, version, whole + _tile_pixels(tiling), batch, int(images), int(amount), int(floor))
        for whole, batch, account, model, version, tiling, images, amount, floor in rows
    ]


def reprice(charged: Sequence[ChargedGroup], books: Mapping[str, Prices], prices: Prices) -> list[int]:
    """What each of these would cost under `prices`, in milli-tokens; `books` has the versions that charged them.

    Exact under the version that they were charged by. The floor of a batch under other prices is scaled like its
    images' list prices, and under other discounts taken as if the images of a batch were all alike. A model that
    `prices` does not know keeps its β.
    """

    @cache
    def unit_mt(pixels: int, alpha: Decimal, beta: Decimal, percent: Decimal, minimum: Decimal) -> int:
        exact = exact_tokens(pixels, alpha=alpha, beta=beta)
        return to_millitokens(charge_tokens(exact, discount_percent=percent, minimum=minimum))

    def price(one: ChargedGroup) -> int:
        before = books[one.price_version]
        beta = prices.betas.get(one.model, before.betas[one.model])

        def unit(percent: Decimal) -> int:
            return unit_mt(one.pixels, prices.alpha, beta, percent, prices.minimum)

        reached = [BatchDiscount(0, NO_DISCOUNT), *(d for d in prices.discounts if d.images_min <= one.batch_images)]
        unit_now = unit(reached[-1].percent)
        if prices.discounts != before.discounts:
            least = max(((below.images_min - 1) * unit(tier.percent) for tier, below in pairwise(reached)), default=0)
            floor = Decimal(max(0, least - one.batch_images * unit_now) * one.images) / one.batch_images
        elif one.floor_mt:
            list_before = unit_mt(one.pixels, before.alpha, before.betas[one.model], NO_DISCOUNT, before.minimum)
            floor = Decimal(one.floor_mt * unit(NO_DISCOUNT)) / list_before
        else:
            floor = Decimal(0)
        return unit_now * one.images + int(floor.to_integral_value(rounding=ROUND_HALF_UP))

    return [price(one) for one in charged]


@cache
def _tile_pixels(tiling: int) -> int:
    """The pixels of all tiles of an image that ran, from its packed key."""
    if not tiling:
        return 0
    sides, ran = divmod(tiling, _TILES)
    sides, img_size = divmod(sides, _SIDE)
    tile = network_input(*divmod(sides, _SIDE), img_size)
    return tile.height * tile.width * ran


_receipt = table_of(Receipt)


def _tile_side(side: str) -> ColumnElement[int]:
    whole = _receipt.c[side]
    return case((whole < _receipt.c.tile_px, whole), else_=_receipt.c.tile_px)


_key = (
    # Numbers first: rows that differ are told apart by the cheapest comparison.
    (_receipt.c.input_height * _receipt.c.input_width).label("whole"),
    _receipt.c.batch_images,
    _receipt.c.account_id,
    _receipt.c.model,
    _receipt.c.price_version,
    case(
        (_receipt.c.tiles == 0, cast(0, BigInteger)),
        else_=(
            (cast(_tile_side("image_height"), BigInteger) * _SIDE + _tile_side("image_width")) * _SIDE
            + _receipt.c.img_size
        )
        * _TILES
        + (_receipt.c.tiles - _receipt.c.tiles_failed),
    ).label("tiling"),
)
_SUM = (
    select(*_key, func.count(), func.sum(_receipt.c.amount_mt), func.sum(_receipt.c.floor_mt))
    .where(
        _receipt.c.created_at >= bindparam("start", type_=UTCDateTime),
        _receipt.c.created_at < bindparam("end", type_=UTCDateTime),
    )
    # By their names: with the values of its parameters once more, SQLite would take it for another expression.
    .group_by(*(column.name for column in _key))
)
