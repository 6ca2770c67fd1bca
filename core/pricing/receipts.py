"""Finding receipts, page by page and newest first, and working one out step by step."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import tuple_
from sqlmodel import Session, col, select

from core.errors import ReceiptNotFoundError
from core.money import from_millitokens, round_tokens
from core.pricing.formula import charge_tokens, discount_tokens, exact_tokens
from core.pricing.tables import Receipt
from core.tiles import TilePlan, plan_tiles

_ID = re.compile(r"rcpt_[0-9a-f]+")


class Cursor(NamedTuple):
    """Where a page of receipts ended: the next one begins after it."""

    created_at: datetime
    id: str


@dataclass(frozen=True, slots=True)
class ReceiptFilter:
    """Which receipts are wanted: `start` ≤ t < `end`, aware; `text` is part of a picture's name or a whole id."""

    text: str = ""
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class Computation:
    """The price of a receipt from its own numbers, step by step, in tokens.

    `plan` is what was to run for its image, and `pixels` are those of all network inputs that did. `exact` is the
    formula's price and `discounted` that less the discount, every digit of both; `rounded` is rounded half up to 0.001,
    `unit` not below the minimum, and `amount` has the share of the batch's floor on top.
    """

    plan: TilePlan
    pixels: int
    exact: Decimal
    discounted: Decimal
    rounded: Decimal
    unit: Decimal
    amount: Decimal


def get_receipt(session: Session, account_id: str, receipt_id: str) -> Receipt:
    """A receipt of this account; `ReceiptNotFoundError` for anybody else's."""
    receipt = None
    # Whatever an address bar may hold: PostgreSQL takes no NUL in a text.
    if _ID.fullmatch(receipt_id):
        query = select(Receipt).where(Receipt.id == receipt_id, Receipt.account_id == account_id)
        receipt = session.exec(query).first()
    if receipt is None:
        raise ReceiptNotFoundError("There is no such receipt in your account.", receipt_id=receipt_id)
    return receipt


def find_receipt(session: Session, account_id: str, hold_id: str) -> Receipt | None:
    """The receipt of a hold, if it is this account's."""
    return session.exec(select(Receipt).where(Receipt.hold_id == hold_id, Receipt.account_id == account_id)).first()


def receipt_ids(session: Session, hold_ids: Collection[str]) -> dict[str, str]:
    """The receipts of some holds: receipt id by hold id."""
    found: dict[str, str] = {}
    ids = list(hold_ids)
    for start in range(0, len(ids), 500):
        some = select(Receipt.hold_id, Receipt.id).where(col(Receipt.hold_id).in_(ids[start : start + 500]))
        found.update(dict(session.exec(some).all()))
    return found


def list_receipts(
    session: Session, account_id: str, wanted: ReceiptFilter, *, after: Cursor | None = None, limit: int
) -> Sequence[Receipt]:
    """The account's receipts, newest first; `after` goes on where a page ended."""
    created_at, receipt_id = col(Receipt.created_at), col(Receipt.id)
    where = [col(Receipt.account_id) == account_id]
    if wanted.start is not None:
        where.append(created_at >= wanted.start)
    if wanted.end is not None:
        where.append(created_at < wanted.end)
    if text := wanted.text.replace("\x00", ""):
        # By its key first: looking through the names of millions of receipts takes a second.
        if _ID.fullmatch(text) and (found := session.exec(select(Receipt).where(*where, receipt_id == text)).all()):
            return found if after is None else []
        name = col(Receipt.image_name)
        # SQLite's LIKE takes letters of either case by itself, and four times as fast as with lower().
        is_sqlite = session.get_bind().dialect.name == "sqlite"
        where.append(name.contains(text, autoescape=True) if is_sqlite else name.icontains(text, autoescape=True))
    if after is not None:
        where.append(tuple_(created_at, receipt_id) < after)
    newest_first = created_at.desc(), receipt_id.desc()
    # The index has all that decides which receipts these are; only they themselves are read from the table.
    shown = select(receipt_id).where(*where).order_by(*newest_first).limit(limit)
    return session.exec(select(Receipt).where(receipt_id.in_(shown)).order_by(*newest_first)).all()


def compute_receipt(receipt: Receipt) -> Computation:
    """The price of a receipt computed afresh from the numbers on it, step by step.

    Only the image's own height and width, `img_size`, whether it is seen as a square, the tiles' size and how many
    failed, α, β, the minimum, the discount's percent and the share of the batch's floor are used, so a network input
    or an amount that was tampered with shows. Whether the percent and the share are right follows from the whole batch:
    `core.pricing.book.quote_agrees`.
    """
    plan = plan_tiles(
        receipt.image_height, receipt.image_width, receipt.img_size, receipt.tile_px, square=receipt.square
    )
    pixels = plan.pixels(tiles_failed=receipt.tiles_failed)
    exact = exact_tokens(pixels, alpha=receipt.alpha, beta=receipt.beta)
    discounted = discount_tokens(exact, receipt.discount_percent)
    unit = charge_tokens(exact, discount_percent=receipt.discount_percent, minimum=receipt.minimum)
    return Computation(
        plan=plan,
        pixels=pixels,
        exact=exact,
        discounted=discounted,
        rounded=round_tokens(discounted),
        unit=unit,
        amount=unit + from_millitokens(receipt.floor_mt),
    )
