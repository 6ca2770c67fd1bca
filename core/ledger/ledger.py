"""Moving tokens: top up, hold, capture, release, expire. Every function runs in the caller's transaction.

A move is one conditional `UPDATE … RETURNING` on the account (or on the hold first, when a hold ends), and
one entry. Nothing is read and then written: the condition is in the statement, so no interleaving of
transactions can pass it twice. States of a hold: held → captured | released | expired, all final.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import update
from sqlmodel import Session, col, select

from core.db import insert_if_absent, utcnow
from core.errors import (
    AccountNotActiveError,
    ChargeKeyTakenError,
    HoldEndedError,
    InsufficientTokensError,
    InvalidAmountError,
)
from core.ledger.tables import Account, Entry, Hold

HOUSE_REVENUE = "house:revenue"
SYSTEM = "system"
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
    _require_positive(amount_mt)
    return _move(
        session,
        account_id,
        kind="top_up",
        debit=source,
        credit=_settled(account_id),
        amount_mt=amount_mt,
        posted_change_mt=amount_mt,
        held_change_mt=0,
        hold_id=None,
        actor=actor,
        memo=memo,
        at=at,
    )


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
) -> Hold:
    """Reserve an amount for `lease_s` seconds.

    Raises `ChargeKeyTakenError` when the same work is held or captured already (nothing was changed, the
    transaction can go on), and `InsufficientTokensError` when the available balance is short (the caller's
    transaction must be rolled back, as the hold is in it).
    """
    _require_positive(amount_mt)
    _lock_account(session, account_id)
    now = at or utcnow()
    hold = Hold(
        account_id=account_id,
        amount_mt=amount_mt,
        charge_key=charge_key,
        expires_at=now + timedelta(seconds=lease_s),
        created_at=now,
    )
    if insert_if_absent(session, Hold, hold.model_dump(), returning="id") is None:
        raise ChargeKeyTakenError("The same work is already being done or was done.", charge_key=charge_key)
    _move(
        session,
        account_id,
        kind="hold",
        debit=_settled(account_id),
        credit=_reserved(account_id),
        amount_mt=amount_mt,
        posted_change_mt=0,
        held_change_mt=amount_mt,
        hold_id=hold.id,
        actor=actor,
        memo=memo,
        at=at,
    )
    return hold


def capture_hold(
    session: Session, hold_id: str, amount_mt: int, *, actor: str, memo: str = "", at: datetime | None = None
) -> Entry:
    """Take up to the held amount; the rest goes back in the same step.

    Raises `HoldEndedError` when the hold ended before, `InvalidAmountError` when more is asked than is held.
    """
    _require_positive(amount_mt)
    _lock_account_of(session, hold_id)
    row = session.execute(
        update(Hold)
        .where(col(Hold.id) == hold_id, col(Hold.status) == "held", col(Hold.amount_mt) >= amount_mt)
        .values(status="captured", captured_mt=amount_mt, ended_at=at or utcnow())
        .returning(col(Hold.account_id), col(Hold.amount_mt))
    ).first()
    if row is None:
        _explain_no_capture(session, hold_id, amount_mt)
        raise AssertionError("unreachable")
    account_id, held_mt = row
    return _move(
        session,
        account_id,
        kind="capture",
        debit=_reserved(account_id),
        credit=HOUSE_REVENUE,
        amount_mt=amount_mt,
        posted_change_mt=-amount_mt,
        held_change_mt=-held_mt,
        hold_id=hold_id,
        actor=actor,
        memo=memo,
        at=at,
    )


def release_hold(session: Session, hold_id: str, *, actor: str, memo: str = "", at: datetime | None = None) -> Entry:
    """Give all of it back. Raises `HoldEndedError` when the hold ended before."""
    entry = _end_unpaid(session, hold_id, status="released", kind="release", actor=actor, memo=memo, at=at)
    if entry is None:
        raise HoldEndedError("This hold has ended already.", hold_id=hold_id)
    return entry


def expire_holds(session: Session, *, now: datetime | None = None, limit: int = 500) -> list[Entry]:
    """Give back every hold whose lease ran out, at most `limit`; safe to call from any number of nodes."""
    now = now or utcnow()
    due = session.exec(
        select(Hold.id)
        .where(Hold.status == "held", col(Hold.expires_at) <= now)
        .order_by(col(Hold.expires_at))
        .limit(limit)
    ).all()
    entries = (
        _end_unpaid(session, hold_id, status="expired", kind="expire", actor=SYSTEM, memo="lease ran out", due_by=now)
        for hold_id in due
    )
    return [entry for entry in entries if entry is not None]


def has_due_holds(session: Session, now: datetime) -> bool:
    """Whether `expire_holds` would find anything."""
    due = select(Hold.id).where(Hold.status == "held", col(Hold.expires_at) <= now).limit(1)
    return session.exec(due).first() is not None


def renew_holds(session: Session, hold_ids: Sequence[str], *, lease_s: int) -> None:
    """Extend the leases of holds that are still held; ended ones are left alone."""
    expires_at = utcnow() + timedelta(seconds=lease_s)
    for start in range(0, len(hold_ids), HOLDS_PER_STATEMENT_MAX):
        session.execute(
            update(Hold)
            .where(col(Hold.id).in_(hold_ids[start : start + HOLDS_PER_STATEMENT_MAX]), col(Hold.status) == "held")
            .values(expires_at=expires_at)
        )


def require_available(session: Session, account_id: str, amount_mt: int) -> None:
    """Say early and in one number that a batch is too dear. The holds themselves are what guards."""
    balance = get_balance(session, account_id)
    if balance.available_mt < amount_mt:
        raise InsufficientTokensError(required_mt=amount_mt, available_mt=balance.available_mt)


def list_entries(session: Session, account_id: str, *, limit: int = 10_000) -> Sequence[Entry]:
    """An account's entries, newest first."""
    return session.exec(
        select(Entry).where(Entry.account_id == account_id).order_by(col(Entry.seq).desc()).limit(limit)
    ).all()


def _move(
    session: Session,
    account_id: str,
    *,
    kind: str,
    debit: str,
    credit: str,
    amount_mt: int,
    posted_change_mt: int,
    held_change_mt: int,
    hold_id: str | None,
    actor: str,
    memo: str,
    at: datetime | None = None,
) -> Entry:
    """Change a balance and write its entry. The account's version is the entry's `seq`."""
    statement = (
        update(Account)
        .where(col(Account.id) == account_id)
        .values(
            posted_mt=Account.posted_mt + posted_change_mt,
            held_mt=Account.held_mt + held_change_mt,
            version=Account.version + 1,
        )
        .returning(col(Account.posted_mt), col(Account.held_mt), col(Account.version))
    )
    if kind == "hold":
        statement = statement.where(
            col(Account.status) == "active", col(Account.posted_mt) - col(Account.held_mt) >= amount_mt
        )
    row = session.execute(statement).first()
    if row is None:
        _explain_no_move(session, account_id, amount_mt)
        raise AssertionError("unreachable")
    posted_after_mt, held_after_mt, seq = row
    entry = Entry(
        account_id=account_id,
        seq=seq,
        kind=kind,
        debit_account=debit,
        credit_account=credit,
        amount_mt=amount_mt,
        posted_change_mt=posted_change_mt,
        held_change_mt=held_change_mt,
        posted_after_mt=posted_after_mt,
        held_after_mt=held_after_mt,
        hold_id=hold_id,
        actor=actor,
        memo=memo,
        created_at=at or utcnow(),
    )
    session.add(entry)
    session.flush()
    return entry


def _end_unpaid(
    session: Session,
    hold_id: str,
    *,
    status: str,
    kind: str,
    actor: str,
    memo: str,
    due_by: datetime | None = None,
    at: datetime | None = None,
) -> Entry | None:
    _lock_account_of(session, hold_id)
    # `due_by` is checked again here: the runner may have renewed the lease since the hold was listed.
    statement = (
        update(Hold)
        .where(col(Hold.id) == hold_id, col(Hold.status) == "held")
        .values(status=status, ended_at=at or utcnow())
        .returning(col(Hold.account_id), col(Hold.amount_mt))
    )
    if due_by is not None:
        statement = statement.where(col(Hold.expires_at) <= due_by)
    row = session.execute(statement).first()
    if row is None:
        return None
    account_id, amount_mt = row
    return _move(
        session,
        account_id,
        kind=kind,
        debit=_reserved(account_id),
        credit=_settled(account_id),
        amount_mt=amount_mt,
        posted_change_mt=0,
        held_change_mt=-amount_mt,
        hold_id=hold_id,
        actor=actor,
        memo=memo,
        at=at,
    )


def _lock_account(session: Session, account_id: str) -> None:
    """Take the account's row first, holds after it, in every transaction: so two of them never wait in a circle.

    `FOR NO KEY UPDATE`, which PostgreSQL lets pass beside the foreign keys of other rows; SQLite has one writer
    and needs no lock.
    """
    session.exec(select(Account.id).where(Account.id == account_id).with_for_update(key_share=True)).first()


def _lock_account_of(session: Session, hold_id: str) -> None:
    account_id = session.exec(select(Hold.account_id).where(Hold.id == hold_id)).first()
    if account_id is not None:
        _lock_account(session, account_id)


def _explain_no_move(session: Session, account_id: str, amount_mt: int) -> None:
    account = session.exec(
        select(Account.status, Account.posted_mt, Account.held_mt).where(Account.id == account_id)
    ).first()
    if account is None or account[0] != "active":
        raise AccountNotActiveError("This account cannot spend: ask the operator why it is frozen.")
    raise InsufficientTokensError(required_mt=amount_mt, available_mt=account[1] - account[2])


def _explain_no_capture(session: Session, hold_id: str, amount_mt: int) -> None:
    hold = session.exec(select(Hold.status, Hold.amount_mt).where(Hold.id == hold_id)).first()
    if hold is not None and hold[0] == "held":
        raise InvalidAmountError(f"{amount_mt} milli-tokens is more than the {hold[1]} that are held.")
    raise HoldEndedError("This hold has ended already; nothing was taken.", hold_id=hold_id)


def _require_positive(amount_mt: int) -> None:
    if amount_mt <= 0:
        raise InvalidAmountError("An amount must be above zero.")


def _settled(account_id: str) -> str:
    return f"account:{account_id}"


def _reserved(account_id: str) -> str:
    return f"account:{account_id}:held"
