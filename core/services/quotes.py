"""Quotes: the exact price of a batch, stored and binding, before anything is held."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta

from sqlmodel import Session

from core.db import insert_row, new_row, utcnow
from core.errors import (
    ImageEmptyError,
    InvalidImageSizeError,
    InvalidTileSizeError,
    QuoteNotFoundError,
    TooManyImagesError,
)
from core.geometry import IMG_SIZES_PX
from core.identity.callers import Caller
from core.inference.images import DecodedImage, decode_image, encode_jpeg
from core.inference.registry import Model, ModelVersion
from core.jobs.blobs import hash_bytes
from core.jobs.results import find_results
from core.money import to_millitokens
from core.pricing.book import BatchPrice, Prices, get_prices
from core.pricing.discounts import NextTier, find_next_tier
from core.pricing.tables import Quote
from core.pricing.unrun import set_stored_bytes
from core.services.application import Application
from core.tiles import TILES_MAX, TILES_PX, count_tiles

THUMBNAIL_PX = 192
FREE_PROCESSED = "processed"
FREE_DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An upload that can be served. Sides in pixels, upright."""

    name: str
    file_sha256: str
    image_sha256: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class QuoteLine:
    """The price of one image of a quote.

    `list_mt` is its price by the formula, `amount_mt` what will be held for it after the batch's discount
    (milli-tokens), `floor_mt` of it its share of the batch's floor. It costs 0 when `free_reason` says that the
    account has this result already (`processed`) or that the same picture stands earlier in the batch
    (`duplicate`). With `tiles`, each of them is computed besides the whole picture, as a network input of
    `tile_input_height × tile_input_width`. `square`: the model sees a square of the image.
    """

    name: str
    file_sha256: str
    image_sha256: str
    height: int
    width: int
    input_height: int
    input_width: int
    alpha: str
    beta: str
    minimum_mt: int
    list_mt: int
    amount_mt: int
    free_reason: str | None
    charge_key: str
    floor_mt: int = 0
    tiles: int = 0
    tile_input_height: int = 0
    tile_input_width: int = 0
    square: bool = False


@dataclass(frozen=True, slots=True)
class PricedImages:
    """Images with what makes each of them a piece of work, why it is free if it is, and the price of all together."""

    charge_keys: tuple[str, ...]
    free_reasons: tuple[str | None, ...]
    batch: BatchPrice


def quote_lines(quote: Quote) -> list[QuoteLine]:
    """The lines of a stored quote."""
    names = {field.name for field in fields(QuoteLine)}
    return [QuoteLine(**{key: value for key, value in line.items() if key in names}) for line in quote.lines]


def prepare_image(app: Application, name: str, data: bytes) -> PreparedImage:
    """Look at an upload. Raises a subclass of `ImageRefusedError` when it cannot be served."""
    return _describe(name, data, _decode(app, data))


def preview_image(app: Application, name: str, data: bytes) -> tuple[PreparedImage, bytes]:
    """`prepare_image`, and a thumbnail as JPEG with a longer side of at most 192 pixels; decodes once."""
    image = _decode(app, data)
    return _describe(name, data, image), encode_jpeg(image.pixels, longest_side_px=THUMBNAIL_PX)


def _decode(app: Application, data: bytes) -> DecodedImage:
    return decode_image(data, bytes_max=app.settings.image_bytes_max, pixels_max=app.settings.image_pixels_max)


def _describe(name: str, data: bytes, image: DecodedImage) -> PreparedImage:
    return PreparedImage(name[:200], hash_bytes(data), image.sha256, image.height, image.width)


def make_charge_key(image: PreparedImage, version: ModelVersion, img_size: int, tile_px: int | None) -> str:
    """What makes two pieces of work the same: pixels, weights, and the parameters that change detections."""
    work = f"{image.image_sha256}|{version.version}|img_size={img_size}"
    # A picture no larger than a tile has none, so it is the same work as without.
    if count_tiles(image.height, image.width, tile_px):
        work += f"|tile_px={tile_px}"
    return hashlib.sha256(work.encode()).hexdigest()


def quote_batch(
    app: Application,
    user: Caller,
    images: Sequence[PreparedImage],
    *,
    model: str,
    img_size: int,
    tile_px: int | None = None,
) -> Quote:
    """The exact price of a batch, stored, binding for `quote_ttl_s` seconds. Nothing is held yet.

    Raises what `check_batch` raises, or `NoRateError`.
    """
    version = check_batch(app, images, model=model, img_size=img_size, tile_px=tile_px, account_id=user.account_id)
    with app.db.write() as session:
        return store_quote(app, session, user.account_id, images, version=version, img_size=img_size, tile_px=tile_px)


def check_batch(
    app: Application,
    images: Sequence[PreparedImage],
    *,
    model: str,
    img_size: int,
    tile_px: int | None,
    account_id: str,
) -> ModelVersion:
    """The version of the model that a batch of an account would run on.

    Raises `ImageEmptyError`, `TooManyImagesError`, `InvalidImageSizeError`, `InvalidTileSizeError`,
    `ModelNotFoundError`, `ModelRetiredError`, `ModelNotReadyError` or `WeightsRefusedError`.
    """
    if len(images) > app.settings.batch_images_max:
        raise TooManyImagesError(
            f"At most {app.settings.batch_images_max} images run in one batch: remove some.",
            images_max=app.settings.batch_images_max,
        )
    if not images:
        raise ImageEmptyError("A batch needs at least one picture: add one.")
    require_size(img_size)
    version = app.registry.resolve(model, account_id=account_id)
    require_tiles(images, version.model, tile_px)
    return version


def require_size(img_size: int) -> None:
    """Raise `InvalidImageSizeError` for a size that the engine does not serve."""
    if img_size not in IMG_SIZES_PX:
        raise InvalidImageSizeError(f"img_size is one of {', '.join(map(str, IMG_SIZES_PX))}.")


def require_tiles(images: Sequence[PreparedImage], model: Model, tile_px: int | None) -> None:
    """Raise `InvalidTileSizeError` for a size that is not offered or of which a picture has too many tiles.

    Also for a model of another task than detection: what tiles find is put together box by box.
    """
    if tile_px is None:
        return
    if model.task != "detect":
        raise InvalidTileSizeError(
            f"{model.title} does not find boxes alone, as tiles do: leave tile_px out, or choose a detection model.",
            task=model.task,
        )
    if tile_px not in TILES_PX:
        raise InvalidTileSizeError(f"tile_px is one of {', '.join(map(str, TILES_PX))}, or left out for no tiles.")
    for image in images:
        tiles = count_tiles(image.height, image.width, tile_px)
        if tiles > TILES_MAX:
            raise InvalidTileSizeError(
                f"{image.name} has {tiles:,} tiles of {tile_px} pixels, and a picture has at most {TILES_MAX}: choose "
                "larger tiles.",
                tiles=tiles,
                tiles_max=TILES_MAX,
            )


def store_quote(
    app: Application,
    session: Session,
    account_id: str,
    images: Sequence[PreparedImage],
    *,
    version: ModelVersion,
    img_size: int,
    tile_px: int | None = None,
    ran_at: datetime | None = None,
    stored_bytes: int = 0,
) -> Quote:
    """Price images with the book in force and what the account has already; in the caller's transaction.

    `ran_at` is when it is run, if that is in this very transaction; `stored_bytes` what its pictures take on the disk.
    """
    model = version.model.name
    now = utcnow()
    prices = app.prices.current(session)
    priced = price_images(session, prices, account_id, images, version=version, img_size=img_size, tile_px=tile_px)
    batch = priced.batch
    lines = [
        QuoteLine(
            **asdict(image),
            input_height=price.plan.whole.height,
            input_width=price.plan.whole.width,
            alpha=str(prices.alpha),
            beta=str(prices.beta(model)),
            minimum_mt=to_millitokens(prices.minimum),
            list_mt=price.list_mt,
            amount_mt=price.amount_mt,
            free_reason=free_reason,
            charge_key=key,
            floor_mt=price.floor_mt,
            tiles=len(price.plan.tiles),
            tile_input_height=price.plan.tile.height if price.plan.tile else 0,
            tile_input_width=price.plan.tile.width if price.plan.tile else 0,
            square=version.model.sees_square,
        )
        for image, key, free_reason, price in zip(
            images, priced.charge_keys, priced.free_reasons, batch.lines, strict=True
        )
    ]
    quote = new_row(
        Quote,
        account_id=account_id,
        price_version=prices.version,
        model=model,
        model_version=version.version,
        img_size=img_size,
        tile_px=tile_px,
        total_mt=batch.total_mt,
        list_mt=batch.list_mt,
        discount_percent=batch.discount_percent,
        lines=[asdict(line) for line in lines],
        created_at=now,
        expires_at=now + timedelta(seconds=app.settings.quote_ttl_s),
        ran_at=ran_at,
        stored_bytes=stored_bytes,
    )
    return insert_row(session, quote)


def price_images(
    session: Session,
    prices: Prices,
    account_id: str,
    images: Sequence[PreparedImage],
    *,
    version: ModelVersion,
    img_size: int,
    tile_px: int | None,
) -> PricedImages:
    """What images would cost an account now: a quote's every number, and nothing is stored. Raises `NoRateError`."""
    keys = [make_charge_key(image, version, img_size, tile_px) for image in images]
    done = find_results(session, account_id, keys)
    seen: set[str] = set()
    free_reasons: list[str | None] = []
    for key in keys:
        free_reasons.append(FREE_PROCESSED if key in done else FREE_DUPLICATE if key in seen else None)
        seen.add(key)
    batch = prices.price_batch(
        [(image.height, image.width) for image in images],
        img_size,
        version.model.name,
        charged=[reason is None for reason in free_reasons],
        tile_px=tile_px,
        square=version.model.sees_square,
    )
    return PricedImages(tuple(keys), tuple(free_reasons), batch)


def requote(app: Application, user: Caller, quote: Quote) -> Quote:
    """A new quote for the images of an earlier one, at today's prices. Raises what `quote_batch` raises."""
    images = [
        PreparedImage(line.name, line.file_sha256, line.image_sha256, line.height, line.width)
        for line in quote_lines(quote)
    ]
    return quote_batch(app, user, images, model=quote.model, img_size=quote.img_size, tile_px=quote.tile_px)


def hand_on_pictures(app: Application, quote: Quote, renewed: Quote) -> None:
    """Let the pictures that wait with a quote wait with the one that took its place, too."""
    if app.blobs.keep_again(quote.id, renewed.id):
        with app.db.write() as session:
            set_stored_bytes(session, renewed.id, quote.stored_bytes)


def get_quote(app: Application, user: Caller, quote_id: str) -> Quote:
    """A stored quote of the account. Raises `QuoteNotFoundError`."""
    with app.db.read() as session:
        return get_stored_quote(session, user.account_id, quote_id)


def next_discount(app: Application, quote: Quote) -> NextTier | None:
    """What a quoted batch lacks for the next discount of its price list.

    None when it has the last one, when all of it is free, or when so many images do not fit into one batch.
    """
    charged = sum(1 for line in quote_lines(quote) if line.free_reason is None)
    with app.db.read() as session:
        tier = find_next_tier(charged, get_prices(session, quote.price_version).discounts)
    if tier is None or not charged or len(quote.lines) + tier.images_missing > app.settings.batch_images_max:
        return None
    return tier


def get_stored_quote(session: Session, account_id: str, quote_id: str) -> Quote:
    """`get_quote` in the caller's transaction."""
    quote = session.get(Quote, quote_id)
    if quote is None or quote.account_id != account_id:
        raise QuoteNotFoundError("There is no such quote in your account: preview again.", quote_id=quote_id)
    return quote
