"""What quotes and receipts remember of pictures' names, taken away. Every function runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import String, cast, delete
from sqlmodel import Session, col, select

from core.db import change_some
from core.pricing.tables import Quote, Receipt


def list_unrun(session: Session, account_id: str, *, limit: int) -> Sequence[str]:
    """Some of an account's quotes that nobody has run."""
    query = select(Quote.id).where(Quote.account_id == account_id, col(Quote.ran_at).is_(None))
    return session.exec(query.limit(limit)).all()


def remove_unrun(session: Session, quote_ids: Sequence[str]) -> None:
    """Remove quotes, but for those that were run meanwhile."""
    session.execute(delete(Quote).where(col(Quote.id).in_(quote_ids), col(Quote.ran_at).is_(None)))


def forget_lines(session: Session, account_id: str, *, limit: int) -> int:
    """Take the lines from some of an account's quotes that were run: what was charged stands in the receipts."""
    some = (
        select(Quote.id)
        .where(Quote.account_id == account_id, col(Quote.ran_at).is_not(None), cast(Quote.lines, String) != "[]")
        .limit(limit)
    )
    return change_some(session, Quote, some, lines=[])


def forget_image_names(session: Session, account_id: str, *, limit: int) -> int:
    """Take the name of the picture from some of an account's receipts; its fingerprint and its price stay."""
    some = select(Receipt.id).where(Receipt.account_id == account_id, Receipt.image_name != "").limit(limit)
    return change_some(session, Receipt, some, image_name="")
