"""The audit log: who did what to what. Written in the transaction of the deed, and never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from core.identity.tables import AuditEvent
from core.logs import current_request_id


def record_event(
    session: Session,
    *,
    actor: str,
    action: str,
    subject: str,
    account_id: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write one line, with the id of the request that it was done in, if any.

    `action` is `noun.verb` (`key.rotate`), `subject` the id of what it was done to. No secret, image or address
    belongs into `details`.
    """
    session.add(
        AuditEvent(
            account_id=account_id,
            actor=actor,
            action=action,
            subject=subject,
            details=dict(details or {}),
            request_id=current_request_id(),
        )
    )


def list_events(
    session: Session,
    *,
    account_id: str | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int = 100,
) -> Sequence[AuditEvent]:
    """The newest events of an account, or of all; `before` (time, id) goes on where a page ended."""
    query = select(AuditEvent)
    if account_id is not None:
        query = query.where(AuditEvent.account_id == account_id)
    if before is not None:
        moment, event_id = before
        query = query.where(
            (col(AuditEvent.created_at) < moment)
            | ((col(AuditEvent.created_at) == moment) & (col(AuditEvent.id) < event_id))
        )
    return session.exec(query.order_by(col(AuditEvent.created_at).desc(), col(AuditEvent.id).desc()).limit(limit)).all()
