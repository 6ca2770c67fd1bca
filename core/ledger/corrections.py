"""What an operator or a rule does to an account afterwards: refunds, adjustments, freezing. Each with a reason."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import bindparam, update
from sqlmodel import Session, col, select

from core.db import table_of
from core.errors import AccountNotActiveError, HoldEndedError, ReasonMissingError, RefundTooLargeError
from core.ledger.ledger import HOLDS_PER_STATEMENT_MAX, HOUSE_REVENUE
from core.ledger.posting import (
    Move,
    lock_account,
    post,
    post_spend,
    require_amount,
    reserved,
    run,
    settled,
)
from core.ledger.tables import Account, Entry, Hold

HOUSE_ADJUSTMENTS = "house:adjustments"
REASON_LENGTH_MAX = 500


def refund_capture(
    session: Session, hold_id: str, amount_mt: int, *, reason: str, actor: str, at: datetime | None = None
) -> Entry:
    """Give back some or all of a captured hold, at most what was captured and not refunded yet.

    It also counts no longer in the caps of the period in which it was spent. Raises `ReasonMissingError`,
    `HoldEndedError` when nothing was captured by this hold, `RefundTooLargeError`.
    """
    require_amount(amount_mt)
    reason = require_reason(reason)
    account_id = session.exec(select(Hold.account_id).where(Hold.id == hold_id)).first()
    if account_id is None:
        raise HoldEndedError("There is no such charge.", hold_id=hold_id)
    lock_account(session, account_id)
    row = run(session, _REFUND, {"b_hold": hold_id, "b_amount": amount_mt})
    if row is None:
        raise _explain_no_refund(session, hold_id, amount_mt)
    spend_day, budget_id = row
    move = Move(
        "refund",
        HOUSE_REVENUE,
        settled(account_id),
        amount_mt,
        actor,
        reason,
        posted_change_mt=amount_mt,
        hold_id=hold_id,
        spend_day=spend_day,
        spend_change_mt=-amount_mt,
        budget_id=budget_id,
        at=at,
    )
    return post(session, account_id, move)


def post_adjustment(
    session: Session, account_id: str, amount_mt: int, *, reason: str, actor: str, at: datetime | None = None
) -> Entry:
    """Credit (above zero) or take (below zero) an amount; taking never touches what is held.

    Raises `ReasonMissingError`, `InvalidAmountError`, `InsufficientTokensError` or `AccountNotActiveError`.
    """
    require_amount(abs(amount_mt))
    reason = require_reason(reason)
    own, house = settled(account_id), HOUSE_ADJUSTMENTS
    move = Move(
        "adjustment",
        house if amount_mt > 0 else own,
        own if amount_mt > 0 else house,
        abs(amount_mt),
        actor,
        reason,
        posted_change_mt=amount_mt,
        at=at,
    )
    return post(session, account_id, move) if amount_mt > 0 else post_spend(session, account_id, move)


def set_frozen(session: Session, account_id: str, *, frozen: bool, reason: str, actor: str) -> Entry | None:
    """Stop an account from spending, or let it spend again; None when it was so already.

    Open holds end as they would have; money still comes in. The entry moves nothing and keeps who did it and why.
    """
    reason = require_reason(reason)
    before, after = ("active", "frozen") if frozen else ("frozen", "active")
    lock_account(session, account_id)
    changed = session.connection().execute(
        update(Account)
        .where(col(Account.id) == account_id, col(Account.status) == before)
        .values(status=after)
        .returning(col(Account.id))
    )
    if changed.first() is None:
        require_account(session, account_id)
        return None
    kind = "freeze" if frozen else "unfreeze"
    return post(session, account_id, Move(kind, settled(account_id), reserved(account_id), 0, actor, reason))


def refundable_mt(session: Session, hold_id: str) -> int:
    """What is left of a charge: captured and not refunded yet."""
    hold = session.get(Hold, hold_id, populate_existing=True)
    return 0 if hold is None else hold.captured_mt - hold.refunded_mt


def find_refunded(session: Session, account_id: str, hold_ids: Collection[str]) -> dict[str, int]:
    """Which of an account's charges were refunded, and by how many milli-tokens in all."""
    refunded: dict[str, int] = {}
    keys = list(hold_ids)
    for start in range(0, len(keys), HOLDS_PER_STATEMENT_MAX):
        rows = session.exec(
            select(Hold.id, Hold.refunded_mt).where(
                col(Hold.id).in_(keys[start : start + HOLDS_PER_STATEMENT_MAX]),
                Hold.account_id == account_id,
                Hold.refunded_mt > 0,
            )
        )
        refunded.update(dict(rows.all()))
    return refunded


def require_account(session: Session, account_id: str) -> None:
    """Raise `AccountNotActiveError` when there is no such account."""
    if session.get(Account, account_id) is None:
        raise AccountNotActiveError("There is no such account.")


def require_reason(reason: str) -> str:
    """The reason without spaces around it, cut to 500 characters. Raises `ReasonMissingError` when there is none."""
    reason = reason.strip()[:REASON_LENGTH_MAX]
    if not reason:
        raise ReasonMissingError("Say why: the reason stands in the customer's transactions.")
    return reason


def _explain_no_refund(session: Session, hold_id: str, amount_mt: int) -> Exception:
    hold = session.get(Hold, hold_id, populate_existing=True)
    if hold is None or hold.status != "captured":
        return HoldEndedError("Nothing was charged by this hold, so there is nothing to refund.", hold_id=hold_id)
    return RefundTooLargeError(amount_mt=amount_mt, refundable_mt=hold.captured_mt - hold.refunded_mt)


_hold = table_of(Hold)
_AMOUNT = bindparam("b_amount", type_=_hold.c.amount_mt.type)
_REFUND = (
    update(_hold)
    .where(
        _hold.c.id == bindparam("b_hold"),
        _hold.c.status == "captured",
        _hold.c.refunded_mt + _AMOUNT <= _hold.c.captured_mt,
    )
    .values(refunded_mt=_hold.c.refunded_mt + _AMOUNT)
    .returning(_hold.c.spend_day, _hold.c.budget_id)
)
