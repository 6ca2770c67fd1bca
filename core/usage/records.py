"""Writing what was measured: a record, and beside it the sums, times and classes of its quarter of an hour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sqlalchemy import Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel

from core.db import insert_row, table_of
from core.slots import slot_of
from core.usage.latency import lower_bound_ms
from core.usage.tables import (
    OUTCOMES,
    UsageCallerSlot,
    UsageClassSlot,
    UsageGivenBackSlot,
    UsageLatencySlot,
    UsageRecord,
    UsageSlot,
)

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
    # The rows above are locked now: below, nobody meets another in another order.
    for table, rows in _details(record):
        whose = {name: counted[name] for name in ("account_id", "model", "slot")} | {"actor": record.actor}
        connection.execute(_ADD[table, dialect], [{**whose, **row} for row in rows])
    for tell in _listeners:
        event.listen(session, "after_commit", partial(_tell, tell, record), once=True)


def _details(record: UsageRecord) -> Iterator[tuple[type[SQLModel], list[dict[str, Any]]]]:
    """What a record adds to the roll-ups that not every image has a part in."""
    if record.given_back_mt:
        yield UsageGivenBackSlot, [{"outcome": record.outcome, "amount_mt": record.given_back_mt}]
    if record.latency_ms is not None:
        yield UsageLatencySlot, [{"from_ms": lower_bound_ms(max(0, record.latency_ms)), "images": 1}]
    if found := [(name, count) for name, count in record.class_counts.items() if count > 0]:
        yield UsageClassSlot, [{"class_name": name, "objects": count} for name, count in found]


def _tell(tell: Callable[[UsageRecord], None], record: UsageRecord, _session: Session) -> None:
    tell(record)


def _counting(insert: Any, slots: Table) -> Any:
    """Insert a row of a roll-up, or add what is not in its key to the row that is there."""
    counted = insert(slots)
    key = set(slots.primary_key.columns.keys())
    sums = {name: column + counted.excluded[name] for name, column in slots.c.items() if name not in key}
    return counted.on_conflict_do_update(index_elements=slots.primary_key.columns, set_=sums)


_INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_COUNT = {dialect: _counting(insert, table_of(UsageSlot)) for dialect, insert in _INSERTS.items()}
_COUNT_CALLER = {dialect: _counting(insert, table_of(UsageCallerSlot)) for dialect, insert in _INSERTS.items()}
_ADD: dict[tuple[type[SQLModel], str], Any] = {
    (table, dialect): _counting(insert, table_of(table))
    for table in (UsageGivenBackSlot, UsageLatencySlot, UsageClassSlot)
    for dialect, insert in _INSERTS.items()
}
