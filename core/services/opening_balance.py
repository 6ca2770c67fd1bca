"""The settled balance before a moment, when entries are numbered in one order and timed in almost the same one.

The sum over all earlier entries would read an account's whole history for each statement. Instead the entries near the
moment say between which two numbers the boundary lies; see ADR 0012.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select
from sqlmodel import Session, col

from core.errors import LedgerInconsistentError
from core.ledger.tables import Entry

# How far the orders of `seq` and `created_at` may differ before an account is read in full.
DISORDER_MAX = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Sum:
    """A number of entries, and what they add up to on the settled balance in milli-tokens."""

    entries: int
    posted_mt: int


def opening_and_closing_mt(
    session: Session, account_id: str, start: datetime, end: datetime, between: Sum
) -> tuple[int, int]:
    """The settled balance of the entries created before `start`, and of those created before `end`.

    `between` sums up the entries with `start` ≤ `created_at` < `end`; it must lead from the one to the other. Raises
    `LedgerInconsistentError` when the stored balances do not follow from the entries.
    """
    before, after = _sum_near(session, account_id, start), _sum_near(session, account_id, end)
    if before is None or after is None or after != _add(before, between):
        # A clock was wrong by more than a day, or the ledger is broken.
        _require_whole_chain(session, account_id)
        before = sum_entries(session, account_id, col(Entry.created_at) < start)
        after = sum_entries(session, account_id, col(Entry.created_at) < end)
        if after != _add(before, between):
            raise inconsistent(account_id)
    return before.posted_mt, after.posted_mt


def sum_entries(session: Session, account_id: str, *where: ColumnElement[bool]) -> Sum:
    """The sum over an account's entries that satisfy all conditions."""
    query = select(func.count(), func.coalesce(func.sum(col(Entry.posted_change_mt)), 0))
    entries, posted_mt = session.execute(query.where(col(Entry.account_id) == account_id, *where)).one()
    # PostgreSQL sums BIGINT as NUMERIC.
    return Sum(entries, int(posted_mt))


def _sum_near(session: Session, account_id: str, moment: datetime) -> Sum | None:
    """The sum over all entries created before a moment, from those created around it; None when that fails.

    Entries numbered below `first_after` were all created before the moment and those above `last_before` were not, as
    long as the two orders differ by at most `DISORDER_MAX`. Those between, as a rule none, are summed one by one.
    """
    own, seq, created_at = col(Entry.account_id) == account_id, col(Entry.seq), col(Entry.created_at)
    times = select(created_at).where(own).limit(1)
    latest = session.execute(times.where(created_at < moment).order_by(created_at.desc())).scalar()
    if latest is None:
        return Sum(0, 0)
    soonest = session.execute(times.where(created_at >= moment).order_by(created_at)).scalar()
    # The count keeps PostgreSQL from looking for the least `seq` along the index of `seq`, past years of entries.
    numbers = select(func.min(seq), func.max(seq), func.count()).where(own)
    near = numbers.where(created_at >= latest - DISORDER_MAX, created_at < moment)
    last_before = session.execute(near).one()[1]
    if soonest is None:
        last_before = session.execute(select(seq).where(own).order_by(seq.desc()).limit(1)).scalar_one()
        first_after = last_before + 1
    else:
        near = numbers.where(created_at >= moment, created_at <= soonest + DISORDER_MAX)
        first_after = session.execute(near).one()[0]
    mixed = sum_entries(session, account_id, seq.between(first_after, last_before), created_at < moment)
    if first_after == 1:
        return mixed
    posted_mt = session.execute(select(col(Entry.posted_after_mt)).where(own, seq == first_after - 1)).scalar()
    return None if posted_mt is None else _add(Sum(first_after - 1, posted_mt), mixed)


def _require_whole_chain(session: Session, account_id: str) -> None:
    """Raise `LedgerInconsistentError` unless each stored balance is the one before it plus the entry's change."""
    seq, posted_after_mt = col(Entry.seq), col(Entry.posted_after_mt)
    steps = (
        select(
            (seq - func.coalesce(func.lag(seq).over(order_by=seq), 0)).label("step"),
            (posted_after_mt - func.coalesce(func.lag(posted_after_mt).over(order_by=seq), 0)).label("difference_mt"),
            col(Entry.posted_change_mt).label("change_mt"),
        )
        .where(col(Entry.account_id) == account_id)
        .subquery()
    )
    broken = select(func.count()).where(or_(steps.c.step != 1, steps.c.difference_mt != steps.c.change_mt))
    if session.execute(broken).scalar_one():
        raise inconsistent(account_id)


def inconsistent(account_id: str) -> LedgerInconsistentError:
    """The error for an account whose entries do not lead to its balances."""
    return LedgerInconsistentError(
        "The entries of this account do not add up to its balance, so no statement was made: "
        "tell the operator, who can verify the ledger.",
        account_id=account_id,
    )


def _add(one: Sum, other: Sum) -> Sum:
    return Sum(one.entries + other.entries, one.posted_mt + other.posted_mt)
