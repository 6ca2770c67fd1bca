"""One move of a balance and the entry that tells it, as prepared statements.

The account's row is changed by one conditional `UPDATE … RETURNING`: the balance, the spending of the day and of
the month, and the version that becomes the entry's `seq`. Nothing is read and then written.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Date,
    Executable,
    Table,
    Update,
    and_,
    bindparam,
    case,
    insert,
    or_,
    select,
    update,
)
from sqlmodel import Session

from core.db import row_of, table_of, utcnow
from core.errors import AccountNotActiveError, InsufficientTokensError, InvalidAmountError, SpendingCapError
from core.ledger.tables import Account, Budget, Entry, LowBalanceAlert

# Far above any balance, far below what BIGINT holds: sums cannot overflow on the way.
AMOUNT_MT_MAX = 10**15


@dataclass(frozen=True, slots=True)
class Move:
    """What one entry says. Amounts in milli-tokens; `spend_change_mt` counts in the day and month of `spend_day`."""

    kind: str
    debit: str
    credit: str
    amount_mt: int
    actor: str
    memo: str = ""
    posted_change_mt: int = 0
    held_change_mt: int = 0
    hold_id: str | None = None
    spend_day: date | None = None
    spend_change_mt: int = 0
    budget_id: str | None = None
    at: datetime | None = None


def settled(account_id: str) -> str:
    """The name of an account's settled side in entries."""
    return f"account:{account_id}"


def reserved(account_id: str) -> str:
    """The name of an account's held side in entries."""
    return f"account:{account_id}:held"


def require_amount(amount_mt: int) -> None:
    """Raise `InvalidAmountError` for an amount that is not above zero or beyond all reason."""
    if not 0 < amount_mt <= AMOUNT_MT_MAX:
        raise InvalidAmountError("An amount must be above zero and below a thousand billion tokens.")


def run(session: Session, statement: Executable, values: dict[str, Any]) -> tuple[Any, ...] | None:
    """Execute a prepared statement in the session's transaction; its row, if it returns one."""
    result = session.connection().execute(statement, values)
    row = result.first() if result.returns_rows else None
    return None if row is None else tuple(row)


def lock_account(session: Session, account_id: str) -> None:
    """Take the account's row first, holds after it, in every transaction: so two of them never wait in a circle.

    `FOR NO KEY UPDATE`, which PostgreSQL lets pass beside the foreign keys of other rows; SQLite has one writer
    and needs no lock.
    """
    if session.get_bind().dialect.name != "sqlite":
        run(session, _LOCK, {"b_account": account_id})


def post_hold(session: Session, account_id: str, move: Move) -> Entry:
    """Reserve: only for an active account, only what is available, only within the caps.

    Raises `AccountNotActiveError`, `InsufficientTokensError` or `SpendingCapError`; the transaction must then be
    rolled back.
    """
    values = _move_values(account_id, move)
    row = run(session, _PLACE[session.get_bind().dialect.name], values)
    if row is None:
        raise _explain_no_hold(session, account_id, move)
    if move.budget_id is not None:
        budget_values = {**_spend_values(move.budget_id, move), "b_account": account_id}
        if run(session, _PLACE_BUDGET, budget_values) is None:
            raise _explain_no_budget(session, account_id, move)
    return _write_entry(session, account_id, move, values, row)


def post_spend(session: Session, account_id: str, move: Move) -> Entry:
    """Take from what is available, whatever the account's state. Raises `InsufficientTokensError`."""
    # So that a refusal is explained by the balance that refused it; a hold has locked the account before.
    lock_account(session, account_id)
    values = _move_values(account_id, move)
    row = run(session, _SPEND[session.get_bind().dialect.name], values)
    if row is None:
        raise _explain_no_hold(session, account_id, move, even_frozen=True)
    return _write_entry(session, account_id, move, values, row)


def post(session: Session, account_id: str, move: Move) -> Entry:
    """Change a balance by what was decided before: a credit, or the end of a hold.

    Raises `AccountNotActiveError` when there is no such account.
    """
    values = _move_values(account_id, move)
    row = run(session, _POST[session.get_bind().dialect.name], values)
    if row is None:
        raise AccountNotActiveError("There is no such account.")
    if move.budget_id is not None and move.spend_change_mt:
        run(session, _GIVE_BACK_BUDGET, _spend_values(move.budget_id, move))
    return _write_entry(session, account_id, move, values, row)


def _write_entry(session: Session, account_id: str, move: Move, values: dict[str, Any], row: tuple[Any, ...]) -> Entry:
    """The entry of a move whose `row` the account gave back; PostgreSQL wrote it in the same statement."""
    posted_after_mt, held_after_mt, seq, alert_below_mt = row
    entry = {
        "account_id": account_id,
        "seq": seq,
        "posted_after_mt": posted_after_mt,
        "held_after_mt": held_after_mt,
        **{name: values[f"b_{name}"] for name in _TOLD},
    }
    if session.get_bind().dialect.name == "sqlite":
        run(session, _INSERT_ENTRY, entry)
    # A crossing is one entry with the threshold between its two balances, so there is one alert for each.
    if alert_below_mt is not None and posted_after_mt < alert_below_mt <= posted_after_mt - move.posted_change_mt:
        alert = {
            "account_id": account_id,
            "seq": seq,
            "threshold_mt": alert_below_mt,
            "posted_after_mt": posted_after_mt,
            "created_at": entry["created_at"],
        }
        run(session, _INSERT_ALERT, alert)
    return row_of(Entry, entry)


def month_start(day: date) -> date:
    """The first day of a day's month."""
    return day.replace(day=1)


def next_month_start(day: date) -> date:
    """The first day of the month after a day's."""
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def _move_values(account_id: str, move: Move) -> dict[str, Any]:
    """The parameters of a move's statement: what changes in the account, and what the entry tells of it."""
    return {
        **_spend_values(account_id, move),
        "b_kind": move.kind,
        "b_debit_account": move.debit,
        "b_credit_account": move.credit,
        "b_amount_mt": move.amount_mt,
        "b_posted_change_mt": move.posted_change_mt,
        "b_held_change_mt": move.held_change_mt,
        "b_hold_id": move.hold_id,
        "b_actor": move.actor,
        "b_memo": move.memo,
        "b_created_at": move.at or utcnow(),
    }


def _spend_values(row_id: str, move: Move) -> dict[str, Any]:
    day = move.spend_day
    return {
        "b_id": row_id,
        "b_spend": move.spend_change_mt,
        "b_day": day,
        "b_month": day and month_start(day),
        "b_next_month": day and next_month_start(day),
    }


def _explain_no_hold(session: Session, account_id: str, move: Move, *, even_frozen: bool = False) -> Exception:
    account = session.get(Account, account_id, populate_existing=True)
    if account is None or (account.status != "active" and not even_frozen):
        return AccountNotActiveError("This account cannot spend: ask the operator why it is frozen.")
    available_mt = account.posted_mt - account.held_mt
    if available_mt < move.amount_mt:
        return InsufficientTokensError(required_mt=move.amount_mt, available_mt=available_mt)
    return explain_cap(account, move.spend_day, move.amount_mt, scope="account")


def _explain_no_budget(session: Session, account_id: str, move: Move) -> Exception:
    budget = session.get(Budget, move.budget_id, populate_existing=True)
    if budget is None or budget.account_id != account_id:
        return AccountNotActiveError("The budget of this key does not exist any more: make a new key.")
    return explain_cap(budget, move.spend_day, move.amount_mt, scope="key")


def explain_cap(counters: Account | Budget, day: date | None, amount_mt: int, *, scope: str) -> SpendingCapError:
    """Which cap stands in the way of an amount on a day, and by how much."""
    day_spent_mt, month_spent_mt = spent_so_far(counters, day)
    if counters.day_cap_mt is not None and day_spent_mt + amount_mt > counters.day_cap_mt:
        return SpendingCapError(
            period="day", scope=scope, cap_mt=counters.day_cap_mt, spent_mt=day_spent_mt, required_mt=amount_mt
        )
    return SpendingCapError(
        period="month",
        scope=scope,
        cap_mt=counters.month_cap_mt or 0,
        spent_mt=month_spent_mt,
        required_mt=amount_mt,
    )


def spent_so_far(counters: Account | Budget, day: date | None) -> tuple[int, int]:
    """What counts against the caps on a day: milli-tokens of that day and of its month."""
    last = counters.spend_day
    if last is None or day is None:
        return 0, 0
    return (
        counters.day_spent_mt if last >= day else 0,
        counters.month_spent_mt if last >= month_start(day) else 0,
    )


_account, _budget, _entry = table_of(Account), table_of(Budget), table_of(Entry)
# The columns of an entry that the move itself says; the others are the account's after it.
_TOLD = (
    *("kind", "debit_account", "credit_account", "amount_mt", "posted_change_mt", "held_change_mt", "hold_id"),
    *("actor", "memo", "created_at"),
)
_DAY, _MONTH, _NEXT_MONTH = (bindparam(name, type_=Date) for name in ("b_day", "b_month", "b_next_month"))
_AMOUNT, _SPEND_CHANGE = bindparam("b_amount_mt", type_=BigInteger), bindparam("b_spend", type_=BigInteger)


def _counted(table: Table) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """The counters of day and month with the amount on top; a new day or month begins at zero.

    A node whose clock is behind at midnight counts in the newer day.
    """
    day_mt = case((table.c.spend_day >= _DAY, table.c.day_spent_mt), else_=0) + _SPEND_CHANGE
    month_mt = case((table.c.spend_day >= _MONTH, table.c.month_spent_mt), else_=0) + _SPEND_CHANGE
    return day_mt, month_mt


def _placing(table: Table) -> Update:
    day_mt, month_mt = _counted(table)
    return (
        update(table)
        .where(
            table.c.id == bindparam("b_id"),
            or_(table.c.day_cap_mt.is_(None), day_mt <= table.c.day_cap_mt),
            or_(table.c.month_cap_mt.is_(None), month_mt <= table.c.month_cap_mt),
        )
        .values(
            day_spent_mt=day_mt,
            month_spent_mt=month_mt,
            spend_day=case((table.c.spend_day >= _DAY, table.c.spend_day), else_=_DAY),
        )
    )


def _giving_back(table: Table) -> Update:
    """Only the period that it was counted in gets it back."""
    same_month = and_(table.c.spend_day >= _MONTH, table.c.spend_day < _NEXT_MONTH)
    return (
        update(table)
        .where(table.c.id == bindparam("b_id"))
        .values(
            day_spent_mt=table.c.day_spent_mt + case((table.c.spend_day == _DAY, _SPEND_CHANGE), else_=0),
            month_spent_mt=table.c.month_spent_mt + case((same_month, _SPEND_CHANGE), else_=0),
        )
    )


def _moving(statement: Update) -> dict[str, Executable]:
    """A move of the account, and on PostgreSQL its entry: one round trip less while the account's row is locked."""
    moving = statement.values(
        posted_mt=_account.c.posted_mt + bindparam("b_posted_change_mt", type_=BigInteger),
        held_mt=_account.c.held_mt + bindparam("b_held_change_mt", type_=BigInteger),
        version=_account.c.version + 1,
    ).returning(_account.c.posted_mt, _account.c.held_mt, _account.c.version, _account.c.alert_below_mt)
    moved = moving.returning(_account.c.id).cte("moved")
    entry = {
        "account_id": moved.c.id,
        "seq": moved.c.version,
        "posted_after_mt": moved.c.posted_mt,
        "held_after_mt": moved.c.held_mt,
        **{name: bindparam(f"b_{name}", type_=_entry.c[name].type) for name in _TOLD},
    }
    written = insert(_entry).from_select(list(entry), select(*entry.values())).cte("written")
    both = select(moved.c.posted_mt, moved.c.held_mt, moved.c.version, moved.c.alert_below_mt).add_cte(written)
    return {"sqlite": moving, "postgresql": both}


_IS_AVAILABLE = _account.c.posted_mt - _account.c.held_mt >= _AMOUNT
_LOCK = select(_account.c.id).where(_account.c.id == bindparam("b_account")).with_for_update(key_share=True)
_PLACE = _moving(_placing(_account).where(_account.c.status == "active", _IS_AVAILABLE))
_PLACE_BUDGET = _placing(_budget).where(_budget.c.account_id == bindparam("b_account")).returning(_budget.c.id)
_POST = _moving(_giving_back(_account))
_SPEND = _moving(_giving_back(_account).where(_IS_AVAILABLE))
_GIVE_BACK_BUDGET = _giving_back(_budget)
_INSERT_ENTRY = insert(_entry).inline()
_INSERT_ALERT = insert(table_of(LowBalanceAlert)).inline()
