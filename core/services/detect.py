"""One picture, answered at once: quote, hold, run and capture in the thread of the request.

The same tables and the same steps as a batch of one, so portal and programs share quotes, ledger and results. The
run belongs to this process's runner from its first moment: the keeper renews its lease, and gives back what a crash
leaves behind.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlmodel import Session

from core.db import new_row, utcnow
from core.errors import (
    EngineBusyError,
    EngineStoppedError,
    InferenceError,
    VisionMeterError,
)
from core.identity.callers import Caller
from core.inference.detections import Detections
from core.inference.images import DecodedImage, count_pixels, decode_image
from core.inference.pixel_gate import IN_FLIGHT
from core.inference.registry import ModelVersion
from core.jobs import jobs
from core.jobs.blobs import hash_bytes
from core.jobs.results import find_results, get_result
from core.jobs.tables import Job, JobImage
from core.ledger import ledger
from core.ledger.idempotency import begin_idempotent, complete_idempotent, find_answer
from core.ledger.ledger import Balance
from core.ledger.posting import lock_account
from core.pricing import receipts
from core.pricing.tables import Quote
from core.services.api_keys import budget_of, require_model
from core.services.application import Application
from core.services.disk_space import require_disk_space
from core.services.metered_detection import RUN, hold_image, store_job
from core.services.mirror import ResultCache, read_balance
from core.services.quotes import PreparedImage, make_charge_key, quote_lines, require_size, store_quote
from core.services.run_image import (
    FIRST_ATTEMPT_FAILED,
    Charge,
    Terms,
    answer_free,
    give_back,
    in_hand_until,
    run_image,
    time_limit_s,
)
from core.services.stages import Stages
from core.services.team import require_role
from core.services.waited_tiles import waiting_for_tiles

# What another run of the account pays for at the moment is waited for, looking so often.
DUPLICATE_POLL_S = 0.02
# A first attempt that fails leaves its work chargeable: the waiting one then pays for it, a few times at most.
ATTEMPTS_MAX = 3
# An outcome that took nothing and says nothing of the picture: the same key may run again.
_NOT_DONE = ("interrupted", "cancelled")
_NOT_DONE_CODES = (EngineBusyError.code, EngineStoppedError.code, FIRST_ATTEMPT_FAILED)


@dataclass(frozen=True, slots=True)
class Detected:
    """The answer for one picture. `amount_mt` was taken for it, and `balance` is the account's right after that.

    `replayed` says that its idempotency key had been answered before. `receipt_id` is None for what was free.
    """

    job: Job
    image: JobImage
    price_version: str
    detections: Detections
    result_id: str
    tiles_failed: int
    receipt_id: str | None
    amount_mt: int
    balance: Balance
    replayed: bool


def detect(
    app: Application,
    caller: Caller,
    data: bytes,
    *,
    name: str,
    model: str,
    img_size: int,
    tile_px: int | None = None,
    key: str | None = None,
    request: Mapping[str, Any] | None = None,
    stages: Stages,
) -> Detected:
    """Run one picture and wait for it. `key` is an idempotency key and `request` what it stands for.

    Raises what `quote_batch` and `submit_quote` raise, `KeyModelNotAllowedError`, subclasses of `ImageRefusedError`,
    `EngineBusyError` or `EngineStoppedError` before anything is held, and `InferenceError` after it was given back.
    """
    require_role(caller, "member")
    require_model(caller, model)
    require_size(img_size)
    version = app.registry.resolve(model, account_id=caller.account_id)
    limits = app.settings
    with IN_FLIGHT.pass_through(min(count_pixels(data), limits.image_pixels_max)):
        with stages.measure("decode"):
            decoded = decode_image(data, bytes_max=limits.image_bytes_max, pixels_max=limits.image_pixels_max)
            image = PreparedImage(name[:200], hash_bytes(data), decoded.sha256, decoded.height, decoded.width)
        params = RunParams(version, img_size, tile_px)
        with waiting_for_tiles(app, caller.account_id, image, version.model, tile_px):
            for _attempt in range(ATTEMPTS_MAX):
                _require_room(app)
                with stages.measure("hold"):
                    started = _start(app, caller, image, params, key, request or {})
                if not isinstance(started, _Started):
                    return _wait_for_answer(app, caller, started)
                outcome = _carry_out(app, started, data, decoded, stages)
                if outcome is not None:
                    return outcome
    raise InferenceError("The run that was to pay for the same picture failed. Nothing was taken: try again.")


def find_answered(app: Application, caller: Caller, key: str, request: Mapping[str, Any]) -> Detected | None:
    """What was answered to an idempotency key before, waiting for it if it is under way; None for a new key.

    Raises `IdempotencyConflictError`, or the failure that was answered.
    """
    with app.db.read() as session:
        answer = find_answer(session, caller.account_id, RUN, key, request)
        if answer is None or _is_undone(jobs.list_images(session, answer["job_id"])[0]):
            return None
    return _wait_for_answer(app, caller, answer)


def _wait_for_answer(app: Application, caller: Caller, answer: Mapping[str, Any]) -> Detected:
    """The answer of a run that another request carries out, or did."""
    balance = Balance(answer["posted_mt"], answer["held_mt"]) if "posted_mt" in answer else None
    started = time.monotonic()
    while True:
        with app.db.read() as session:
            job = jobs.get_job(session, caller.account_id, answer["job_id"])
            image = jobs.list_images(session, job.id)[0]
            if image.status not in jobs.OPEN_IMAGE:
                return _read_answer(app, session, job, image, replayed=True, balance=balance)
        if time.monotonic() > started + time_limit_s(app, job, image):
            raise EngineBusyError("This request is still being carried out: send it again with the same key.")
        time.sleep(DUPLICATE_POLL_S)


def _require_room(app: Application) -> None:
    if app.hands.runner is None:
        raise EngineStoppedError("The service is restarting: send it again in a minute. Nothing was taken.")
    if app.engine.queue_depth >= app.settings.engine_queue_max:
        raise EngineBusyError("The service is busy: send it again in a few seconds. Nothing was taken.")
    require_disk_space(app)


@dataclass(frozen=True, slots=True)
class RunParams:
    """What decides the price and the detections besides the picture; sizes in pixels."""

    version: ModelVersion
    img_size: int
    tile_px: int | None


@dataclass(frozen=True, slots=True)
class _Started:
    """A run of one picture that this request carries out; `balance` when it was free from the beginning."""

    job: Job
    image: JobImage
    terms: Terms
    balance: Balance | None


def _start(
    app: Application,
    caller: Caller,
    image: PreparedImage,
    params: RunParams,
    key: str | None,
    request: Mapping[str, Any],
) -> _Started | Mapping[str, Any]:
    """Claim the key, quote, hold and store the run in one transaction; or the answer that the key has already."""
    _refuse_early(app, caller, image, params, key)
    with app.db.write() as session:
        if key is not None:
            earlier = _claim(session, caller, key, request)
            if earlier is not None:
                return earlier
        quote = store_quote(
            app,
            session,
            caller.account_id,
            [image],
            version=params.version,
            img_size=params.img_size,
            tile_px=params.tile_px,
            ran_at=utcnow(),
        )
        job = new_row(
            Job,
            account_id=caller.account_id,
            quote_id=quote.id,
            actor=caller.id,
            model=quote.model,
            model_version=quote.model_version,
            img_size=params.img_size,
            tile_px=params.tile_px,
            status="running",
            runner=app.hands.runner,
            lease_expires_at=utcnow() + timedelta(seconds=app.settings.hold_lease_s),
        )
        store_job(session, job)
        line = quote_lines(quote)[0]
        # One hold needs no look at the balance before it: it refuses by itself what cannot be paid.
        row = hold_image(app, session, caller, job.id, 0, line, budget_id=budget_of(caller), started_at=job.created_at)
        balance = None
        if line.free_reason is not None:
            answer_free(session, job, row)
            balance = ledger.get_balance(session, caller.account_id)
        if key is not None:
            answer: dict[str, Any] = {"job_id": job.id}
            if balance is not None:
                answer |= {"posted_mt": balance.posted_mt, "held_mt": balance.held_mt}
            complete_idempotent(session, caller.account_id, RUN, key, answer)
        return _Started(job, row, Terms(quote, app.prices.get(session, quote.price_version)), balance)


def _refuse_early(app: Application, caller: Caller, image: PreparedImage, params: RunParams, key: str | None) -> None:
    """Let nobody take a turn to write who could not pay anyway; only where Redis says so and the database agrees.

    The database decides the same a moment later where Redis says nothing.
    """
    mirrored = read_balance(app.redis, caller.account_id)
    if mirrored is None or key is not None:
        return
    charge_key = make_charge_key(image, params.version, params.img_size, params.tile_px)
    with app.db.read() as session:
        price_mt = app.prices.current(session).price_image(
            image.height,
            image.width,
            params.img_size,
            params.version.model.name,
            tile_px=params.tile_px,
            square=params.version.model.sees_square,
        )[1]
        if mirrored.available_mt >= price_mt or find_results(session, caller.account_id, [charge_key]):
            return
        if not ledger.find_taken_keys(session, caller.account_id, [charge_key]):
            ledger.require_available(session, caller.account_id, price_mt)


def _claim(session: Session, caller: Caller, key: str, request: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """None: the key is this request's to answer. Else the answer that it has."""
    answer = begin_idempotent(session, caller.account_id, RUN, key, request)
    if answer is None:
        return None
    # Of two that find the first attempt undone, one runs it again and the other finds that.
    lock_account(session, caller.account_id)
    answer = find_answer(session, caller.account_id, RUN, key, request)
    assert answer is not None
    return None if _is_undone(jobs.list_images(session, answer["job_id"])[0]) else answer


def _is_undone(image: JobImage) -> bool:
    """Whether an attempt took nothing and says nothing of the picture, so that its key may run again."""
    return image.status in _NOT_DONE or image.error_code in _NOT_DONE_CODES


def _carry_out(
    app: Application, started: _Started, data: bytes, decoded: DecodedImage, stages: Stages
) -> Detected | None:
    """The answer; None when another run was to pay for the same picture and failed."""
    job, image = started.job, started.image
    if started.balance is None:
        with app.hands.carry(image.id, in_hand_until(app, job, image)):
            if image.hold_id is None:
                _wait_for_payer(app, job, image)
                run_image(app, job, image)
            else:
                _store_picture(app, job, image, data)
                charge = run_image(app, job, image, terms=started.terms, decoded=decoded, stages=stages)
                if charge is not None:
                    return _charged(app, started, charge)
    with app.db.read() as session:
        image = session.get_one(JobImage, image.id)
        if image.error_code == FIRST_ATTEMPT_FAILED:
            return None
        return _read_answer(app, session, job, image, replayed=False, balance=started.balance)


def _charged(app: Application, started: _Started, charge: Charge) -> Detected:
    """What `_read_answer` would read, which this thread has just written."""
    job, image = started.job, started.image
    image.status = "charged"
    ResultCache(app.redis).put(
        job.account_id,
        image.charge_key,
        {"id": charge.result_id, "detections": charge.detections, "tiles_failed": charge.tiles_failed},
    )
    return Detected(
        job=job,
        image=image,
        price_version=started.terms.quote.price_version,
        detections=Detections.from_json(charge.detections),
        result_id=charge.result_id,
        receipt_id=charge.receipt_id,
        tiles_failed=charge.tiles_failed,
        amount_mt=charge.amount_mt,
        balance=charge.balance,
        replayed=False,
    )


def _store_picture(app: Application, job: Job, image: JobImage, data: bytes) -> None:
    # After the hold, so that what cannot be paid leaves nothing behind; before the charge, which shows the picture.
    try:
        app.blobs.put(job.account_id, data)
    except OSError as error:
        with app.db.write() as session:
            give_back(session, job, image, "failed", "internal", actor=ledger.SYSTEM)
        raise InferenceError("The picture could not be stored. Nothing was taken: try again.") from error


def _wait_for_payer(app: Application, job: Job, image: JobImage) -> None:
    deadline = time.monotonic() + time_limit_s(app, job, image)
    while time.monotonic() < deadline:
        with app.db.read() as session:
            if not jobs.is_paid_for_elsewhere(session, job.account_id, image.charge_key):
                return
        time.sleep(DUPLICATE_POLL_S)


def _read_answer(
    app: Application,
    session: Session,
    job: Job,
    image: JobImage,
    *,
    replayed: bool,
    balance: Balance | None = None,
) -> Detected:
    """The stored outcome of a run of one picture. Raises the failure that it ended in."""
    if not image.is_answered:
        raise _failure(image)
    result = _read_result(app, session, job.account_id, image.charge_key)
    receipt_id = None
    if image.status == "charged":
        assert image.hold_id is not None
        receipt = receipts.find_receipt(session, job.account_id, image.hold_id)
        receipt_id = receipt.id if receipt is not None else None
        entry = next(one for one in ledger.list_hold_entries(session, image.hold_id) if one.kind == "capture")
        balance = Balance(entry.posted_after_mt, entry.held_after_mt)
    return Detected(
        job=job,
        image=image,
        price_version=session.get_one(Quote, job.quote_id).price_version,
        detections=Detections.from_json(result["detections"]),
        result_id=result["id"],
        tiles_failed=result["tiles_failed"],
        receipt_id=receipt_id,
        amount_mt=image.amount_mt if image.status == "charged" else 0,
        balance=balance or ledger.get_balance(session, job.account_id),
        replayed=replayed,
    )


def _read_result(app: Application, session: Session, account_id: str, charge_key: str) -> Mapping[str, Any]:
    """A stored result, from Redis where that repeats it: a result never changes."""
    cache = ResultCache(app.redis)
    found = cache.get(account_id, charge_key)
    if found is None or not {"id", "detections", "tiles_failed"} <= found.keys():
        stored = get_result(session, account_id, charge_key)
        assert stored is not None, "charged or free means that the result is stored"
        found = {"id": stored.id, "detections": stored.detections, "tiles_failed": stored.tiles_failed}
        cache.put(account_id, charge_key, found)
    return found


def _failure(image: JobImage) -> VisionMeterError:
    if image.error_code == EngineBusyError.code:
        return EngineBusyError("The service is busy: send it again in a few seconds. Nothing was taken.")
    if image.status in _NOT_DONE or image.error_code == EngineStoppedError.code:
        return EngineStoppedError("The service was restarted meanwhile: send it again. Nothing was taken.")
    return InferenceError("The model failed on this image. Nothing was taken: try again with a new idempotency key.")
