"""The audit log as an operator reads it: who did what to what, newest first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session

from core.csv_text import plain_cell, to_csv
from core.identity import api_keys, audit_log, users
from core.identity.tables import AuditEvent, User
from core.services.application import Application
from core.services.top_up import require_operator

_COLUMNS = ("time_utc", "actor", "actor_id", "action", "subject", "account", "details", "request_id")


@dataclass(frozen=True, slots=True)
class TrailLine:
    """One event, and who its actor is: an address, a key's name, or the id of what is no longer there."""

    event: AuditEvent
    actor: str

    @property
    def details(self) -> str:
        """What else was written down, as one line."""
        return json.dumps(self.event.details, ensure_ascii=False) if self.event.details else ""


def list_trail(
    app: Application,
    operator: User,
    *,
    account_id: str | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int = 100,
) -> list[TrailLine]:
    """The newest events of everybody, or of one account; `before` (time, id) goes on. Raises `NotAllowedError`."""
    require_operator(operator)
    with app.db.read() as session:
        events = audit_log.list_events(session, account_id=account_id, before=before, limit=limit)
        names = _names(session, {event.actor for event in events})
    return [TrailLine(event, names.get(event.actor, event.actor)) for event in events]


def trail_csv(lines: Iterable[TrailLine]) -> str:
    """Events as CSV; times in UTC."""
    rows: list[Sequence[str]] = [_COLUMNS]
    for line in lines:
        event = line.event
        cells: Sequence[str] = (
            event.created_at.isoformat(timespec="seconds"),
            line.actor,
            event.actor,
            event.action,
            event.subject,
            event.account_id or "",
            line.details,
            event.request_id or "",
        )
        rows.append([plain_cell(cell) for cell in cells])
    return to_csv(rows)


def _names(session: Session, actors: set[str]) -> dict[str, str]:
    return {**users.names_of(session, actors), **api_keys.names_of(session, actors)}
