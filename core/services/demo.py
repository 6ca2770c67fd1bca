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
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import update
from sqlmodel import Session, col

from core.config import settings
from core.db import Database, utcnow
from core.errors import VisionMeterError
from core.identity import users
from core.identity.tables import User
from core.ledger import ledger
from core.ledger.verify import Verification, verify_ledger
from core.money import format_tokens
from core.pricing.book import Prices, adopt_book, current_prices, read_book
from core.usage.tables import UsageRecord

EMAIL = "demo@example.com"
NAME = "Demo customer"
SOURCE = "house:demo"
MEMO = "demo"
MODEL_VERSION = "demo"
SEED = 20_240_229
DAYS = 31
TOP_UP_MT = 400_000
# Credited again as soon as less than this is left.
LOW_BALANCE_MT = 60_000

# Images on a Monday … Sunday, and the share of each hour of a working day (UTC).
_IMAGES_BY_WEEKDAY = (58, 64, 61, 66, 52, 17, 11)
_HOURS = tuple(range(24))
_HOUR_WEIGHTS = (1, 1, 1, 1, 1, 2, 5, 12, 20, 24, 22, 15, 12, 19, 23, 21, 16, 10, 6, 4, 3, 2, 2, 1)
# Camera formats, width × height in pixels.
_FORMATS = ((1920, 1080), (1280, 720), (640, 640), (4000, 3000), (1080, 1920))
_FORMAT_WEIGHTS = (40, 20, 20, 12, 8)
_OUTCOMES = ("charged", "free", "failed", "cancelled")
_OUTCOME_WEIGHTS = (90, 7, 2, 1)


@dataclass(frozen=True, slots=True)
class _Work:
    """One kind of work the demo customer does: how often, and how long it takes per megapixel of input."""

    model: str
    img_size: int
    weight: int
    ms_per_megapixel: int
    classes: tuple[tuple[str, float], ...]


_STREET = (("person", 2.4), ("car", 3.1), ("bicycle", 0.5), ("bus", 0.2), ("truck", 0.4))
_WORK = (
    _Work("yolov8s-fall", 640, 52, 210, (("Normal", 1.9), ("Fall", 0.12))),
    _Work("yolov8n", 640, 33, 90, _STREET),
    _Work("yolov8l", 960, 15, 900, _STREET),
)


@dataclass(frozen=True, slots=True)
class Demo:
    """What was made. `password` is None for nobody: it is new at every run and shown once."""

    email: str
    password: str
    is_new: bool
    account_id: str
    images: int
    verification: Verification


def fill(db: Database, *, now: datetime | None = None, seed: int = SEED) -> Demo:
    """Make the example customer with its month of history up to `now`; if it is there, only a new password.

    The same seed and the same `now` give the same history. Raises `EmailTakenError` when the demo's address
    belongs to somebody who is no demo customer.
    """
    password = secrets.token_urlsafe(12)
    password_digest = users.hash_password(password)
    with db.write() as session:
        adopt_book(session, read_book(), note="The published list price.")
        user = users.find_user(session, EMAIL)
        is_new = user is None
        images = 0
        if user is None:
            user = _add_customer(session, password_digest)
            images = _write_history(session, user, now or utcnow(), random.Random(seed))
        else:
            _require_demo(session, user)
            session.execute(
                update(User).where(col(User.id) == user.id).values(password_digest=password_digest)
            )
    with db.read() as session:
        return Demo(
            EMAIL, password, is_new, user.account_id, images, verify_ledger(session, user.account_id)
        )


def _add_customer(session: Session, password_digest: str) -> User:
    account = ledger.open_account(session, NAME, is_demo=True)
    return users.add_user(
        session, account_id=account.id, email=EMAIL, password_digest=password_digest, role="owner"
    )
