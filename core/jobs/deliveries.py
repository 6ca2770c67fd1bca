"""Webhooks on their way: claimed for an attempt, delivered, or given up; each in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import update
from sqlmodel import Session, col, select

from core.db import insert_if_absent, utcnow
from core.jobs.tables import WebhookDelivery, WebhookSecret

# The pauses after each failed attempt: a day in all, then it is given up.
PAUSES = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800, 28_800))
ATTEMPTS_MAX = len(PAUSES) + 1

_OPEN = (col(WebhookDelivery.delivered_at).is_(None), col(WebhookDelivery.given_up_at).is_(None))


def claim_delivery(session: Session, now: datetime) -> WebhookDelivery | None:
    """The next message that is due, with its next attempt set already: a sender that dies is followed by another."""
    due = (
        select(WebhookDelivery)
        .where(col(WebhookDelivery.next_attempt_at) <= now, *_OPEN)
        .order_by(col(WebhookDelivery.next_attempt_at))
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    delivery = session.exec(due).first()
    if delivery is None:
        return None
    delivery.next_attempt_at = now + PAUSES[min(delivery.attempts, len(PAUSES) - 1)]
    delivery.attempts += 1
    session.add(delivery)
    session.flush()
    return delivery


def has_due_delivery(session: Session, now: datetime) -> bool:
    """Whether `claim_delivery` would find one; a read."""
    due = select(WebhookDelivery.id).where(col(WebhookDelivery.next_attempt_at) <= now, *_OPEN).limit(1)
    return session.exec(due).first() is not None


def end_attempt(session: Session, delivery: WebhookDelivery, status: int | None, *, refused: bool = False) -> str:
    """Write down what an attempt came to: `delivered`, `retried` or `given_up`.

    A 2xx delivers. An address that is not called any more, one that says 410 (gone), and a last attempt give up.
    """
    now = utcnow()
    delivered = status is not None and 200 <= status < 300
    given_up = not delivered and (refused or status == 410 or delivery.attempts >= ATTEMPTS_MAX)
    session.execute(
        update(WebhookDelivery)
        .where(col(WebhookDelivery.id) == delivery.id, *_OPEN)
        .values(
            last_status=status,
            delivered_at=now if delivered else None,
            given_up_at=now if given_up else None,
        )
    )
    return "delivered" if delivered else "given_up" if given_up else "retried"


def list_deliveries(session: Session, account_id: str, *, limit: int = 50) -> Sequence[WebhookDelivery]:
    """The account's newest messages."""
    return session.exec(
        select(WebhookDelivery)
        .where(WebhookDelivery.account_id == account_id)
        .order_by(col(WebhookDelivery.created_at).desc())
        .limit(limit)
    ).all()


def get_or_make_secret(session: Session, account_id: str, fresh: str) -> str:
    """The account's signing secret; `fresh` becomes it when there is none."""
    insert_if_absent(
        session,
        WebhookSecret,
        {"account_id": account_id, "secret": fresh, "created_at": utcnow()},
        returning="account_id",
    )
    return session.exec(select(WebhookSecret.secret).where(WebhookSecret.account_id == account_id)).one()
