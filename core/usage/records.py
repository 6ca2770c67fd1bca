"""Writing what was measured: a record, and the sums of its quarter of an hour beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from core.db import insert_row, table_of
from core.slots import slot_of
from core.usage.tables import OUTCOMES, UsageRecord, UsageSlot

_listeners: list[Callable[[UsageRecord], None]] = []


def on_record(tell: Callable[[UsageRecord], None]) -> None:
    """Tell this of every record of this process once it was committed, in the thread that did. It must not fail."""
    _listeners.append(tell)


def add_record(session: Session, record: UsageRecord) -> None:
    """Store a record and count it in its slot, in the caller's transaction.

    Call it last: the slot's row stays locked until the commit, and whoever waits for it must hold nothing that the
    caller still needs.
    """
    insert_row(session, record)
    session.connection().execute(
        _COUNT[session.get_bind().dialect.name],
        {
            "account_id": record.account_id,
            "model": record.model,
            "slot": slot_of(record.created_at),
            **dict.fromkeys(OUTCOMES, 0),
            record.outcome: 1,
            "amount_mt": record.amount_mt,
        },
    )
    for tell in _listeners:
        event.listen(session, "after_commit", partial(_tell, tell, record), once=True)


def _tell(tell: Callable[[UsageRecord], None], record: UsageRecord, _session: Session) -> None:
    tell(record)


def _counting(insert: Any) -> Any:
    counted = insert(_slot)
    sums = {name: _slot.c[name] + counted.excluded[name] for name in (*OUTCOMES, "amount_mt")}
    return counted.on_conflict_do_update(index_elements=_slot.primary_key.columns, set_=sums)


_slot = table_of(UsageSlot)
_COUNT = {"sqlite": _counting(sqlite.insert), "postgresql": _counting(postgresql.insert)}
