"""Usage records one by one, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator
from datetime import datetime

from sqlmodel import Session, col, select

from core.usage.tables import UsageRecord

ROWS_PER_PIECE = 2000


def records_csv(
    session: Session, account_id: str, start: datetime, end: datetime, *, models: Collection[str] | None = None
) -> Iterator[str]:
    """The records of `start` ≤ t < `end` as CSV in pieces, oldest first, of some models or of all.

    One line each under a header; times in UTC, tokens with three decimals. Few records are in memory at once.
    """
    query = select(UsageRecord).where(
        UsageRecord.account_id == account_id, UsageRecord.created_at >= start, UsageRecord.created_at < end
    )
    if models is not None:
        query = query.where(col(UsageRecord.model).in_(models))
    query = query.order_by(col(UsageRecord.created_at), col(UsageRecord.id))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(_EMPTY.as_row()), lineterminator="\n")
    writer.writeheader()
    yield _take(buffer)
    for records in session.exec(query.execution_options(yield_per=ROWS_PER_PIECE)).partitions():
        writer.writerows(record.as_row() for record in records)
        yield _take(buffer)


def _take(buffer: io.StringIO) -> str:
    """The buffer's text, which is gone from it afterwards."""
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text


_EMPTY = UsageRecord(
    account_id="",
    actor="",
    model="",
    model_version="",
    img_size=0,
    input_height=0,
    input_width=0,
    amount_mt=0,
    outcome="charged",
)
