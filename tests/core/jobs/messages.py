"""Webhook messages of accounts, without the pictures and models that would have made them."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import update
from sqlmodel import col, select

from core.db import Database, utcnow
from core.jobs.deliveries import add_delivery
from core.jobs.tables import Job, WebhookDelivery, WebhookTurn
from core.pricing.book import adopt_book, read_book
from core.pricing.tables import Quote


def add_messages(db: Database, account_id: str, url: str, count: int = 1) -> list[str]:
    """So many messages of an account that are due, as finished jobs leave them; gives their ids, oldest first."""
    now = utcnow()
    with db.write() as session:
        prices = read_book()
        adopt_book(session, prices)
        session.flush()
        for _ in range(count):
            quote = Quote(
                account_id=account_id,
                model="yolov8s",
                model_version="v",
                img_size=640,
                price_version=prices.version,
                total_mt=0,
                list_mt=0,
                lines=[],
                expires_at=now + timedelta(hours=1),
            )
            session.add(quote)
            session.flush()
            job = Job(
                account_id=account_id,
                quote_id=quote.id,
                actor="ann",
                model="yolov8s",
                model_version="v",
                img_size=640,
                status="finished",
                lease_expires_at=now,
            )
            session.add(job)
            session.flush()
            add_delivery(session, account_id, url, job_id=job.id)
    with db.read() as session:
        order = (col(WebhookDelivery.created_at), col(WebhookDelivery.id))
        found = select(WebhookDelivery.id).where(WebhookDelivery.account_id == account_id).order_by(*order)
        return list(session.exec(found).all())[-count:]


def end_pauses(db: Database) -> None:
    """Let every pause be over, and whoever has a message in hand be dead."""
    past = utcnow() - timedelta(days=1)
    with db.write() as session:
        session.execute(update(WebhookDelivery).values(next_attempt_at=past))
        session.execute(
            update(WebhookTurn).where(col(WebhookTurn.in_hand_until).is_not(None)).values(in_hand_until=past)
        )
