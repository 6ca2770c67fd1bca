"""One image of a job, from its bytes to a captured or released hold."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlmodel import Session

from core.db import insert_row, new_row, utcnow
from core.errors import EngineBusyError, HoldEndedError, InferenceError, VisionMeterError
from core.group_commit import GroupCommitError
from core.inference.images import DecodedImage, Pixels, decode_image
from core.inference.pixel_gate import IN_JOBS
from core.inference.scheduler import Inference, Priority, wait_for
from core.inference.tiled import infer_tiled
from core.jobs import jobs
from core.jobs.results import get_result
from core.jobs.tables import Job, JobImage, Result
from core.ledger import ledger
from core.ledger.corrections import refund_capture
from core.ledger.ledger import Balance
from core.ledger.posting import lock_account
from core.money import to_millitokens
from core.plans import Plan
from core.pricing.book import Prices, get_prices
from core.pricing.receipts import compute_receipt
from core.pricing.refund_rules import find_late_rule
from core.pricing.tables import Quote, Receipt
from core.services.application import Application
from core.services.metered_detection import detect_params
from core.services.mirror import publish_balance
from core.services.stages import Stages
from core.tiles import count_tiles, plan_tiles
from core.usage.records import add_record
from core.usage.tables import UsageRecord

log = logging.getLogger("visionmeter")

ENGINE_RETRY_S = 0.05
SETTLE_ATTEMPTS_MAX = 10
FIRST_ATTEMPT_FAILED = "first_attempt_failed"
LATE_RULE = "rule:late"
# A tiled image has the time of one image, and that much of it again for each tile.
TILE_TIMEOUT_SHARE = 0.25
TILED_TIMEOUT_S_MAX = 1800.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What an image was quoted, and the prices of the quote's version."""

    quote: Quote
    prices: Prices


@dataclass(frozen=True, slots=True)
class Charge:
    """What a captured image left behind: ids, its stored detections, and the account's balance right after it.

    `amount_mt` was taken, after `tiles_failed` tiles gave nothing; `version` is that of the account with this balance.
    """

    result_id: str
    detections: Sequence[Mapping[str, Any]]
    receipt_id: str
    amount_mt: int
    tiles_failed: int
    balance: Balance
    version: int


def run_image(
    app: Application,
    job: Job,
    image: JobImage,
    *,
    terms: Terms | None = None,
    decoded: DecodedImage | None = None,
    stages: Stages | None = None,
) -> Charge | None:
    """Run one claimed image. Whatever happens, its hold is captured or given back, and the row says which.

    Whoever has its terms at hand, or its pixels, hands them over. Gives the charge, or None when there was none.
    """
    if image.hold_id is None:
        _answer_free(app, job, image)
        return None
    stages = stages or Stages()
    try:
        inference = _infer(app, job, image, decoded, stages)
        with stages.measure("capture"):
            charge = _settle(app, job, image, inference, terms)
        publish_balance(app.redis, job.account_id, charge.version, charge.balance.available_mt)
        return charge
    except HoldEndedError:
        # The lease ran out while the model ran (a machine that slept, say): the money is back, so no result.
        _give_back(app, job, image, "interrupted", None)
    except VisionMeterError as error:
        log.warning("image %s failed: %s", image.id, error.code, exc_info=error.__cause__)
        _give_back(app, job, image, "failed", error.code)
    except BaseException as error:
        _give_back(app, job, image, "failed", "internal")
        if not isinstance(error, Exception):
            raise
        log.exception("image %s failed", image.id)
    return None


def _infer(app: Application, job: Job, image: JobImage, decoded: DecodedImage | None, stages: Stages) -> Inference:
    if decoded is None:
        with IN_JOBS.pass_through(image.height * image.width):
            with stages.measure("decode"):
                decoded = _decode(app, job, image)
            return _run(app, job, image, decoded, stages)
    return _run(app, job, image, decoded, stages)


def _run(app: Application, job: Job, image: JobImage, decoded: DecodedImage, stages: Stages) -> Inference:
    version = app.registry.find_version(job.model, job.model_version)
    plan = plan_tiles(decoded.height, decoded.width, job.img_size, job.tile_px, square=version.model.sees_square)
    deadline = time.monotonic() + time_limit_s(app, job, image)

    def submit(part: Pixels) -> Future[Inference]:
        while True:
            try:
                return app.engine.submit(
                    part,
                    version,
                    detect_params(job.img_size),
                    customer=job.account_id,
                    priority=Priority.VIP if job.plan == Plan.VIP else Priority.NORMAL,
                    timeout_s=deadline - time.monotonic(),
                )
            except EngineBusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(ENGINE_RETRY_S)

    if plan.tiles:
        inference = infer_tiled(submit, decoded.pixels, plan, deadline=deadline)
    else:
        inference = wait_for(submit(decoded.pixels), deadline)
    stages.add("wait", inference.wait_ms)
    stages.add("model", inference.model_ms)
    return inference


def time_limit_s(app: Application, job: Job, image: JobImage) -> float:
    """How many seconds an image may take in the engine; in tiles it may take longer."""
    tiles = count_tiles(image.height, image.width, job.tile_px)
    one_s = app.settings.image_timeout_s
    return max(one_s, min(TILED_TIMEOUT_S_MAX, one_s * (1 + TILE_TIMEOUT_SHARE * tiles)))


def in_hand_until(app: Application, job: Job, image: JobImage) -> datetime:
    """After which an image that was begun now is stuck: longer than the engine may take and a lease lasts."""
    return utcnow() + timedelta(seconds=time_limit_s(app, job, image) + app.settings.hold_lease_s)


def _decode(app: Application, job: Job, image: JobImage) -> DecodedImage:
    try:
        data = app.blobs.get(job.account_id, image.file_sha256)
    except OSError as error:
        raise InferenceError("The stored picture cannot be read: upload it again. Nothing was taken.") from error
    return decode_image(data, bytes_max=app.settings.image_bytes_max, pixels_max=app.settings.image_pixels_max)


def _settle(app: Application, job: Job, image: JobImage, inference: Inference, terms: Terms | None) -> Charge:
    for attempt in range(1, SETTLE_ATTEMPTS_MAX + 1):
        try:
            with app.db.write() as session:
                return _capture(session, job, image, inference, terms)
        except GroupCommitError:
            # Another transaction took the commit that this one shared down with it; nothing of this one is stored.
            if attempt == SETTLE_ATTEMPTS_MAX:
                raise
    raise AssertionError("the last attempt returns or raises")


def _capture(session: Session, job: Job, image: JobImage, inference: Inference, terms: Terms | None = None) -> Charge:
    """Entry, result, receipt and usage in one transaction: charged ⇔ the result is stored."""
    assert image.hold_id is not None
    quote, prices = _terms_of(session, job) if terms is None else (terms.quote, terms.prices)
    line = quote.lines[image.position]
    if inference.input_shape != (line["input_height"], line["input_width"]):
        raise InferenceError("The model computed another size than was quoted. Nothing was taken: preview again.")
    receipt = _receipt(job, image, quote, prices, inference.tiles_failed)
    amount_mt = receipt.amount_mt
    entry = ledger.capture_hold(session, image.hold_id, amount_mt, actor=job.actor, memo=job.id)
    receipt.entry_seq = entry.seq
    result = new_row(
        Result,
        account_id=job.account_id,
        charge_key=image.charge_key,
        image_sha256=image.image_sha256,
        model=job.model,
        model_version=job.model_version,
        img_size=job.img_size,
        tile_px=job.tile_px,
        tiles_failed=inference.tiles_failed,
        detections=inference.detections.to_json(),
    )
    insert_row(session, result)
    insert_row(session, receipt)
    wait_ms, model_ms = round(inference.wait_ms), round(inference.model_ms)
    counts = inference.detections.filter(confidence_min=0.25).counts()
    _refund_if_late(session, job, image, quote, prices, amount_mt)
    returned_mt = image.amount_mt - amount_mt
    if not jobs.end_image(session, image.id, "charged", wait_ms=wait_ms, model_ms=model_ms, returned_mt=returned_mt):
        raise HoldEndedError("This image has ended already; nothing was taken.", hold_id=image.hold_id)
    _record(
        session,
        job,
        image,
        "charged",
        quote=quote,
        amount_mt=amount_mt,
        wait_ms=wait_ms,
        model_ms=model_ms,
        class_counts=counts,
        given_back_mt=returned_mt,
    )
    balance = Balance(entry.posted_after_mt, entry.held_after_mt)
    return Charge(result.id, result.detections, receipt.id, amount_mt, inference.tiles_failed, balance, entry.seq)


def _receipt(job: Job, image: JobImage, quote: Quote, prices: Prices, tiles_failed: int) -> Receipt:
    """The receipt of a charge, not stored yet: what was quoted, less the tiles that failed.

    A share of the batch's floor is not asked for an image that is incomplete.
    """
    line = quote.lines[image.position]
    receipt = new_row(
        Receipt,
        account_id=job.account_id,
        hold_id=image.hold_id,
        quote_id=quote.id,
        price_version=quote.price_version,
        image_name=image.name,
        image_sha256=image.image_sha256,
        image_height=image.height,
        image_width=image.width,
        input_height=line["input_height"],
        input_width=line["input_width"],
        img_size=job.img_size,
        square=line.get("square", False),
        tile_px=job.tile_px,
        tiles=line.get("tiles", 0),
        tiles_failed=tiles_failed,
        model=job.model,
        model_version=job.model_version,
        alpha=prices.alpha,
        beta=Decimal(line["beta"]),
        minimum=prices.minimum,
        discount_percent=quote.discount_percent,
        floor_mt=0 if tiles_failed else line.get("floor_mt", 0),
        batch_images=sum(1 for other in quote.lines if other["amount_mt"]),
        amount_mt=image.amount_mt,
    )
    if tiles_failed:
        receipt.amount_mt = to_millitokens(compute_receipt(receipt).amount)
    return receipt


def _terms_of(session: Session, job: Job) -> tuple[Quote, Prices]:
    quote = session.get_one(Quote, job.quote_id)
    return quote, get_prices(session, quote.price_version)


def _refund_if_late(session: Session, job: Job, image: JobImage, quote: Quote, prices: Prices, amount_mt: int) -> None:
    """What the price book promises for a result that took too long, in the transaction of its charge.

    A tile takes as long as a picture, so each counts as one that stands before this one.
    """
    waited_s = int((utcnow() - job.created_at).total_seconds())
    position = image.position + sum(line.get("tiles", 0) for line in quote.lines[: image.position + 1])
    rule = find_late_rule(prices.late_rules, waited_s, plan=job.plan, position=position)
    if rule is None or not rule.refund_mt(amount_mt):
        return
    assert image.hold_id is not None
    refund_capture(
        session,
        image.hold_id,
        rule.refund_mt(amount_mt),
        reason=f"late: {waited_s} s after the run was started, {rule.promise(position)}",
        actor=LATE_RULE,
    )


def _answer_free(app: Application, job: Job, image: JobImage) -> None:
    with app.db.write() as session:
        answer_free(session, job, image)


def answer_free(session: Session, job: Job, image: JobImage) -> None:
    """End an image without a hold: free from the stored result, or failed when there is none after all."""
    result = get_result(session, job.account_id, image.charge_key)
    if result is not None:
        if jobs.end_image(session, image.id, "free"):
            _record(session, job, image, "free")
    elif jobs.end_image(session, image.id, "failed", error_code=FIRST_ATTEMPT_FAILED):
        _record(session, job, image, "failed", error_code=FIRST_ATTEMPT_FAILED)


def _give_back(app: Application, job: Job, image: JobImage, status: str, error_code: str | None) -> None:
    with app.db.write() as session:
        give_back(session, job, image, status, error_code, actor=ledger.SYSTEM)


def give_back(session: Session, job: Job, image: JobImage, status: str, error_code: str | None, *, actor: str) -> None:
    """End an open image unpaid: its hold is released unless it ended before, and the usage says why."""
    # Of several images the first may have no hold: the account comes before job and usage all the same, as in a charge.
    lock_account(session, job.account_id)
    if image.hold_id is not None:
        try:
            ledger.release_hold(session, image.hold_id, actor=actor, memo=f"{job.id} {error_code or status}")
        except HoldEndedError:
            pass  # expired by the sweeper: the money is back already
    if jobs.end_image(session, image.id, status, error_code=error_code):
        given_back_mt = image.amount_mt if image.hold_id is not None else 0
        _record(session, job, image, status, error_code=error_code, given_back_mt=given_back_mt)


def _record(
    session: Session,
    job: Job,
    image: JobImage,
    outcome: str,
    *,
    quote: Quote | None = None,
    amount_mt: int = 0,
    error_code: str | None = None,
    wait_ms: int | None = None,
    model_ms: int | None = None,
    class_counts: dict[str, int] | None = None,
    given_back_mt: int = 0,
) -> None:
    line = (quote or session.get_one(Quote, job.quote_id)).lines[image.position]
    add_record(
        session,
        new_row(
            UsageRecord,
            account_id=job.account_id,
            job_id=job.id,
            actor=job.actor,
            model=job.model,
            model_version=job.model_version,
            img_size=job.img_size,
            input_height=line["input_height"],
            input_width=line["input_width"],
            tiles=line.get("tiles", 0),
            amount_mt=amount_mt,
            outcome=outcome,
            error_code=error_code,
            wait_ms=wait_ms,
            model_ms=model_ms,
            class_counts=class_counts or {},
            given_back_mt=given_back_mt,
        ),
    )
