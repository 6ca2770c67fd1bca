"""Moving tokens: top up, hold, capture, release, expire. Every function runs in the caller's transaction.

A move is one conditional `UPDATE … RETURNING` on the account (or on the hold first, when a hold ends), and
one entry (`core.ledger.posting`). The condition is in the statement, so no interleaving of transactions can pass
it twice. States of a hold: held → captured | released | expired, all final.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Select, Update, bindparam, text, update
from sqlalchemy import select as sa_select
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from core.db import UTCDateTime, new_id, row_of, table_of, utcnow
from core.errors import (
    AccountNotActiveError,
    ChargeKeyTakenError,
    HoldEndedError,
    InsufficientTokensError,
    InvalidAmountError,
)
from core.ledger.posting import (
    Move,
    lock_account,
    post,
    post_hold,
    require_amount,
    reserved,
    run,
    settled,
)
from core.ledger.tables import ENTRY_NOT_USAGE, HOLD_TAKES_KEY, Account, Entry, Hold

HOUSE_REVENUE = "house:revenue"
HOUSE_BONUS = "house:bonus"
SYSTEM = "system"
# Kinds of entries that every image makes; all others are rare.
USAGE_KINDS = frozenset({"hold", "capture", "release", "expire"})
# A statement takes at most 65,535 parameters on PostgreSQL.
HOLDS_PER_STATEMENT_MAX = 1000


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's balance in milli-tokens."""

    posted_mt: int
    held_mt: int

    @property
    def available_mt(self) -> int:
        """What can be spent: posted − held."""
        return self.posted_mt - self.held_mt


def open_account(session: Session, name: str, *, is_demo: bool = False) -> Account:
    """A new account with nothing in it."""
    account = Account(name=name, is_demo=is_demo)
    session.add(account)
    session.flush()
    return account


def get_balance(session: Session, account_id: str) -> Balance:
    """The stored balance. Raises `AccountNotActiveError` when there is no such account."""
    row = session.exec(select(Account.posted_mt, Account.held_mt).where(Account.id == account_id)).first()
    if row is None:
        raise AccountNotActiveError("There is no such account.")
    return Balance(*row)


def post_top_up(
    session: Session,
    account_id: str,
    amount_mt: int,
    *,
    source: str,
    actor: str,
    memo: str = "",
    at: datetime | None = None,
) -> Entry:
    """Credit tokens from a house account such as `house:vouchers`. `at` dates demo entries back."""
    require_amount(amount_mt)
    move = Move("top_up", source, settled(account_id), amount_mt, actor, memo, posted_change_mt=amount_mt, at=at)
    return post(session, account_id, move)


def post_bonus(session: Session, account_id: str, amount_mt: int, *, actor: str, memo: str) -> Entry:
    """Credit what comes on top of a top-up; `memo` is what the top-up's says, so that the two are found together."""
    require_amount(amount_mt)
    move = Move("bonus", HOUSE_BONUS, settled(account_id), amount_mt, actor, memo, posted_change_mt=amount_mt)
    return post(session, account_id, move)


def place_hold(
    session: Session,
    account_id: str,
    amount_mt: int,
    *,
    charge_key: str,
    lease_s: int,
    actor: str,
    memo: str = "",
    at: datetime | None = None,
    spend_day: date | None = None,
    budget_id: str | None = None,
) -> Hold:
    """Reserve an amount for `lease_s` seconds. It counts in the caps of `spend_day`, the day in UTC by default.

    Raises `ChargeKeyTakenError` when the same work is held or captured already (nothing was changed, the
    transaction can go on), and `AccountNotActiveError`, `InsufficientTokensError` or `SpendingCapError` when the
    account may not spend this (the caller's transaction must be rolled back, as the hold is in it).
    """
    require_amount(amount_mt)
    now = at or utcnow()
    values = {
        "id": new_id("hold"),
        "account_id": account_id,
        "amount_mt": amount_mt,
        "captured_mt": 0,
        "refunded_mt": 0,
        "status": "held",
        "charge_key": charge_key,
        "expires_at": now + timedelta(seconds=lease_s),
        "created_at": now,
        "ended_at": None,
        "spend_day": spend_day or now.astimezone(UTC).date(),
        "budget_id": budget_id,
    }
    hold = row_of(Hold, values)
    insert = _INSERT_HOLD[session.get_bind().dialect.name]
    if run(session, insert, {f"b_{name}": value for name, value in values.items()}) is None:
        get_balance(session, account_id)  # raises when there is no such account
        raise ChargeKeyTakenError("The same work is already being done or was done.", charge_key=charge_key)
    move = Move(
        "hold",
        settled(account_id),
        reserved(account_id),
        amount_mt,
        actor,
        memo,
        held_change_mt=amount_mt,
        hold_id=hold.id,
        spend_day=hold.spend_day,
        spend_change_mt=amount_mt,
        budget_id=budget_id,
        at=at,
    )
    post_hold(session, account_id, move)
    return hold


def capture_hold(
    session: Session, hold_id: str, amount_mt: int, *, actor: str, memo: str = "", at: datetime | None = None
) -> Entry:
    """Take up to the held amount; the rest goes back in the same step.

    Raises `HoldEndedError` when the hold ended before, `InvalidAmountError` when more is asked than is held.
    """
    require_amount(amount_mt)
    row = run(session, _CAPTURE, {"b_hold": hold_id, "b_amount": amount_mt, "b_now": at or utcnow()})
    if row is None:
        raise _explain_no_capture(session, hold_id, amount_mt)
    account_id, held_mt, spend_day, budget_id = row
    move = Move(
        "capture",
        reserved(account_id),
        HOUSE_REVENUE,
        amount_mt,
        actor,
        memo,
        posted_change_mt=-amount_mt,
        held_change_mt=-held_mt,
        hold_id=hold_id,
        spend_day=spend_day,
        spend_change_mt=amount_mt - held_mt,
        budget_id=budget_id,
        at=at,
    )
    return post(session, account_id, move)


def release_hold(session: Session, hold_id: str, *, actor: str, memo: str = "", at: datetime | None = None) -> Entry:
    """Give all of it back. Raises `HoldEndedError` when the hold ended before."""
    row = run(session, _RELEASE, {"b_hold": hold_id, "b_now": at or utcnow()})
    if row is None:
        raise HoldEndedError("This hold has ended already.", hold_id=hold_id)
    return _give_back(session, hold_id, row, kind="release", actor=actor, memo=memo, at=at)


def due_accounts(session: Session, now: datetime) -> Sequence[str]:
    """The accounts that have a hold whose lease ran out."""
    return session.exec(
        select(Hold.account_id)
        .where(Hold.status == "held", col(Hold.expires_at) <= now)
        .distinct()
        .order_by(Hold.account_id)
    ).all()


def expire_holds(session: Session, account_id: str, *, now: datetime | None = None, limit: int = 500) -> list[Entry]:
    """Give back the account's holds whose lease ran out, at most `limit`; safe to call from any number of nodes.

    One account in a transaction: sweepers of several nodes then never wait for one another in a circle.
    """
    now = now or utcnow()
    lock_account(session, account_id)
    due = session.exec(
        select(Hold.id)
        .where(Hold.account_id == account_id, Hold.status == "held", col(Hold.expires_at) <= now)
        .order_by(col(Hold.expires_at))
        .limit(limit)
    ).all()
    entries = []
    for hold_id in due:
        # The lease is looked at again: the runner may have renewed it since the hold was listed.
        row = run(session, _EXPIRE, {"b_hold": hold_id, "b_now": utcnow(), "b_due": now})
        if row is not None:
            entries.append(
                _give_back(session, hold_id, row, kind="expire", actor=SYSTEM, memo="lease ran out", at=None)
            )
    return entries


def renew_holds(session: Session, hold_ids: Sequence[str], *, lease_s: int) -> None:
    """Extend the leases of holds that are still held; ended ones are left alone.

    Holds that somebody is ending at this moment are passed over, so that many of them are never waited for in a circle.
    """
    expires_at = utcnow() + timedelta(seconds=lease_s)
    for start in range(0, len(hold_ids), HOLDS_PER_STATEMENT_MAX):
        held = (
            select(Hold.id)
            .where(col(Hold.id).in_(hold_ids[start : start + HOLDS_PER_STATEMENT_MAX]), col(Hold.status) == "held")
            .with_for_update(skip_locked=True)
        )
        session.execute(update(Hold).where(col(Hold.id).in_(held)).values(expires_at=expires_at))


def require_available(session: Session, account_id: str, amount_mt: int) -> None:
    """Say early and in one number that a batch is too dear. The holds themselves are what guards."""
    balance = get_balance(session, account_id)
    if balance.available_mt < amount_mt:
        raise InsufficientTokensError(required_mt=amount_mt, available_mt=balance.available_mt)


def find_taken_keys(session: Session, account_id: str, charge_keys: Collection[str]) -> set[str]:
    """Which charge keys are held or captured now, so that the same work costs nothing more."""
    taken: set[str] = set()
    keys = list(charge_keys)
    for start in range(0, len(keys), HOLDS_PER_STATEMENT_MAX):
        taken.update(
            session.exec(
                select(Hold.charge_key).where(
                    Hold.account_id == account_id,
                    col(Hold.charge_key).in_(keys[start : start + HOLDS_PER_STATEMENT_MAX]),
                    text(HOLD_TAKES_KEY),
                )
            ).all()
        )
    return taken


def list_entries(
    session: Session,
    account_id: str,
    *,
    kinds: Collection[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before_seq: int | None = None,
    limit: int = 10_000,
) -> Sequence[Entry]:
    """An account's entries, newest first, of some kinds or of all; `before_seq` goes on where a page ended.

    A period takes the numbers from the first entry at or after `since` to the one before the first at or after
    `until`: so each entry lies in exactly one of two adjacent periods, whatever the clocks of several machines say.
    """
    query = select(Entry).where(Entry.account_id == account_id)
    if since is not None:
        first_seq = _first_seq(session, account_id, since)
        if first_seq is None:
            return []
        query = query.where(col(Entry.seq) >= first_seq)
    if until is not None:
        end_seq = _first_seq(session, account_id, until)
        if end_seq is not None:
            query = query.where(col(Entry.seq) < end_seq)
    if kinds is not None:
        query = query.where(col(Entry.kind).in_(kinds))
        if not USAGE_KINDS & set(kinds):
            # Said so that the partial index of the rare kinds is used.
            query = query.where(text(ENTRY_NOT_USAGE))
    if before_seq is not None:
        query = query.where(col(Entry.seq) < before_seq)
    return session.exec(query.order_by(col(Entry.seq).desc()).limit(limit)).all()


def list_hold_entries(session: Session, hold_id: str) -> Sequence[Entry]:
    """Everything that happened to a hold, oldest first: held, ended, refunded."""
    return session.exec(select(Entry).where(Entry.hold_id == hold_id).order_by(col(Entry.seq))).all()


def find_actors(session: Session, account_id: str, seqs: Collection[int]) -> dict[int, str]:
    """Who caused some entries of an account, by their numbers."""
    query = select(Entry.seq, Entry.actor).where(Entry.account_id == account_id, col(Entry.seq).in_(seqs))
    return dict(session.exec(query).all())


def _first_seq(session: Session, account_id: str, moment: datetime) -> int | None:
    """The number of the first entry at or after a moment."""
    return session.exec(
        select(Entry.seq)
        .where(Entry.account_id == account_id, col(Entry.created_at) >= moment)
        .order_by(col(Entry.created_at), col(Entry.seq))
        .limit(1)
    ).first()


def _give_back(
    session: Session,
    hold_id: str,
    row: tuple[Any, ...],
    *,
    kind: str,
    actor: str,
    memo: str,
    at: datetime | None = None,
) -> Entry:
    account_id, amount_mt, spend_day, budget_id = row
    move = Move(
        kind,
        reserved(account_id),
        settled(account_id),
        amount_mt,
        actor,
        memo,
        held_change_mt=-amount_mt,
        hold_id=hold_id,
        spend_day=spend_day,
        spend_change_mt=-amount_mt,
        budget_id=budget_id,
        at=at,
    )
    return post(session, account_id, move)


def _explain_no_capture(session: Session, hold_id: str, amount_mt: int) -> Exception:
    hold = session.exec(select(Hold.status, Hold.amount_mt).where(Hold.id == hold_id)).first()
    if hold is not None and hold[0] == "held":
        return InvalidAmountError(f"{amount_mt} milli-tokens is more than the {hold[1]} that are held.")
    return HoldEndedError("This hold has ended already; nothing was taken.", hold_id=hold_id)


def _placing() -> Select[Any]:
    """The values of a new hold, if there is such an account, whose row is locked first (`posting.lock_account`)."""
    values = {column.name: bindparam(f"b_{column.name}", type_=column.type) for column in _hold.c}
    return (
        sa_select(*values.values())
        .select_from(_account)
        .where(_account.c.id == values["account_id"])
        .with_for_update(key_share=True)
    )


def _ending(status: str) -> Update:
    """The end of a hold, if it is still held once its account's row is locked (`posting.lock_account`)."""
    account_id = sa_select(_hold.c.account_id).where(_hold.c.id == bindparam("b_hold")).scalar_subquery()
    locked = sa_select(_account.c.id).where(_account.c.id == account_id).with_for_update(key_share=True)
    return (
        update(_hold)
        .where(
            _hold.c.id == bindparam("b_hold"), _hold.c.status == "held", _hold.c.account_id == locked.scalar_subquery()
        )
        .values(status=status, ended_at=bindparam("b_now", type_=UTCDateTime))
        .returning(_hold.c.account_id, _hold.c.amount_mt, _hold.c.spend_day, _hold.c.budget_id)
    )


_hold, _account = table_of(Hold), table_of(Account)
_INSERT_HOLD = {
    name: insert(_hold).from_select(list(_hold.c), _placing()).on_conflict_do_nothing().returning(_hold.c.id)
    for name, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}
_CAPTURE = (
    _ending("captured")
    .where(_hold.c.amount_mt >= bindparam("b_amount", type_=_hold.c.amount_mt.type))
    .values(captured_mt=bindparam("b_amount", type_=_hold.c.amount_mt.type))
)
_RELEASE = _ending("released")
_EXPIRE = _ending("expired").where(_hold.c.expires_at <= bindparam("b_due", type_=UTCDateTime))
