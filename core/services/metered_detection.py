"""Quote → hold → run → capture or release: detection that is paid for, and only when it worked.

A quote is stored and binds: a run names it and can never take more. Submitting holds the whole amount in one
transaction, image by image; each image is then captured together with its result, or given back. No
transaction is open while a model runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date, timedelta

from sqlmodel import Session

from core.db import utcnow
from core.errors import (
    AccountNotActiveError,
    ChargeKeyTakenError,
    ImageEmptyError,
    InvalidImageSizeError,
    QuoteExpiredError,
    QuoteGrewError,
    QuoteMismatchError,
    QuoteNotFoundError,
    TooManyImagesError,
    VisionMeterError,
)
from core.geometry import IMG_SIZES_PX
from core.identity.tables import User
from core.inference.images import decode_image, encode_jpeg
from core.inference.pipeline import DetectParams
from core.jobs import jobs
from core.jobs.blobs import hash_bytes
from core.jobs.tables import Job, JobImage
from core.ledger import ledger
from core.ledger.idempotency import begin_idempotent, complete_idempotent
from core.ledger.posting import lock_account
from core.ledger.spending import require_within_caps
from core.ledger.tables import Account
from core.money import to_millitokens
from core.pricing.book import current_prices, get_prices
from core.pricing.discounts import NextTier, find_next_tier
from core.pricing.tables import Quote
from core.services.application import Application
from core.services.team import require_role

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
    (`duplicate`).
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


def quote_lines(quote: Quote) -> list[QuoteLine]:
    """The lines of a stored quote."""
    names = {field.name for field in fields(QuoteLine)}
    return [QuoteLine(**{key: value for key, value in line.items() if key in names}) for line in quote.lines]


def prepare_image(app: Application, name: str, data: bytes) -> PreparedImage:
    """Look at an upload. Raises a subclass of `ImageRefusedError` when it cannot be served."""
    return preview_image(app, name, data)[0]


def preview_image(app: Application, name: str, data: bytes) -> tuple[PreparedImage, bytes]:
    """`prepare_image`, and a thumbnail as JPEG with a longer side of at most 192 pixels; decodes once."""
    image = decode_image(data, bytes_max=app.settings.image_bytes_max, pixels_max=app.settings.image_pixels_max)
    thumbnail = encode_jpeg(image.pixels, longest_side_px=THUMBNAIL_PX)
    return PreparedImage(name[:200], hash_bytes(data), image.sha256, image.height, image.width), thumbnail


def make_charge_key(image_sha256: str, model_version: str, img_size: int) -> str:
    """What makes two pieces of work the same: pixels, weights, and the parameters that change detections."""
    return hashlib.sha256(f"{image_sha256}|{model_version}|img_size={img_size}".encode()).hexdigest()


def quote_batch(app: Application, user: User, images: Sequence[PreparedImage], *, model: str, img_size: int) -> Quote:
    """The exact price of a batch, stored, binding for `quote_ttl_s` seconds. Nothing is held yet.

    Raises `ImageEmptyError`, `TooManyImagesError`, `InvalidImageSizeError`, `ModelNotFoundError`, `ModelNotReadyError`,
    `WeightsRefusedError` or `NoRateError`.
    """
    if len(images) > app.settings.batch_images_max:
        raise TooManyImagesError(
            f"At most {app.settings.batch_images_max} images run in one batch: remove some.",
            images_max=app.settings.batch_images_max,
        )
    if not images:
        raise ImageEmptyError("A batch needs at least one picture: add one.")
    if img_size not in IMG_SIZES_PX:
        raise InvalidImageSizeError(f"img_size is one of {', '.join(map(str, IMG_SIZES_PX))}.")
    version = app.registry.resolve(model)
    keys = [make_charge_key(image.image_sha256, version.version, img_size) for image in images]
    now = utcnow()
    with app.db.write() as session:
        prices = current_prices(session)
        done = jobs.find_results(session, user.account_id, keys)
        seen: set[str] = set()
        free_reasons: list[str | None] = []
        for key in keys:
            free_reasons.append(FREE_PROCESSED if key in done else FREE_DUPLICATE if key in seen else None)
            seen.add(key)
        batch = prices.price_batch(
            [(image.height, image.width) for image in images],
            img_size,
            model,
            charged=[reason is None for reason in free_reasons],
        )
        lines = [
            QuoteLine(
                **asdict(image),
                input_height=price.shape.height,
                input_width=price.shape.width,
                alpha=str(prices.alpha),
                beta=str(prices.beta(model)),
                minimum_mt=to_millitokens(prices.minimum),
                list_mt=price.list_mt,
                amount_mt=price.amount_mt,
                free_reason=free_reason,
                charge_key=key,
                floor_mt=price.floor_mt,
            )
            for image, key, free_reason, price in zip(images, keys, free_reasons, batch.lines, strict=True)
        ]
        quote = Quote(
            account_id=user.account_id,
            price_version=prices.version,
            model=model,
            model_version=version.version,
            img_size=img_size,
            total_mt=batch.total_mt,
            list_mt=batch.list_mt,
            discount_percent=batch.discount_percent,
            lines=[asdict(line) for line in lines],
            created_at=now,
            expires_at=now + timedelta(seconds=app.settings.quote_ttl_s),
        )
        session.add(quote)
    return quote


def requote(app: Application, user: User, quote: Quote) -> Quote:
    """A new quote for the images of an earlier one, at today's prices. Raises what `quote_batch` raises."""
    images = [
        PreparedImage(line.name, line.file_sha256, line.image_sha256, line.height, line.width)
        for line in quote_lines(quote)
    ]
    return quote_batch(app, user, images, model=quote.model, img_size=quote.img_size)


def get_quote(app: Application, user: User, quote_id: str) -> Quote:
    """A stored quote of the account. Raises `QuoteNotFoundError`."""
    with app.db.read() as session:
        return _get_quote(session, user.account_id, quote_id)


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


def find_obstacle(app: Application, user: User, quote: Quote) -> VisionMeterError | None:
    """What would refuse this run at the moment, or None: role, frozen account, balance or caps. Nothing is held."""
    lines = quote_lines(quote)
    try:
        require_role(user, "member")
        with app.db.read() as session:
            if quote.total_mt and session.get_one(Account, user.account_id).status != "active":
                return AccountNotActiveError("This account cannot spend: ask the operator why it is frozen.")
            _require_affordable(app, session, user.account_id, lines)
    except VisionMeterError as obstacle:
        return obstacle
    return None


def submit_quote(
    app: Application,
    user: User,
    quote_id: str,
    files: Mapping[str, bytes],
    *,
    idempotency_key: str | None = None,
    budget_id: str | None = None,
) -> Job:
    """Hold the quoted amount and queue the run; a quote runs once, and submitting it again gives the same job.

    `files` maps the SHA-256 of each quoted file to its bytes. The idempotency key is the quote's id unless the caller
    has one of his own. An expired quote is quoted again first: when it did not grow it runs at the new price, else
    `QuoteGrewError` names the new quote. Raises also `RoleNeededError`, `QuoteNotFoundError`,
    `QuoteMismatchError`, `IdempotencyConflictError`, `InsufficientTokensError`, `SpendingCapError` or
    `AccountNotActiveError`; after any of them nothing is held.
    """
    require_role(user, "member")
    with app.db.read() as session:
        quote = _get_quote(session, user.account_id, quote_id)
    for file_sha256 in {line.file_sha256 for line in quote_lines(quote)}:
        data = files.get(file_sha256)
        if data is None or app.blobs.put(user.account_id, data) != file_sha256:
            raise QuoteMismatchError("The images are not those of the quote: preview them again.", quote_id=quote_id)
    key = idempotency_key or quote_id
    try:
        return _start_job(app, user, quote, key=key, asked_for=quote_id, budget_id=budget_id)
    except QuoteExpiredError:
        renewed = requote(app, user, quote)
    if renewed.total_mt > quote.total_mt:
        raise QuoteGrewError(quote_id=renewed.id, total_mt=renewed.total_mt, previous_mt=quote.total_mt)
    return _start_job(app, user, renewed, key=key, asked_for=quote_id, budget_id=budget_id)


def billing_day(app: Application) -> date:
    """Today in the time zone in which caps and statements count."""
    return utcnow().astimezone(app.settings.billing_zone).date()


def _start_job(app: Application, user: User, quote: Quote, *, key: str, asked_for: str, budget_id: str | None) -> Job:
    """Claim the key, hold the amount and store the job, all in one transaction."""
    lines = quote_lines(quote)
    with app.db.write() as session:
        request = {"quote_id": asked_for}
        answer = begin_idempotent(session, user.account_id, "run", key, request)
        if answer is None and key != asked_for:
            # A quote runs once, under whatever key: its own one stands for that.
            answer = begin_idempotent(session, user.account_id, "run", asked_for, request)
            if answer is not None:
                complete_idempotent(session, user.account_id, "run", key, answer)
        if answer is not None:
            return jobs.get_job(session, user.account_id, answer["job_id"])
        if quote.expires_at <= utcnow():
            raise QuoteExpiredError("This price is too old: preview again.", quote_id=quote.id)
        job = Job(
            account_id=user.account_id,
            quote_id=quote.id,
            actor=user.id,
            model=quote.model,
            model_version=quote.model_version,
            img_size=quote.img_size,
            lease_expires_at=utcnow() + timedelta(seconds=app.settings.hold_lease_s),
        )
        session.add(job)
        session.flush()
        if quote.total_mt:
            # What is needed depends on what other runs of the account hold: a hold placed between the two looks at it
            # would refuse a run that waits for that very work.
            lock_account(session, user.account_id)
        _require_affordable(app, session, user.account_id, lines)
        for position, line in enumerate(lines):
            hold_id = _hold_line(app, session, user, job.id, line, budget_id)
            session.add(
                JobImage(
                    job_id=job.id,
                    position=position,
                    name=line.name,
                    file_sha256=line.file_sha256,
                    image_sha256=line.image_sha256,
                    height=line.height,
                    width=line.width,
                    charge_key=line.charge_key,
                    amount_mt=line.amount_mt if hold_id else 0,
                    hold_id=hold_id,
                )
            )
        for claimed in {key, asked_for}:
            complete_idempotent(session, user.account_id, "run", claimed, {"job_id": job.id})
    return job


def _require_affordable(app: Application, session: Session, account_id: str, lines: Sequence[QuoteLine]) -> None:
    """Refuse a batch as a whole and with one number, before the first hold of many fails.

    What another run of this account pays for at the moment is not asked for a second time.
    """
    taken = ledger.find_taken_keys(session, account_id, {line.charge_key for line in lines if line.amount_mt})
    required_mt = sum(line.amount_mt for line in lines if line.charge_key not in taken)
    ledger.require_available(session, account_id, required_mt)
    require_within_caps(session, account_id, required_mt, billing_day(app))


def detect_params(img_size: int) -> DetectParams:
    """The parameters every charged run uses: all detections down to the stored minimum confidence."""
    return DetectParams(img_size=img_size)


def _get_quote(session: Session, account_id: str, quote_id: str) -> Quote:
    quote = session.get(Quote, quote_id)
    if quote is None or quote.account_id != account_id:
        raise QuoteNotFoundError("There is no such quote in your account: preview again.", quote_id=quote_id)
    return quote


def _hold_line(
    app: Application, session: Session, user: User, job_id: str, line: QuoteLine, budget_id: str | None
) -> str | None:
    """The id of the hold for a line; None when the line is free or the same work is under way already."""
    if line.amount_mt == 0:
        return None
    try:
        hold = ledger.place_hold(
            session,
            user.account_id,
            line.amount_mt,
            charge_key=line.charge_key,
            lease_s=app.settings.hold_lease_s,
            actor=user.id,
            memo=job_id,
            spend_day=billing_day(app),
            budget_id=budget_id,
        )
    except ChargeKeyTakenError:
        # Another run of this account took the same picture since the quote: this one waits for its result.
        return None
    return hold.id
