"""`python -m core.services.demo`: an example customer with a month of believable history, marked as demo data.

Every token moves through the ledger's own functions with a date in the past, so entries, holds and balances
are as they would have become, and the ledger still verifies. Jobs, pictures, results and receipts are not
made up: nothing was run.
"""

from __future__ import annotations

import hashlib
import random
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, update
from sqlmodel import Session, col, select

from core.config import settings
from core.db import Database, utcnow
from core.errors import EmailTakenError, VisionMeterError
from core.identity import users
from core.identity.tables import User
from core.ledger import ledger
from core.ledger.tables import Account
from core.ledger.verify import Verification, verify_ledger
from core.money import format_tokens
from core.pricing.book import Prices, adopt_published, current_prices
from core.usage.records import add_record
from core.usage.tables import UsageRecord

EMAIL = "demo@example.com"
NAME = "Demo customer"
SOURCE = "house:demo"
MEMO = "demo"
MODEL_VERSION = "demo"
SEED = 20_240_229
DAYS = 28
TOP_UP_MT = 400_000
# Credited again as soon as less than this is left.
LOW_BALANCE_MT = 60_000

# Images on a Monday … Sunday, and how the hours of a day (UTC) share them.
_IMAGES_BY_WEEKDAY = (58, 64, 61, 66, 52, 17, 11)
_HOUR_WEIGHTS = (1, 1, 1, 1, 1, 2, 5, 12, 20, 24, 22, 15, 12, 19, 23, 21, 16, 10, 6, 4, 3, 2, 2, 1)
# Camera formats as width × height in pixels, and how often each is seen.
_FORMATS = ((1920, 1080), (1280, 720), (640, 640), (4000, 3000), (1080, 1920))
_FORMAT_WEIGHTS = (40, 20, 20, 12, 8)
_OUTCOMES = ("charged", "free", "failed", "cancelled")
_OUTCOME_WEIGHTS = (90, 7, 2, 1)
_RUN_IMAGES_MAX = 12


@dataclass(frozen=True, slots=True)
class _Work:
    """One kind of work: its share, its time per megapixel of network input, its classes with their mean counts."""

    model: str
    img_size: int
    share: int
    ms_per_megapixel: int
    classes: tuple[tuple[str, float], ...]


_STREET = (("person", 2.4), ("car", 3.1), ("bicycle", 0.5), ("bus", 0.2), ("truck", 0.4))
_WORK = (
    _Work("yolov8s-fall", 640, 52, 210, (("Normal", 1.9), ("Fall", 0.12))),
    _Work("yolov8n", 640, 33, 90, _STREET),
    _Work("yolov8l", 960, 15, 900, _STREET),
)


@dataclass(frozen=True, slots=True)
class _Image:
    """One image of a run. `price_mt` in milli-tokens; sides of the network input in pixels; times in ms."""

    input_height: int
    input_width: int
    price_mt: int
    outcome: str
    charge_key: str
    wait_ms: int
    model_ms: int
    class_counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Demo:
    """What is there now. The password is new at every run and shown once."""

    email: str
    password: str
    is_new: bool
    images: int
    spent_mt: int
    available_mt: int
    verification: Verification


def fill(db: Database, *, now: datetime | None = None, days: int = DAYS, seed: int = SEED) -> Demo:
    """Make the example customer with `days` of history up to `now`; if he is there, give him a new password.

    The same seed and the same `now` give the same amounts. Raises `EmailTakenError` when the address belongs to
    somebody who is no demo customer.
    """
    password = secrets.token_urlsafe(12)
    password_digest = users.hash_password(password, email=EMAIL)
    with db.write() as session:
        user = users.find_user(session, EMAIL)
        is_new = user is None
        if user is None:
            adopt_published(session)
            now = now or utcnow()
            user = _add_customer(session, password_digest, now - timedelta(days=days), now, random.Random(seed))
        else:
            _reset_password(session, user, password_digest)
    with db.read() as session:
        images, spent_mt = session.exec(
            select(func.count(), func.coalesce(func.sum(UsageRecord.amount_mt), 0)).where(
                UsageRecord.account_id == user.account_id, UsageRecord.model_version == MODEL_VERSION
            )
        ).one()
        return Demo(
            email=EMAIL,
            password=password,
            is_new=is_new,
            images=images,
            spent_mt=int(spent_mt),
            available_mt=ledger.get_balance(session, user.account_id).available_mt,
            verification=verify_ledger(session, user.account_id),
        )


def _reset_password(session: Session, user: User, password_digest: str) -> None:
    if not session.get_one(Account, user.account_id).is_demo:
        raise EmailTakenError(f"{EMAIL} belongs to a customer who is no demo: nothing was changed.")
    session.execute(update(User).where(col(User.id) == user.id).values(password_digest=password_digest))


def _add_customer(session: Session, password_digest: str, start: datetime, now: datetime, rng: random.Random) -> User:
    account = ledger.open_account(session, NAME, is_demo=True)
    user = users.add_user(session, account_id=account.id, email=EMAIL, password_digest=password_digest, role="owner")
    account.created_at = user.created_at = start
    session.flush()
    prices = current_prices(session)
    clock = start
    for begins_at in _run_times(start, now, rng):
        work = rng.choices(_WORK, [work.share for work in _WORK])[0]
        images = [_make_image(prices, work, rng) for _ in range(rng.randint(1, _RUN_IMAGES_MAX))]
        ends_at = max(clock, begins_at) + timedelta(
            milliseconds=sum(image.wait_ms + image.model_ms for image in images)
        )
        if ends_at >= now:
            break
        clock = _book_run(session, user, work, images, max(clock, begins_at))
    return user


def _run_times(start: datetime, end: datetime, rng: random.Random) -> list[datetime]:
    """When runs begin between `start` and `end`, in order: few at night and at the weekend, slowly more."""
    times: list[datetime] = []
    midnight = start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    mean_images = (1 + _RUN_IMAGES_MAX) / 2
    days = (end - start).days
    for day in range(days + 1):
        date = midnight + timedelta(days=day)
        images = _IMAGES_BY_WEEKDAY[date.weekday()] * (0.8 + 0.4 * day / days) * rng.uniform(0.75, 1.25)
        for hour in rng.choices(range(24), _HOUR_WEIGHTS, k=max(1, round(images / mean_images))):
            times.append(date + timedelta(hours=hour, seconds=rng.uniform(0, 3600)))
    return sorted(time for time in times if start <= time < end)


def _make_image(prices: Prices, work: _Work, rng: random.Random) -> _Image:
    width, height = rng.choices(_FORMATS, _FORMAT_WEIGHTS)[0]
    plan, price_mt = prices.price_image(height, width, work.img_size, work.model)
    shape = plan.whole
    megapixels = shape.height * shape.width / 1e6
    counts = {name: sum(rng.random() < mean / 10 for _ in range(10)) for name, mean in work.classes}
    return _Image(
        input_height=shape.height,
        input_width=shape.width,
        price_mt=price_mt,
        outcome=rng.choices(_OUTCOMES, _OUTCOME_WEIGHTS)[0],
        charge_key=hashlib.sha256(f"demo|{rng.getrandbits(128)}".encode()).hexdigest(),
        wait_ms=round(rng.expovariate(1 / 40)),
        model_ms=max(1, round(work.ms_per_megapixel * megapixels * rng.lognormvariate(0, 0.18))),
        class_counts={name: count for name, count in sorted(counts.items(), key=lambda kv: -kv[1]) if count},
    )


def _book_run(session: Session, user: User, work: _Work, images: Sequence[_Image], at: datetime) -> datetime:
    """Hold the whole run at `at`, as a real one does, then end it image by image; gives the time of its end."""
    _top_up_if_low(session, user, at)
    holds = {
        image.charge_key: ledger.place_hold(
            session,
            user.account_id,
            image.price_mt,
            charge_key=image.charge_key,
            lease_s=3600,
            actor=user.id,
            memo=MEMO,
            at=at,
        ).id
        for image in images
        if image.outcome != "free"
    }
    for image in images:
        is_charged = image.outcome == "charged"
        if image.outcome != "free":
            at += timedelta(milliseconds=image.wait_ms + image.model_ms)
        if is_charged:
            ledger.capture_hold(session, holds[image.charge_key], image.price_mt, actor=user.id, memo=MEMO, at=at)
        elif image.charge_key in holds:
            ledger.release_hold(session, holds[image.charge_key], actor=ledger.SYSTEM, memo=MEMO, at=at)
        add_record(
            session,
            UsageRecord(
                account_id=user.account_id,
                actor=user.id,
                model=work.model,
                model_version=MODEL_VERSION,
                img_size=work.img_size,
                input_height=image.input_height,
                input_width=image.input_width,
                amount_mt=image.price_mt if is_charged else 0,
                given_back_mt=image.price_mt if image.outcome in ("failed", "cancelled") else 0,
                outcome=image.outcome,
                error_code="inference_failed" if image.outcome == "failed" else None,
                wait_ms=image.wait_ms if is_charged else None,
                model_ms=image.model_ms if is_charged else None,
                class_counts=image.class_counts if is_charged else {},
                created_at=at,
            ),
        )
    return at


def _top_up_if_low(session: Session, user: User, at: datetime) -> None:
    if ledger.get_balance(session, user.account_id).available_mt < LOW_BALANCE_MT:
        ledger.post_top_up(session, user.account_id, TOP_UP_MT, source=SOURCE, actor=user.id, memo=MEMO, at=at)


def main() -> int:
    """Entry point: fill the configured database and say how to look at it."""
    try:
        db = Database(settings().sqlalchemy_url)
        db.migrate()
        demo = fill(db)
    except VisionMeterError as error:
        print(error.message, file=sys.stderr)
        return 1
    if demo.is_new:
        print(f"Demo data: a customer with {demo.images:,} images in {DAYS} days; nothing of it was really run.")
    else:
        print("The demo customer was there already: his history is as it was, his password is new.")
    print(f"  spent      {format_tokens(demo.spent_mt)} tokens")
    print(f"  available  {format_tokens(demo.available_mt)} tokens")
    print(f"  ledger     {demo.verification.entries:,} entries, {'verified' if demo.verification.ok else 'WRONG'}")
    print(f"Sign in as {demo.email} with the password {demo.password}")
    for problem in demo.verification.problems:
        print(problem, file=sys.stderr)
    return 0 if demo.verification.ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
