"""What a budget is enough for: every model and size that could run, priced as a quote would be; nothing is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from core.errors import InvalidTileSizeError, VisionMeterError
from core.geometry import IMG_SIZES_PX
from core.identity.callers import Caller
from core.inference.registry import ModelVersion
from core.ledger import ledger
from core.ledger.spending import get_spending
from core.money import mean_mt
from core.pricing.book import Prices
from core.services.admin import list_models
from core.services.application import Application
from core.services.metered_detection import billing_day
from core.services.quotes import PreparedImage, price_images, require_tiles
from core.tiles import TILES_PX, count_tiles

TYPICAL_IMAGES_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Combination:
    """A model with a size, and tiles or none (None); both in pixels."""

    model: str
    title: str
    img_size: int
    tile_px: int | None


@dataclass(frozen=True, slots=True)
class Offer:
    """What a combination asks for some images, in milli-tokens.

    `total_mt` is what `images_charged` of them cost together with the batch's discount; `work_mt` what all would cost
    by the formula alone, which grows with the model and with the pixels that it computes. `remaining_mt` is what a
    budget leaves, below zero by what it lacks.
    """

    combination: Combination
    total_mt: int
    images_charged: int
    discount_percent: Decimal
    work_mt: int
    remaining_mt: int

    @property
    def fits(self) -> bool:
        """Whether the budget is enough."""
        return self.remaining_mt >= 0

    @property
    def mean_mt(self) -> int:
        """What a charged image costs on average, half up; 0 when none is charged."""
        return mean_mt(self.total_mt, self.images_charged)


@dataclass(frozen=True, slots=True)
class Spendable:
    """What an account may spend now, in milli-tokens; `is_capped` when its caps leave less than its balance."""

    amount_mt: int
    is_capped: bool


def get_spendable(app: Application, user: Caller) -> Spendable:
    """The available balance, or what the caps of today and this month leave of it."""
    with app.db.read() as session:
        available_mt = ledger.get_balance(session, user.account_id).available_mt
        spending = get_spending(session, user.account_id, billing_day(app))
    caps = ((spending.day_cap_mt, spending.day_spent_mt), (spending.month_cap_mt, spending.month_spent_mt))
    left_mt = min((max(0, cap - spent) for cap, spent in caps if cap is not None), default=available_mt)
    return Spendable(min(available_mt, left_mt), left_mt < available_mt)


def fit_batch(
    app: Application, user: Caller, images: Sequence[PreparedImage], *, task: str, budget_mt: int, with_tiles: bool
) -> list[Offer]:
    """What each combination asks for these very images, in the order of `rank`.

    What the account has already is free, and each picture is paid for once, as in a quote.
    """
    return _fit(app, user, [(1, images)], task=task, budget_mt=budget_mt, with_tiles=with_tiles)


def fit_typical(
    app: Application,
    user: Caller,
    count: int,
    height: int,
    width: int,
    *,
    task: str,
    budget_mt: int,
    with_tiles: bool,
) -> list[Offer]:
    """The same for `count` different images of `height × width` pixels that nobody has run.

    More than fit into one batch are priced as several, each as full as can be. Raises `ValueError` below one image.
    """
    if not 1 <= count <= TYPICAL_IMAGES_MAX:
        raise ValueError(f"from 1 to {TYPICAL_IMAGES_MAX:,} images, not {count}")
    full, rest = divmod(count, app.settings.batch_images_max)
    # Names that no picture's pixels can have.
    typical = [
        PreparedImage("", "", f"typical {number}", height, width)
        for number in range(min(count, app.settings.batch_images_max))
    ]
    batches = [(times, images) for times, images in ((full, typical), (1, typical[:rest])) if times and images]
    return _fit(app, user, batches, task=task, budget_mt=budget_mt, with_tiles=with_tiles)


def _fit(
    app: Application,
    user: Caller,
    batches: Sequence[tuple[int, Sequence[PreparedImage]]],
    *,
    task: str,
    budget_mt: int,
    with_tiles: bool,
) -> list[Offer]:
    """Offers for batches, each as many times as its number says."""
    offers = []
    tiles_px = TILES_PX if with_tiles and task == "detect" else ()
    with app.db.read() as session:
        prices = app.prices.current(session)
        combinations = list_combinations(app, user, batches[0][1], prices, task=task, tiles_px=tiles_px)
        for version, one in combinations:
            priced = [
                (
                    times,
                    price_images(
                        session,
                        prices,
                        user.account_id,
                        images,
                        version=version,
                        img_size=one.img_size,
                        tile_px=one.tile_px,
                    ).batch,
                )
                for times, images in batches
            ]
            total_mt = sum(times * batch.total_mt for times, batch in priced)
            offers.append(
                Offer(
                    combination=one,
                    total_mt=total_mt,
                    images_charged=sum(times * batch.images_charged for times, batch in priced),
                    discount_percent=max(batch.discount_percent for _times, batch in priced),
                    work_mt=sum(times * sum(line.list_mt for line in batch.lines) for times, batch in priced),
                    remaining_mt=budget_mt - total_mt,
                )
            )
    return rank(offers)


def rank(offers: Sequence[Offer]) -> list[Offer]:
    """Those that fit, what computes most first; then those that do not, what lacks least first."""
    return sorted(
        offers,
        key=lambda offer: (not offer.fits, -offer.work_mt if offer.fits else -offer.remaining_mt, offer.total_mt),
    )


def list_combinations(
    app: Application,
    user: Caller,
    images: Sequence[PreparedImage],
    prices: Prices,
    *,
    task: str,
    tiles_px: Sequence[int] = (),
) -> list[tuple[ModelVersion, Combination]]:
    """Every model and size that images could run with, without tiles and with each of `tiles_px` that cuts one."""
    # Where no picture is larger than a tile, it is the same work as without.
    sides = [None, *(px for px in tiles_px if any(count_tiles(one.height, one.width, px) for one in images))]
    found = []
    for version in _list_versions(app, user, task):
        if version.model.name not in prices.betas:
            continue
        for tile_px in sides:
            try:
                require_tiles(images, version.model, tile_px)
            except InvalidTileSizeError:
                continue
            found += [
                (version, Combination(version.model.name, version.model.title, img_size, tile_px))
                for img_size in IMG_SIZES_PX
            ]
    return found


def _list_versions(app: Application, user: Caller, task: str) -> list[ModelVersion]:
    """The versions that an account's runs of a task would use: what is offered, installed and ready."""
    versions = []
    for view in list_models(app):
        if view.version is not None and view.model.task == task:
            try:
                versions.append(app.registry.resolve(view.model.name, account_id=user.account_id))
            except VisionMeterError:
                continue  # removed between the two looks
    return versions
