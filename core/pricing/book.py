"""The price book: versions of α, β(model), minimum and discounts, and the price of images under a version."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from sqlalchemy import select as sa_select
from sqlmodel import Session, col, select

from core.db import table_of, utcnow
from core.errors import NoRateError
from core.money import to_millitokens
from core.pricing.discounts import (
    BatchDiscount,
    NextTier,
    check_discounts,
    find_next_tier,
    price_charged,
    read_discounts,
    write_discounts,
)
from core.pricing.formula import NO_DISCOUNT, charge_tokens, exact_tokens
from core.pricing.receipts import compute_receipt
from core.pricing.refund_rules import LateRule, read_late_rules, write_late_rules
from core.pricing.tables import PriceBook, Quote, Rate, Receipt
from core.tiles import TilePlan, plan_tiles

DEFAULT_BOOK = Path(__file__).with_name("price_book.json")


@dataclass(frozen=True, slots=True)
class LinePrice:
    """The price of one image of a batch, in milli-tokens; `plan` is what runs for it.

    `list_mt` is its price without discount. `amount_mt` is what it costs in this batch: 0 when it is not charged,
    otherwise its discounted price plus `floor_mt`, its share of the batch's floor (`core.pricing.discounts`).
    """

    plan: TilePlan
    list_mt: int
    amount_mt: int
    floor_mt: int


@dataclass(frozen=True, slots=True)
class BatchPrice:
    """The price of a batch, in milli-tokens; `lines` has one line an image, in the order they were given.

    `list_mt` is what the charged images would cost without discount, `next_tier` what the batch lacks for the next
    one.
    """

    lines: tuple[LinePrice, ...]
    total_mt: int
    list_mt: int
    discount_percent: Decimal
    images_charged: int
    next_tier: NextTier | None


@dataclass(frozen=True, slots=True)
class Prices:
    """One version of the price book in memory. `betas` maps a model's name to its β.

    Raises `ConfigError` for tiers of discounts that do not rise.
    """

    version: str
    alpha: Decimal
    minimum: Decimal
    betas: Mapping[str, Decimal]
    discounts: tuple[BatchDiscount, ...] = ()
    late_rules: tuple[LateRule, ...] = ()

    def __post_init__(self) -> None:
        check_discounts(self.discounts)

    def beta(self, model: str) -> Decimal:
        """β of a model; `NoRateError` when the book has none."""
        try:
            return self.betas[model]
        except KeyError:
            raise NoRateError(
                f"The price book {self.version} has no rate for {model}: choose another model.", model=model
            ) from None

    def price_image(
        self,
        image_height: int,
        image_width: int,
        img_size: int,
        model: str,
        *,
        tile_px: int | None = None,
        square: bool = False,
    ) -> tuple[TilePlan, int]:
        """What runs for an image (sides in pixels) and its price in milli-tokens.

        The model sees it letterboxed, or as a `square` (`core.inference.registry.Model.sees_square`).
        """
        plan = plan_tiles(image_height, image_width, img_size, tile_px, square=square)
        exact = exact_tokens(plan.pixels(), alpha=self.alpha, beta=self.beta(model))
        return plan, to_millitokens(charge_tokens(exact, discount_percent=NO_DISCOUNT, minimum=self.minimum))

    def price_batch(
        self,
        shapes: Sequence[tuple[int, int]],
        img_size: int,
        model: str,
        *,
        charged: Sequence[bool],
        tile_px: int | None = None,
        square: bool = False,
    ) -> BatchPrice:
        """The price of a batch: `shapes` are the images as `(height, width)` in pixels; the model sees them
        letterboxed, or each as a `square`.

        Where `charged` is False the image costs nothing and does not count for the discount. Raises `NoRateError`
        for a model without a rate, and `ValueError` for a shape without pixels or lists of unequal length.
        """
        beta = self.beta(model)
        plans = [plan_tiles(height, width, img_size, tile_px, square=square) for height, width in shapes]
        exact = [exact_tokens(plan.pixels(), alpha=self.alpha, beta=beta) for plan in plans]
        paid = price_charged(
            [tokens for tokens, pays in zip(exact, charged, strict=True) if pays], self.discounts, minimum=self.minimum
        )
        prices_mt = iter(zip(paid.units_mt, paid.floors_mt, strict=True))
        lines = []
        for plan, tokens, pays in zip(plans, exact, charged, strict=True):
            list_mt = to_millitokens(charge_tokens(tokens, discount_percent=NO_DISCOUNT, minimum=self.minimum))
            unit_mt, floor_mt = next(prices_mt) if pays else (0, 0)
            lines.append(LinePrice(plan, list_mt, unit_mt + floor_mt, floor_mt))
        return BatchPrice(
            lines=tuple(lines),
            total_mt=sum(line.amount_mt for line in lines),
            list_mt=sum(line.list_mt for line, pays in zip(lines, charged, strict=True) if pays),
            discount_percent=paid.discount_percent,
            images_charged=len(paid.units_mt),
            next_tier=find_next_tier(len(paid.units_mt), self.discounts),
        )


def read_book(path: Path = DEFAULT_BOOK) -> Prices:
    """A price book from its JSON file; numbers are strings there, so that none passes through a float.

    Raises `ConfigError` when its discounts are not tiers that rise.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    return Prices(
        version=data["version"],
        alpha=Decimal(data["alpha"]),
        minimum=Decimal(data["minimum"]),
        betas={model: Decimal(beta) for model, beta in data["rates"].items()},
        discounts=read_discounts(data.get("batch_discounts", [])),
        late_rules=read_late_rules(data.get("refund_rules", [])),
    )


def adopt_book(session: Session, prices: Prices, *, note: str = "") -> None:
    """Store a version; a version that is there already stays as it is."""
    if session.get(PriceBook, prices.version) is not None:
        return
    session.add(
        PriceBook(
            version=prices.version,
            alpha=prices.alpha,
            minimum=prices.minimum,
            batch_discounts=write_discounts(prices.discounts),
            refund_rules=write_late_rules(prices.late_rules),
            note=note,
        )
    )
    session.flush()
    for model, beta in prices.betas.items():
        session.add(Rate(price_version=prices.version, model=model, beta=beta))
    session.flush()


def published_beside(prices: Prices) -> Prices:
    """The published list; what it does not know, an operator's own models, has the rates of `prices`."""
    published = read_book()
    return replace(published, betas={**prices.betas, **published.betas})


def adopt_published(session: Session) -> None:
    """Put a new published list in force, as an upgrade brings it.

    Models that it does not know, which an operator added, keep the rates that they have.
    """
    published = read_book()
    if session.get(PriceBook, published.version) is not None:
        return
    if session.exec(select(PriceBook.version).limit(1)).first() is not None:
        published = published_beside(current_prices(session))
    adopt_book(session, published, note="The published list price.")


def add_rate(session: Session, model: str, beta: Decimal, *, note: str) -> Prices:
    """Put in force a new version of the list: the one in force, with the rate of one model more; gives it."""
    before = current_prices(session)
    name = f"{utcnow():%Y-%m-%d}-{model}"
    version, number = name, 1
    while session.get(PriceBook, version) is not None:
        number += 1
        version = f"{name}-{number}"
    prices = replace(before, version=version, betas={**before.betas, model: beta})
    adopt_book(session, prices, note=note)
    return prices


class KnownPrices:
    """The versions that a process has read. One never changes, so only which is in force is asked each time."""

    def __init__(self) -> None:
        self._by_version: dict[str, Prices] = {}

    def current(self, session: Session) -> Prices:
        """What `current_prices` gives."""
        return self.get(session, session.connection().execute(_NEWEST).scalar_one())

    def get(self, session: Session, version: str) -> Prices:
        """What `get_prices` gives."""
        prices = self._by_version.get(version)
        if prices is None:
            prices = self._by_version[version] = get_prices(session, version)
        return prices


def current_prices(session: Session) -> Prices:
    """The version in force: the newest."""
    book = session.exec(
        select(PriceBook).order_by(col(PriceBook.created_at).desc(), col(PriceBook.version).desc()).limit(1)
    ).one()
    return _load_prices(session, book)


def get_prices(session: Session, version: str) -> Prices:
    """A stored version, in force or not; `sqlalchemy.exc.NoResultFound` when there is none of that name."""
    return _load_prices(session, session.get_one(PriceBook, version))


def recompute_receipt(receipt: Receipt) -> int:
    """The price of a receipt computed afresh from the numbers on it, in milli-tokens.

    Only the image's own height and width, `img_size`, the tiles' size and how many failed, α, β, the minimum, the
    discount's percent and the share of the batch's floor are used, so a network input or an amount that was tampered
    with shows. Whether the percent and the share are right follows from the whole batch: `quote_agrees`.
    """
    return to_millitokens(compute_receipt(receipt).amount)


def recompute_quote(prices: Prices, quote: Quote) -> BatchPrice:
    """The price of a quote computed afresh from its images' sides and which of them are free.

    `prices` is the version that the quote names.
    """
    return prices.price_batch(
        [(line["height"], line["width"]) for line in quote.lines],
        quote.img_size,
        quote.model,
        charged=[line["free_reason"] is None for line in quote.lines],
        tile_px=quote.tile_px,
        # All images of a quote are for one model.
        square=any(line.get("square", False) for line in quote.lines),
    )


def quote_agrees(prices: Prices, quote: Quote) -> bool:
    """Whether every amount of a stored quote, line by line, equals its recomputation under `prices`."""
    batch = recompute_quote(prices, quote)
    stored = [(line["list_mt"], line["amount_mt"], line.get("floor_mt", 0)) for line in quote.lines]
    return stored == [(line.list_mt, line.amount_mt, line.floor_mt) for line in batch.lines] and (
        (quote.total_mt, quote.list_mt, quote.discount_percent)
        == (batch.total_mt, batch.list_mt, batch.discount_percent)
    )


def _load_prices(session: Session, book: PriceBook) -> Prices:
    rates = session.exec(select(Rate).where(Rate.price_version == book.version)).all()
    return Prices(
        book.version,
        book.alpha,
        book.minimum,
        {rate.model: rate.beta for rate in rates},
        read_discounts(book.batch_discounts),
        read_late_rules(book.refund_rules),
    )


_book = table_of(PriceBook)
_NEWEST = sa_select(_book.c.version).order_by(_book.c.created_at.desc(), _book.c.version.desc()).limit(1)
