"""Comparing the holds with the entries that tell of them, row by row and in sums, inside the database."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select
from sqlmodel import Session

from core.db import table_of
from core.ledger.posting import AMOUNT_MT_MAX
from core.ledger.tables import Entry, Hold

_entry, _hold = table_of(Entry), table_of(Hold)


@dataclass(frozen=True, slots=True)
class HoldTotals:
    """The number of an account's holds, and what is held, captured and refunded in them, in milli-tokens."""

    holds: int = 0
    held_mt: int = 0
    captured_mt: int = 0
    refunded_mt: int = 0


def load_hold_totals(session: Session, account_id: str | None) -> dict[str, HoldTotals]:
    """The totals of each account that has a hold."""
    held = case((_hold.c.status == "held", _hold.c.amount_mt), else_=0)
    # A sum of amounts beyond all reason would overflow; cut off they are as wrong.
    sums = [
        func.sum(case((amount > AMOUNT_MT_MAX, AMOUNT_MT_MAX), else_=amount))
        for amount in (held, _hold.c.captured_mt, _hold.c.refunded_mt)
    ]
    query = select(_hold.c.account_id, func.count(), *sums).group_by(_hold.c.account_id)
    if account_id is not None:
        query = query.where(_hold.c.account_id == account_id)
    return {row[0]: HoldTotals(*map(_whole, row[1:])) for row in session.connection().execute(query)}


def find_wrong_holds(session: Session, account_id: str | None) -> dict[str, int]:
    """For each account in which a hold contradicts its entries, the `seq` of the first of these.

    What was placed is the hold's amount; what ended it left it in that state, with that captured amount; its refunds
    add up to what it says. Ends without an entry are left to `first_hold_without_end`.
    """
    first: dict[str, int] = {}
    for query in (_contradicted_entries(), _contradicted_refunds(), _refunds_without_entry()):
        own = query if account_id is None else query.where(query.selected_columns[0] == account_id)
        for key, seq in session.connection().execute(own):
            if type(seq) is int:
                first[key] = min(seq, first.get(key, seq))
    return first


def first_hold_without_end(session: Session, account_id: str) -> int | None:
    """The `seq` of the first entry that placed a hold which has ended by no entry."""
    ending = _entry.alias()
    ended = select(1).where(ending.c.hold_id == _hold.c.id, ending.c.kind.in_(("capture", "release", "expire")))
    query = (
        select(func.min(_entry.c.seq))
        .join(_hold, _hold.c.id == _entry.c.hold_id)
        .where(_entry.c.account_id == account_id, _entry.c.kind == "hold", _hold.c.status != "held", ~ended.exists())
    )
    seq = session.connection().execute(query).scalar()
    return None if seq is None else int(seq)


def _contradicted_entries() -> Select[Any]:
    def ended(kind: str, status: str, captured: ColumnElement[Any]) -> ColumnElement[bool]:
        return and_(
            _entry.c.kind == kind,
            _hold.c.status == status,
            _entry.c.held_change_mt == -_hold.c.amount_mt,
            _entry.c.amount_mt == captured,
        )

    agrees = and_(
        _hold.c.account_id == _entry.c.account_id,
        or_(
            and_(_entry.c.kind == "hold", _entry.c.amount_mt == _hold.c.amount_mt),
            ended("capture", "captured", _hold.c.captured_mt),
            ended("release", "released", _hold.c.amount_mt),
            ended("expire", "expired", _hold.c.amount_mt),
        ),
    )
    return (
        select(_entry.c.account_id, func.min(_entry.c.seq))
        .outerjoin(_hold, _hold.c.id == _entry.c.hold_id)
        .where(_entry.c.kind.in_(("hold", "capture", "release", "expire")), func.coalesce(~agrees, True))
        .group_by(_entry.c.account_id)
    )


def _contradicted_refunds() -> Select[Any]:
    refund = _entry.alias()
    refunded_mt = (
        select(func.sum(refund.c.amount_mt))
        .where(refund.c.hold_id == _entry.c.hold_id, refund.c.kind == "refund")
        .scalar_subquery()
    )
    agrees = and_(_hold.c.account_id == _entry.c.account_id, _hold.c.refunded_mt == refunded_mt)
    return (
        select(_entry.c.account_id, func.min(_entry.c.seq))
        .outerjoin(_hold, _hold.c.id == _entry.c.hold_id)
        .where(_entry.c.kind == "refund", func.coalesce(~agrees, True))
        .group_by(_entry.c.account_id)
    )


def _refunds_without_entry() -> Select[Any]:
    captured, refund = _entry.alias(), _entry.alias()
    told = select(1).where(refund.c.hold_id == _hold.c.id, refund.c.kind == "refund")
    seq = select(captured.c.seq).where(captured.c.hold_id == _hold.c.id, captured.c.kind == "capture")
    return (
        select(_hold.c.account_id, func.min(seq.limit(1).scalar_subquery()))
        .where(_hold.c.refunded_mt != 0, ~told.exists())
        .group_by(_hold.c.account_id)
    )


def _whole(value: Any) -> Any:
    """A sum as PostgreSQL gives it (NUMERIC) as an integer; what is none in SQLite stays what it is."""
    return int(value) if isinstance(value, Decimal) else value
