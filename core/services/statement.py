"""The statement of one account for one month: opening balance, lines, closing balance, as data and as CSV.

An entry belongs to the month that its `created_at` lies in, in the reader's time zone. The stored balances follow
`seq`, and with several machines and their clocks the two orders can differ by a little: see ADR 0012.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select, text
from sqlmodel import Session, col

from core.csv_text import plain_cell
from core.db import utcnow
from core.identity import api_keys, users
from core.identity.tables import User
from core.ledger.roll_up import KindSum, sum_by_day
from core.ledger.tables import ENTRY_NOT_USAGE, Account, Entry
from core.money import from_millitokens
from core.services.account_view import name_actor
from core.services.application import Application
from core.services.opening_balance import Sum, inconsistent, opening_and_closing_mt, sum_entries

# Beyond these, the entries of a day that are no charges are summed by kind, like charges.
SINGLE_LINES_MAX = 500
ROWS_PER_FETCH = 2000

CHARGE = "capture"
_KIND_ORDER = ("top_up", "bonus", CHARGE, "refund", "adjustment")
_COLUMNS = ("seq", "time_utc", "type", "tokens", "balance_after", "actor", "reference", "reason")


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One entry, or all entries of one kind on one day: then `at` is None and `count` says how many.

    Amounts in milli-tokens; `balance_mt` is the balance after this line; times in the statement's zone.
    """

    day: date
    at: datetime | None
    kind: str
    count: int
    amount_mt: int
    balance_mt: int
    reference: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class KindTotal:
    """How many entries of one kind the month has, and their sum in milli-tokens."""

    kind: str
    count: int
    amount_mt: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One month of an account: `start` ≤ t < `end`, aware, in the reader's zone; amounts in milli-tokens.

    `opening_mt` plus the amounts of `lines` is `closing_mt`: a statement that does not add up is never made.
    """

    account_id: str
    account_name: str
    is_demo: bool
    start: datetime
    end: datetime
    made_at: datetime
    opening_mt: int
    closing_mt: int
    lines: tuple[StatementLine, ...]
    totals: tuple[KindTotal, ...]

    @property
    def is_running(self) -> bool:
        """Whether the month was not over when the statement was made."""
        return self.made_at < self.end


def build_statement(app: Application, user: User, year: int, month: int, *, zone: tzinfo) -> Statement:
    """The month's statement of the user's own account.

    Charges are summed by day and stand after the day's other entries, so no balance in between is below what it
    was; top-ups, refunds and adjustments stand one by one. Raises `LedgerInconsistentError` when the entries do not
    lead from the opening to the closing balance, `ValueError` when there is no such month.
    """
    start, end = month_bounds(year, month, zone)
    with app.db.read() as session:
        account = session.get_one(Account, user.account_id)
        days = sum_by_day(session, account.id, start, end, zone)
        sums = [kind_sum for kinds in days.values() for kind_sum in kinds]
        between = Sum(sum(item.entries for item in sums), sum(item.posted_mt for item in sums))
        opening_mt, closing_mt = opening_and_closing_mt(session, account.id, start, end, between)
        lines = tuple(_lines(session, account.id, days, opening_mt, zone))
    if opening_mt + sum(line.amount_mt for line in lines) != closing_mt:
        raise inconsistent(account.id)
    return Statement(
        account_id=account.id,
        account_name=account.name,
        is_demo=account.is_demo,
        start=start,
        end=end,
        made_at=utcnow().astimezone(zone),
        opening_mt=opening_mt,
        closing_mt=closing_mt,
        lines=lines,
        totals=_totals(lines),
    )


def statement_csv(app: Application, user: User, year: int, month: int, *, zone: tzinfo) -> Iterator[str]:
    """The month as CSV in pieces: an opening line, each entry that changed the settled balance, a closing line.

    Times in UTC, amounts in tokens with three decimals; the opening and the closing line have only a balance. It
    keeps one snapshot of the database open until it is read to its end, so write it somewhere first and hand that to
    a slow reader. Raises as `build_statement` does, before the first piece.
    """
    start, end = month_bounds(year, month, zone)
    with app.db.read() as session:
        between = sum_entries(session, user.account_id, *_created_between(start, end))
        opening_mt, closing_mt = opening_and_closing_mt(session, user.account_id, start, end, between)
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        actors = {
            **users.actor_names(session, user.account_id),
            **api_keys.key_names(session, user.account_id),
        }
        writer.writerow(_COLUMNS)
        writer.writerow(_balance_row("opening", start, opening_mt))
        balance_mt = opening_mt
        for count, entry in enumerate(_stream(session, user.account_id, start, end), start=1):
            balance_mt += entry.posted_change_mt
            reference, reason = _reference_and_reason(entry)
            writer.writerow(
                (
                    entry.seq,
                    _utc(entry.created_at),
                    entry.kind,
                    from_millitokens(entry.posted_change_mt),
                    from_millitokens(balance_mt),
                    plain_cell(name_actor(entry.actor, actors)),
                    plain_cell(reference),
                    plain_cell(reason),
                )
            )
            if count % ROWS_PER_FETCH == 0:
                yield _take(buffer)
        if balance_mt != closing_mt:
            raise inconsistent(user.account_id)
    writer.writerow(_balance_row("closing", min(end, utcnow()), closing_mt))
    yield _take(buffer)


def statement_months(app: Application, user: User, *, zone: tzinfo) -> list[tuple[int, int]]:
    """Year and month of every statement there can be, newest first: from the account's first entry to now."""
    now = utcnow().astimezone(zone)
    with app.db.read() as session:
        first = session.execute(
            select(func.min(col(Entry.created_at))).where(col(Entry.account_id) == user.account_id)
        ).scalar()
    year, month = now.year, now.month
    months = [(year, month)]
    if first is not None:
        first = first.astimezone(zone)
        while (year, month) > (first.year, first.month):
            year, month = (year, month - 1) if month > 1 else (year - 1, 12)
            months.append((year, month))
    return months


def month_bounds(year: int, month: int, zone: tzinfo) -> tuple[datetime, datetime]:
    """The first moment of a month in a zone and of the next. Raises `ValueError` when there is no such month."""
    following = (year, month + 1) if month < 12 else (year + 1, 1)
    return datetime(year, month, 1, tzinfo=zone), datetime(*following, 1, tzinfo=zone)


def day_bounds(day: date, zone: tzinfo) -> tuple[datetime, datetime]:
    """The first moment of a day in a zone and of the next day."""
    following = day + timedelta(days=1)
    return datetime.combine(day, time.min, tzinfo=zone), datetime.combine(following, time.min, tzinfo=zone)


def _created_between(start: datetime, end: datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return col(Entry.created_at) >= start, col(Entry.created_at) < end


# Lines ---------------------------------------------------------------------------------------------


def _lines(
    session: Session,
    account_id: str,
    days: Mapping[date, Sequence[KindSum]],
    opening_mt: int,
    zone: tzinfo,
) -> Iterator[StatementLine]:
    balance_mt = opening_mt
    room = SINGLE_LINES_MAX
    for day, kinds in days.items():
        singles = sum(item.posting for item in kinds if item.kind != CHARGE)
        is_folded = singles > room
        if singles and not is_folded:
            room -= singles
            for entry in _stream(session, account_id, *day_bounds(day, zone), charges=False):
                balance_mt += entry.posted_change_mt
                at = entry.created_at.astimezone(zone)
                reference, reason = _reference_and_reason(entry)
                yield StatementLine(
                    day, at, entry.kind, 1, entry.posted_change_mt, balance_mt, reference=reference, reason=reason
                )
        # What came in stands before what went out.
        for item in sorted(kinds, key=lambda item: (-item.posted_mt, item.kind)):
            if item.posting and (item.kind == CHARGE or is_folded):
                balance_mt += item.posted_mt
                yield StatementLine(day, None, item.kind, item.posting, item.posted_mt, balance_mt)


def _totals(lines: Iterable[StatementLine]) -> tuple[KindTotal, ...]:
    counts: Counter[str] = Counter()
    amounts: Counter[str] = Counter()
    for line in lines:
        counts[line.kind] += line.count
        amounts[line.kind] += line.amount_mt
    known = [kind for kind in _KIND_ORDER if kind in counts]
    others = sorted(set(counts) - set(known))
    return tuple(KindTotal(kind, counts[kind], amounts[kind]) for kind in [*known, *others])


def _stream(
    session: Session, account_id: str, start: datetime, end: datetime, *, charges: bool = True
) -> Iterator[Row[Any]]:
    """The entries of a period that change the settled balance, in the order of their times, few in memory at once."""
    query = select(
        col(Entry.seq),
        col(Entry.created_at),
        col(Entry.kind),
        col(Entry.posted_change_mt),
        col(Entry.actor),
        col(Entry.hold_id),
        col(Entry.memo),
    ).where(col(Entry.account_id) == account_id, col(Entry.posted_change_mt) != 0, *_created_between(start, end))
    if not charges:
        # No other kind of usage changes the settled balance. Said so that the index of the rare kinds is used.
        query = query.where(text(ENTRY_NOT_USAGE))
    query = query.order_by(col(Entry.created_at), col(Entry.seq))
    yield from session.execute(query.execution_options(yield_per=ROWS_PER_FETCH))


def _reference_and_reason(entry: Row[Any]) -> tuple[str, str]:
    """What an entry refers to, and what was noted; a top-up and its bonus note the payment that they refer to."""
    if entry.hold_id is None and entry.kind in ("top_up", "bonus"):
        return entry.memo, ""
    return entry.hold_id or "", entry.memo


# CSV -----------------------------------------------------------------------------------------------


def _balance_row(kind: str, at: datetime, balance_mt: int) -> tuple[Any, ...]:
    return "", _utc(at), kind, "", from_millitokens(balance_mt), "", "", ""


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _take(buffer: io.StringIO) -> str:
    """The buffer's text, which is gone from it afterwards."""
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
