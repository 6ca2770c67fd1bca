"""Steps that the ledger's tests share."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session

from core.db import utcnow
from core.ledger import ledger
from core.ledger.tables import Entry


def expire_everything(session: Session, *, now: datetime | None = None) -> list[Entry]:
    """Sweep every account that has a due hold, as the services do."""
    now = now or utcnow()
    return [
        entry
        for account_id in ledger.due_accounts(session, now)
        for entry in ledger.expire_holds(session, account_id, now=now)
    ]
