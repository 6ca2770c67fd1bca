"""Sums of an account's entries by quarter of an hour and kind, written behind the commit, and read with what is newer.

A month of a heavy account has millions of entries. No move of a balance pays for these sums: the keeper writes them
some seconds later, and whoever reads them adds the entries that they do not hold yet. So they are exact at any moment,
whether the keeper is on time, late, or does not run at all; late only costs the reader time. See ADR 0014.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, String, cast, func, select, type_coerce
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from core.db import one_at_a_time, table_of
from core.ledger.tables import Account, Entry, EntrySlot, RollUp
from core.slots import SLOT_S, SLOTS_A_DAY, Span, day_of, find_spans

ENTRIES_PER_TRANSACTION_MAX = 5000
FEW_ENTRIES = 20_000


@dataclass(frozen=True, slots=True)
class KindSum:
    """The entries of one kind on one day; `posting` of them changed the settled balance, by `posted_mt` in all."""

    kind: str
    entries: int
    posting: int
    posted_mt: int


def behind_accounts(session: Session, *, after: str = "", limit: int = 1000) -> Sequence[str]:
    """Accounts with entries that are in no slot yet, by id; `after` goes on where the last call ended."""
    rows = session.connection().execute(
        select(_account.c.id)
        .join(_roll_up, _roll_up.c.account_id == _account.c.id, isouter=True)
        .where(_account.c.id > after, _account.c.version > func.coalesce(_roll_up.c.seq, 0))
        .order_by(_account.c.id)
        .limit(limit)
    )
    return [row[0] for row in rows]


def roll_up_entries(session: Session, account_id: str, *, limit: int = ENTRIES_PER_TRANSACTION_MAX) -> int:
    """Sum the account's next committed entries, at most `limit`, into their slots; gives how many.

    Any number of nodes may call it: one after the other continues.
    """
    one_at_a_time(session, f"roll up {account_id}")
    connection, dialect = session.connection(), session.get_bind().dialect.name
    insert: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    done = _get_seq(session, account_id)
    own = _entry.c.account_id == account_id
    last = connection.execute(select(func.max(_entry.c.seq)).where(own, _entry.c.seq <= done + limit)).scalar()
    if last is None or last <= done:
        return 0
    slot = _slot_of_entry(dialect)
    # A time that is none can only come from outside: its entry must not hold up the others.
    known_slot = func.coalesce(slot, 0)
    sums = (
        select(_entry.c.account_id, known_slot, _entry.c.kind, *_SUMS)
        .where(own, _entry.c.seq > done, _entry.c.seq <= last)
        .group_by(_entry.c.account_id, known_slot, _entry.c.kind)
    )
    added = insert(_entry_slot).from_select(list(_entry_slot.c), sums)
    amounts = {name: _entry_slot.c[name] + added.excluded[name] for name in _SUM_NAMES}
    connection.execute(added.on_conflict_do_update(index_elements=_entry_slot.primary_key.columns, set_=amounts))
    head = insert(_roll_up).values(account_id=account_id, seq=last)
    connection.execute(head.on_conflict_do_update(index_elements=["account_id"], set_={"seq": last}))
    return int(last - done)


def sum_by_day(
    session: Session, account_id: str, start: datetime, end: datetime, zone: tzinfo
) -> Mapping[date, Sequence[KindSum]]:
    """The entries created in `start` ≤ t < `end`, by day of `zone` and kind; days without any are not there.

    Raises `ValueError` when the period begins or ends within a quarter of an hour.
    """
    done, dialect = _get_seq(session, account_id), session.get_bind().dialect.name
    newest = session.execute(select(_account.c.version).where(_account.c.id == account_id)).scalar() or 0
    # As a rule a few are newer, and their numbers find them; of very many, their times find those of the period.
    by_time = (_entry.c.created_at >= start, _entry.c.created_at < end) if newest - done > FEW_ENTRIES else ()
    found: dict[tuple[date, str], tuple[int, int, int]] = {}
    for span in find_spans(start, end, zone):
        for query in (_in_slots(account_id, span), _newer(account_id, span, done, dialect).where(*by_time)):
            for number, kind, *sums in session.execute(query):
                # A day on which the clocks change lies in two spans. PostgreSQL sums BIGINT as NUMERIC.
                key = day_of(number), kind
                entries, posting, posted_mt = found.get(key, (0, 0, 0))
                found[key] = entries + int(sums[0]), posting + int(sums[1]), posted_mt + int(sums[2])
    days: dict[date, list[KindSum]] = defaultdict(list)
    for day, kind in sorted(found):
        days[day].append(KindSum(kind, *found[day, kind]))
    return days


def _in_slots(account_id: str, span: Span) -> Select[Any]:
    """Number of the day, kind and sums of the entries that are in slots."""
    slot, kind = _entry_slot.c.slot, _entry_slot.c.kind
    number = (slot + span.shift) // SLOTS_A_DAY
    return (
        select(number, kind, *(func.sum(_entry_slot.c[name]) for name in _SUM_NAMES))
        .where(_entry_slot.c.account_id == account_id, slot >= span.start, slot < span.end)
        .group_by(number, kind)
    )


def _newer(account_id: str, span: Span, done: int, dialect: str) -> Select[Any]:
    """The same of the entries after `done`, which are in no slot yet."""
    slot, kind = _slot_of_entry(dialect), _entry.c.kind
    number = (slot + span.shift) // SLOTS_A_DAY
    return (
        select(number, kind, *_SUMS)
        .where(_entry.c.account_id == account_id, _entry.c.seq > done, slot >= span.start, slot < span.end)
        .group_by(number, kind)
    )


def _get_seq(session: Session, account_id: str) -> int:
    """The last entry of an account that is in a slot; 0 when none is."""
    row = session.execute(select(_roll_up.c.seq).where(_roll_up.c.account_id == account_id)).first()
    return 0 if row is None else int(row[0])


def _slot_of_entry(dialect: str) -> ColumnElement[int]:
    """The slot of an entry's `created_at`, worked out by the database."""
    if dialect == "sqlite":
        # Without the fraction: SQLite rounds it to milliseconds, and so into the next slot.
        seconds = func.strftime("%s", func.substr(type_coerce(_entry.c.created_at, String), 1, 19))
    else:
        seconds = func.floor(func.extract("epoch", _entry.c.created_at))
    return cast(seconds, BigInteger) // SLOT_S


_account, _entry, _entry_slot, _roll_up = (table_of(model) for model in (Account, Entry, EntrySlot, RollUp))
_SUM_NAMES = ("entries", "posting", "posted_mt")
_SUMS = (
    func.count(),
    func.count(func.nullif(_entry.c.posted_change_mt, 0)),
    func.sum(_entry.c.posted_change_mt),
)
