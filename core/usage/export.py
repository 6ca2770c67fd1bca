"""Usage records one by one, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from datetime import datetime

from sqlmodel import Session, col, select

from core.csv_text import plain_cell
from core.usage.queries import EVERYTHING, Selection
from core.usage.tables import UsageRecord

ROWS_PER_PIECE = 2000
# As in the CSV of the receipts. Last: who reads by column finds the others where they were.
_CALLER = ("caller", "caller_id")


def records_csv(
    session: Session,
    account_id: str,
    start: datetime,
    end: datetime,
    *,
    callers: Mapping[str, str],
    which: Selection = EVERYTHING,
) -> Iterator[str]:
    """The records of `start` ≤ t < `end` as CSV in pieces, oldest first.

    One line each under a header; times in UTC, tokens with three decimals. `callers` gives names to ids of API keys
    and people. Few records are in memory at once.
    """
    query = select(UsageRecord).where(
        UsageRecord.account_id == account_id, UsageRecord.created_at >= start, UsageRecord.created_at < end
    )
    for column, values in (
        (col(UsageRecord.model), which.models),
        (col(UsageRecord.actor), which.actors),
        (col(UsageRecord.outcome), which.outcomes),
    ):
        if values is not None:
            query = query.where(column.in_(values))
    query = query.order_by(col(UsageRecord.created_at), col(UsageRecord.id))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*_EMPTY.as_row(), *_CALLER], lineterminator="\n")
    writer.writeheader()
    yield _take(buffer)
    for records in session.exec(query.execution_options(yield_per=ROWS_PER_PIECE)).partitions():
        for record in records:
            whose = plain_cell(callers.get(record.actor, "")), record.actor
            writer.writerow(record.as_row() | dict(zip(_CALLER, whose, strict=True)))
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
