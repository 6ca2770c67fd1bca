"""What an operator or a rule does to an account afterwards: refunds, adjustments, freezing. Each with a reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import bindparam, text, update
from sqlmodel import Session, col, select

from core.db import table_of, utcnow
from core.errors import (
    AccountBusyError,
    AccountNotActiveError,
    BalanceChangedError,
    HoldEndedError,
    ReasonMissingError,
    RefundTooLargeError,
)
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
from core.ledger.tables import TO_PURGE, Account, Entry, Hold

HOUSE_ADJUSTMENTS = "house:adjustments"
REASON_LENGTH_MAX = 500
# The reason in the last entries of an account that its owner closed.
CLOSED = "account deleted by its owner"


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
    Raises `ReasonMissingError`, and `AccountNotActiveError` when there is no such account or it was closed.
    """
    reason = require_reason(reason)
    before, after = ("active", "frozen") if frozen else ("frozen", "active")
    lock_account(session, account_id)
    changed = session.connection().execute(
        update(Account)
        .where(col(Account.id) == account_id, col(Account.status) == before, col(Account.closed_at).is_(None))
        .values(status=after)
        .returning(col(Account.id))
    )
    if changed.first() is None:
        if require_account(session, account_id).closed_at is not None:
            raise AccountNotActiveError("This account was closed by its owner: it stays frozen.")
        return None
    kind = "freeze" if frozen else "unfreeze"
    return post(session, account_id, Move(kind, settled(account_id), reserved(account_id), 0, actor, reason))


def close_account(session: Session, account_id: str, forfeit_mt: int, *, actor: str) -> None:
    """Freeze an account for good and take what is left, which must be what its owner agreed to lose.

    Its name goes, its entries stay. Raises `AccountNotActiveError` when it is frozen or closed, `AccountBusyError`
    while anything is held, `BalanceChangedError` when another amount is left.
    """
    lock_account(session, account_id)
    account = session.get(Account, account_id, populate_existing=True)
    if account is None or account.status != "active":
        raise AccountNotActiveError("This account is frozen: ask the operator, who froze it, before it is deleted.")
    if account.held_mt:
        raise AccountBusyError(
            "A run is going on: wait for its end, or stop it, and then delete the account.", held_mt=account.held_mt
        )
    if account.posted_mt != forfeit_mt:
        raise BalanceChangedError(
            "The balance changed meanwhile: look at what would be lost, and confirm it again.",
            available_mt=account.posted_mt,
        )
    if forfeit_mt:
        post_adjustment(session, account_id, -forfeit_mt, reason=CLOSED, actor=actor)
    set_frozen(session, account_id, frozen=True, reason=CLOSED, actor=actor)
    session.execute(
        update(Account)
        .where(col(Account.id) == account_id)
        .values(name="", closed_at=utcnow(), alert_below_mt=None, alert_url=None)
        .execution_options(synchronize_session=False)
    )


def forget_name(session: Session, account_id: str, name: str) -> None:
    """Take the name from an account that has this one."""
    session.execute(update(Account).where(col(Account.id) == account_id, col(Account.name) == name).values(name=""))


def due_purges(session: Session) -> Sequence[tuple[str, datetime]]:
    """The closed accounts of which pictures or results may be left, with when they were closed."""
    query = select(Account.id, Account.closed_at).where(text(TO_PURGE)).order_by(col(Account.closed_at)).limit(100)
    return [(account_id, closed_at) for account_id, closed_at in session.exec(query).all() if closed_at is not None]


def mark_purged(session: Session, account_id: str) -> None:
    """Nothing is left of a closed account's pictures and results."""
    session.execute(update(Account).where(col(Account.id) == account_id, text(TO_PURGE)).values(purged_at=utcnow()))


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


def require_account(session: Session, account_id: str) -> Account:
    """The account. Raises `AccountNotActiveError` when there is no such one."""
    account = session.get(Account, account_id)
    if account is None:
        raise AccountNotActiveError("There is no such account.")
    return account


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
