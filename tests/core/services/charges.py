"""Charges without a model: hold, capture and receipt as a run writes them, priced by the book in force."""

from __future__ import annotations

import hashlib
from datetime import datetime

from core.db import utcnow
from core.identity.callers import Caller
from core.ledger import ledger
from core.pricing.book import current_prices
from core.pricing.tables import Quote, Receipt
from core.services.application import Application


def charge(
    app: Application, user: Caller, name: str, *, shape: tuple[int, int] = (64, 64), at: datetime | None = None
) -> Receipt:
    """One charged picture of `shape` (height, width) at 320 px, with its receipt."""
    at = at or utcnow()
    digest = hashlib.sha256(f"{name} {at}".encode()).hexdigest()
    with app.db.write() as session:
        prices = current_prices(session)
        (line,) = prices.price_batch([shape], 320, "yolov8s", charged=[True]).lines
        quote = Quote(
            account_id=user.account_id,
            price_version=prices.version,
            model="yolov8s",
            model_version="yolov8s-test",
            img_size=320,
            total_mt=line.amount_mt,
            list_mt=line.list_mt,
            lines=[],
            expires_at=at,
        )
        session.add(quote)
        hold = ledger.place_hold(
            session, user.account_id, line.amount_mt, charge_key=digest, lease_s=60, actor=user.id, at=at
        )
        entry = ledger.capture_hold(session, hold.id, line.amount_mt, actor=user.id, at=at)
        receipt = Receipt(
            account_id=user.account_id,
            hold_id=hold.id,
            quote_id=quote.id,
            price_version=prices.version,
            image_name=name,
            image_sha256=digest,
            image_height=shape[0],
            image_width=shape[1],
            input_height=line.plan.whole.height,
            input_width=line.plan.whole.width,
            img_size=320,
            model="yolov8s",
            model_version="yolov8s-test",
            alpha=prices.alpha,
            beta=prices.beta("yolov8s"),
            minimum=prices.minimum,
            amount_mt=line.amount_mt,
            entry_seq=entry.seq,
            created_at=at,
        )
        session.add(receipt)
    return receipt
