"""Writing what was measured: a record, and the sums of its quarter of an hour beside it, also by caller."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from core.db import insert_row, table_of
from core.slots import slot_of
from core.usage.tables import OUTCOMES, UsageCallerSlot, UsageRecord, UsageSlot

_listeners: list[Callable[[UsageRecord], None]] = []


def on_record(tell: Callable[[UsageRecord], None]) -> None:
    """Tell this of every record of this process once it was committed, in the thread that did. It must not fail."""
    _listeners.append(tell)


def add_record(session: Session, record: UsageRecord) -> None:
    """Store a record and count it in its slots, in the caller's transaction.

    Call it last: the slots' rows stay locked until the commit, and whoever waits for them must hold nothing that the
    caller still needs.
    """
    insert_row(session, record)
    counted = {
        "account_id": record.account_id,
        "model": record.model,
        "slot": slot_of(record.created_at),
        **dict.fromkeys(OUTCOMES, 0),
        record.outcome: 1,
        "amount_mt": record.amount_mt,
    }
    connection, dialect = session.connection(), session.get_bind().dialect.name
    # In this order everywhere: who waits for the second row has the first, and nobody the other way round.
    connection.execute(_COUNT[dialect], counted)
    connection.execute(_COUNT_CALLER[dialect], {**counted, "actor": record.actor})
    for tell in _listeners:
        event.listen(session, "after_commit", partial(_tell, tell, record), once=True)


def _tell(tell: Callable[[UsageRecord], None], record: UsageRecord, _session: Session) -> None:
    tell(record)


def _counting(insert: Any, slots: Table) -> Any:
    counted = insert(slots)
    sums = {name: slots.c[name] + counted.excluded[name] for name in (*OUTCOMES, "amount_mt")}
    return counted.on_conflict_do_update(index_elements=slots.primary_key.columns, set_=sums)


_INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_COUNT = {dialect: _counting(insert, table_of(UsageSlot)) for dialect, insert in _INSERTS.items()}
_COUNT_CALLER = {dialect: _counting(insert, table_of(UsageCallerSlot)) for dialect, insert in _INSERTS.items()}
