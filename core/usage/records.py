"""Writing what was measured: a record, and its hour's sums beside it."""

from __future__ import annotations

from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from core.usage.tables import UsageHour, UsageRecord


def add_record(session: Session, record: UsageRecord) -> None:
    """Store a record and count it in its hour, in the caller's transaction."""
    session.add(record)
    table = UsageHour.__table__  # type: ignore[attr-defined]  # SQLModel does not declare it
    insert = (sqlite if session.get_bind().dialect.name == "sqlite" else postgresql).insert(table)
    counted = insert.on_conflict_do_update(
        index_elements=table.primary_key.columns,
        set_={
            "images": table.c.images + insert.excluded.images,
            "amount_mt": table.c.amount_mt + insert.excluded.amount_mt,
        },
    )
    hour = record.created_at.replace(minute=0, second=0, microsecond=0)
    session.connection().execute(
        counted,
        {
            "account_id": record.account_id,
            "hour": hour,
            "model": record.model,
            "outcome": record.outcome,
            "images": 1,
            "amount_mt": record.amount_mt,
        },
    )
