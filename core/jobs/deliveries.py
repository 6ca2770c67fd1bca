"""Webhooks on their way: claimed for an attempt, delivered, or given up; each in the caller's transaction.

Accounts take turns. Of an account one message is in hand at a time, whatever the number of senders and processes, and
accounts whose last attempts failed come last: an endpoint that hangs keeps one sender, and nobody else's messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, or_, update
from sqlalchemy import select as sa_select
from sqlmodel import Session, col, select

from core.db import insert_if_absent, utcnow
from core.errors import DeliveryNotFoundError
from core.jobs.tables import WebhookDelivery, WebhookSecret, WebhookTurn

# The pauses after each failed attempt: a day in all, then it is given up.
PAUSES = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800, 28_800))
ATTEMPTS_MAX = len(PAUSES) + 1
# An attempt ends within 10 s (core.fetch); who has not ended it by then has died.
IN_HAND_MAX = timedelta(seconds=30)
# An answer that takes longer counts as a failure where turns are given out: it, too, keeps a sender from the others.
SLOW = timedelta(seconds=2)

_OPEN = (col(WebhookDelivery.delivered_at).is_(None), col(WebhookDelivery.given_up_at).is_(None))
STATUSES = {
    "pending": and_(*_OPEN),
    "delivered": col(WebhookDelivery.delivered_at).is_not(None),
    "given_up": col(WebhookDelivery.given_up_at).is_not(None),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """A message in the hand of one sender, from a moment on."""

    delivery: WebhookDelivery
    begun_at: datetime


def add_delivery(
    session: Session, account_id: str, url: str, *, job_id: str | None = None, alert_seq: int | None = None
) -> None:
    """Let an address be told that a job is finished, or that the balance is low; it is due at once."""
    session.add(WebhookDelivery(account_id=account_id, job_id=job_id, alert_seq=alert_seq, url=url))
    insert_if_absent(session, WebhookTurn, {"account_id": account_id, "failures": 0}, returning="account_id")


def claim_delivery(session: Session, now: datetime, *, prompt_only: bool = False) -> Attempt | None:
    """The next message that is due of the account whose turn it is; None when there is none.

    Its next attempt is set already: a sender that dies is followed by another. `prompt_only` passes over accounts whose
    last attempt failed or was slow.
    """
    turn = session.exec(_turns(now, prompt_only).with_for_update(skip_locked=True)).first()
    if turn is None:
        return None
    delivery = session.exec(
        select(WebhookDelivery)
        .where(WebhookDelivery.account_id == turn.account_id, col(WebhookDelivery.next_attempt_at) <= now, *_OPEN)
        .order_by(col(WebhookDelivery.next_attempt_at))
        .limit(1)
        .with_for_update()
    ).first()
    if delivery is None:
        return None
    turn.in_hand_until = now + IN_HAND_MAX
    delivery.next_attempt_at = now + _pause(delivery.attempts)
    delivery.attempts += 1
    session.add_all((turn, delivery))
    session.flush()
    return Attempt(delivery, now)


def has_claimable_delivery(session: Session, now: datetime, *, prompt_only: bool = False) -> bool:
    """Whether `claim_delivery` would find one; a read."""
    # Most of the time nothing is due, which one look says, however many accounts there are.
    due = select(WebhookDelivery.id).where(col(WebhookDelivery.next_attempt_at) <= now, *_OPEN).limit(1)
    return session.exec(due).first() is not None and session.exec(_turns(now, prompt_only)).first() is not None


def end_attempt(session: Session, attempt: Attempt, status: int | None, *, refused: bool = False) -> str:
    """Write down what an attempt came to: `delivered`, `retried` or `given_up`; the account has its turn again.

    A 2xx delivers. An address that is not called any more, one that says 410 (gone), and a last attempt give up.
    """
    now, delivery = utcnow(), attempt.delivery
    delivered = status is not None and 200 <= status < 300
    given_up = not delivered and (refused or status == 410 or delivery.attempts >= ATTEMPTS_MAX)
    is_prompt = delivered and now - attempt.begun_at <= SLOW
    session.execute(
        update(WebhookTurn)
        # A sender that was away for so long that another took its place leaves that one's turn alone.
        .where(
            col(WebhookTurn.account_id) == delivery.account_id,
            col(WebhookTurn.in_hand_until) == attempt.begun_at + IN_HAND_MAX,
        )
        .values(in_hand_until=None, failures=0 if is_prompt else col(WebhookTurn.failures) + 1)
    )
    session.execute(
        update(WebhookDelivery)
        .where(col(WebhookDelivery.id) == delivery.id, *_OPEN)
        .values(
            last_status=status,
            delivered_at=now if delivered else None,
            given_up_at=now if given_up else None,
            next_attempt_at=now + _pause(delivery.attempts - 1),
        )
    )
    return "delivered" if delivered else "given_up" if given_up else "retried"


def reopen_delivery(session: Session, account_id: str, delivery_id: str) -> bool:
    """Let a message that was delivered or given up be due again at once, its attempts begun anew.

    False when it is still on its way: nothing changes.
    """
    reopened = session.execute(
        update(WebhookDelivery)
        .where(
            col(WebhookDelivery.id) == delivery_id,
            col(WebhookDelivery.account_id) == account_id,
            or_(STATUSES["delivered"], STATUSES["given_up"]),
        )
        .values(attempts=0, next_attempt_at=utcnow(), delivered_at=None, given_up_at=None)
        .returning(col(WebhookDelivery.id))
    ).first()
    return reopened is not None


def get_delivery(session: Session, account_id: str, delivery_id: str) -> WebhookDelivery:
    """A message of this account. Raises `DeliveryNotFoundError`."""
    delivery = session.exec(
        select(WebhookDelivery).where(WebhookDelivery.id == delivery_id, WebhookDelivery.account_id == account_id)
    ).first()
    if delivery is None:
        raise DeliveryNotFoundError("There is no such webhook message in your account.", delivery_id=delivery_id[:80])
    return delivery


def list_deliveries(
    session: Session,
    account_id: str,
    *,
    status: str | None = None,
    limit: int = 50,
    before: tuple[datetime, str] | None = None,
) -> Sequence[WebhookDelivery]:
    """The account's messages, newest first, of one of `STATUSES` or all; `before` (time, id) goes on after a page."""
    query = select(WebhookDelivery).where(WebhookDelivery.account_id == account_id)
    if status is not None:
        query = query.where(STATUSES[status])
    created_at, delivery_id = col(WebhookDelivery.created_at), col(WebhookDelivery.id)
    if before is not None:
        moment, last_id = before
        query = query.where(
            created_at <= moment, or_(created_at < moment, and_(created_at == moment, delivery_id < last_id))
        )
    return session.exec(query.order_by(created_at.desc(), delivery_id.desc()).limit(limit)).all()


def get_or_make_secret(session: Session, account_id: str, fresh: str) -> str:
    """The account's signing secret; `fresh` becomes it when there is none."""
    insert_if_absent(
        session,
        WebhookSecret,
        {"account_id": account_id, "secret": fresh, "created_at": utcnow()},
        returning="account_id",
    )
    return session.exec(select(WebhookSecret.secret).where(WebhookSecret.account_id == account_id)).one()


def replace_secret(session: Session, account_id: str, fresh: str) -> bool:
    """Sign with another secret from now on; False where the account has none, and gets one when it is needed."""
    replaced = update(WebhookSecret).where(col(WebhookSecret.account_id) == account_id).values(secret=fresh)
    return session.execute(replaced.returning(col(WebhookSecret.account_id))).first() is not None


def _turns(now: datetime, prompt_only: bool) -> Any:
    """The accounts that have a message due and none in hand: the fewest failures first, then who waits longest."""
    next_due = (
        sa_select(func.min(WebhookDelivery.next_attempt_at))
        .where(col(WebhookDelivery.account_id) == col(WebhookTurn.account_id), *_OPEN)
        .scalar_subquery()
    )
    free = or_(col(WebhookTurn.in_hand_until).is_(None), col(WebhookTurn.in_hand_until) <= now)
    turns = select(WebhookTurn).where(free, next_due <= now)
    if prompt_only:
        turns = turns.where(col(WebhookTurn.failures) == 0)
    return turns.order_by(col(WebhookTurn.failures), next_due).limit(1)


def _pause(attempts_before: int) -> timedelta:
    return PAUSES[min(attempts_before, len(PAUSES) - 1)]
