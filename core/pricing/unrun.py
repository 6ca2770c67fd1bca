"""Quotes that nobody has run: what their pictures take on the disk, and until when they are kept."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, text, update
from sqlmodel import Session, col, select

from core.db import utcnow
from core.pricing.tables import Quote


@dataclass(frozen=True, slots=True)
class Stored:
    """What the pictures of an account's unrun quotes take on the disk, and when the first of those prices runs out."""

    disk_bytes: int
    first_expires_at: datetime | None


def sum_stored(session: Session, account_id: str) -> Stored:
    """What waits for an account, from an index of nothing else."""
    # SQLite takes a partial index only for its very words.
    query = select(func.coalesce(func.sum(col(Quote.stored_bytes)), 0), func.min(Quote.expires_at)).where(
        Quote.account_id == account_id, text("stored_bytes > 0")
    )
    disk_bytes, first_expires_at = session.exec(query).one()
    return Stored(int(disk_bytes), first_expires_at)


def mark_ran(session: Session, quote_ids: Collection[str]) -> None:
    """These quotes are run now, and their pictures wait no more."""
    session.connection().execute(
        update(Quote).where(col(Quote.id).in_(quote_ids)).values(ran_at=utcnow(), stored_bytes=0)
    )


def set_stored_bytes(session: Session, quote_id: str, disk_bytes: int) -> None:
    """What the pictures of an unrun quote take on the disk."""
    session.connection().execute(
        update(Quote).where(col(Quote.id) == quote_id, col(Quote.ran_at).is_(None)).values(stored_bytes=disk_bytes)
    )


def find_needed(session: Session, quote_ids: Collection[str], expired_before: datetime) -> set[str]:
    """Which of these quotes may still be run: neither run before, nor expired so long ago."""
    query = select(Quote.id).where(
        col(Quote.id).in_(quote_ids), col(Quote.ran_at).is_(None), col(Quote.expires_at) > expired_before
    )
    return set(session.exec(query).all())
