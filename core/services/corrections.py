"""What an operator does to an account: refund a charge, adjust a balance, freeze. Each once, with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlmodel import Session, col

from core.errors import HoldEndedError
from core.identity import api_keys, users
from core.identity.audit_log import record_event
from core.identity.tables import User
from core.ledger import corrections, ledger
from core.ledger.idempotency import begin_idempotent, complete_idempotent
from core.ledger.tables import Entry, Hold
from core.pricing.tables import Receipt
from core.services.application import Application
from core.services.top_up import require_operator

MOVEMENTS = ("top_up", "bonus", "refund", "adjustment", "freeze", "unfreeze")


@dataclass(frozen=True, slots=True)
class Charge:
    """A captured hold as the operator sees it; amounts in milli-tokens.

    `image_name` and `model` are empty for demonstration data, which has no receipts.
    """

    hold_id: str
    seq: int
    charged_at: datetime
    amount_mt: int
    refunded_mt: int
    image_name: str
    model: str

    @property
    def left_mt(self) -> int:
        """What can still be refunded."""
        return self.amount_mt - self.refunded_mt


class Movement(NamedTuple):
    """An entry that no picture made, and the address or name of who caused it; `system` or a rule as it is."""

    entry: Entry
    actor: str


def list_charges(
    app: Application,
    operator: User,
    account_id: str,
    *,
    reference: str = "",
    before_seq: int | None = None,
    limit: int = 50,
) -> list[Charge]:
    """An account's charges, newest first; with a `reference`, the one whose hold or receipt has this id.

    `before_seq` goes on where a page ended. Raises `NotAllowedError`.
    """
    require_operator(operator)
    query = (
        select(
            col(Entry.seq),
            col(Entry.created_at),
            col(Hold.id),
            col(Hold.captured_mt),
            col(Hold.refunded_mt),
            col(Receipt.image_name),
            col(Receipt.model),
        )
        .join(Hold, col(Hold.id) == col(Entry.hold_id))
        .join(Receipt, col(Receipt.hold_id) == col(Hold.id), isouter=True)
        .where(col(Entry.kind) == "capture")
        .order_by(col(Entry.seq).desc())
        .limit(limit)
    )
    if before_seq is not None:
        query = query.where(col(Entry.seq) < before_seq)
    with app.db.read() as session:
        if reference:
            found = session.execute(select(col(Receipt.hold_id)).where(col(Receipt.id) == reference)).scalar()
            # The account is asked for at the hold: at the entry, SQLite would look through all of the account's.
            query = query.where(col(Hold.account_id) == account_id, col(Entry.hold_id) == (found or reference))
        else:
            query = query.where(col(Entry.account_id) == account_id)
        rows = session.execute(query).all()
    return [
        Charge(hold_id, seq, at, captured_mt, refunded_mt, name or "", model or "")
        for seq, at, hold_id, captured_mt, refunded_mt, name, model in rows
    ]


def list_movements(app: Application, operator: User, account_id: str, *, limit: int = 20) -> list[Movement]:
    """An account's top-ups, refunds, adjustments and freezes, newest first: what a dispute is about besides charges.

    Raises `NotAllowedError`.
    """
    require_operator(operator)
    with app.db.read() as session:
        entries = ledger.list_entries(session, account_id, kinds=MOVEMENTS, limit=limit)
        actors = {entry.actor for entry in entries}
        names = {**users.names_of(session, actors), **api_keys.names_of(session, actors)}
    return [Movement(entry, names.get(entry.actor, entry.actor)) for entry in entries]


def refund_charge(
    app: Application, operator: User, hold_id: str, amount_mt: int | None = None, *, reason: str, idempotency_key: str
) -> int:
    """Give back some of a charge, or with None all that is left of it; gives the milli-tokens refunded.

    A retry with the same key gives the same answer and refunds nothing again. Raises `NotAllowedError`,
    `ReasonMissingError`, `HoldEndedError` when nothing was charged, `RefundTooLargeError`,
    `IdempotencyConflictError`.
    """
    require_operator(operator)
    request = {"hold_id": hold_id, "amount_mt": amount_mt, "reason": reason}
    with app.db.write() as session:
        hold = session.get(Hold, hold_id)
        if hold is None:
            raise HoldEndedError("There is no such charge.", hold_id=hold_id)
        answer = begin_idempotent(session, hold.account_id, "refund", idempotency_key, request)
        if answer is not None:
            return int(answer["amount_mt"])
        if amount_mt is None:
            amount_mt = max(corrections.refundable_mt(session, hold_id), 1)
        entry = corrections.refund_capture(session, hold_id, amount_mt, reason=reason, actor=operator.id)
        _complete(session, entry, "refund", idempotency_key)
        _record(session, operator, "balance.refund", hold.account_id, hold_id, amount_mt=amount_mt, reason=reason)
    return amount_mt


def adjust_balance(
    app: Application, operator: User, account_id: str, amount_mt: int, *, reason: str, idempotency_key: str
) -> int:
    """Credit (above zero) or take (below zero) tokens; gives the settled balance after it in milli-tokens.

    Raises `NotAllowedError`, `ReasonMissingError`, `InvalidAmountError`, `InsufficientTokensError`,
    `AccountNotActiveError`, `IdempotencyConflictError`.
    """
    require_operator(operator)
    request = {"amount_mt": amount_mt, "reason": reason}
    with app.db.write() as session:
        corrections.require_account(session, account_id)
        answer = begin_idempotent(session, account_id, "adjustment", idempotency_key, request)
        if answer is None:
            entry = corrections.post_adjustment(session, account_id, amount_mt, reason=reason, actor=operator.id)
            answer = _complete(session, entry, "adjustment", idempotency_key)
            _record(session, operator, "balance.adjust", account_id, account_id, amount_mt=amount_mt, reason=reason)
    return int(answer["posted_after_mt"])


def freeze_account(app: Application, operator: User, account_id: str, *, frozen: bool, reason: str) -> bool:
    """Stop an account from spending, or let it spend again; False when it was so already.

    Raises `NotAllowedError`, `ReasonMissingError`, `AccountNotActiveError`.
    """
    require_operator(operator)
    with app.db.write() as session:
        entry = corrections.set_frozen(session, account_id, frozen=frozen, reason=reason, actor=operator.id)
        if entry is not None:
            action = "account.freeze" if frozen else "account.unfreeze"
            _record(session, operator, action, account_id, account_id, reason=reason)
    return entry is not None


def _record(session: Session, operator: User, action: str, account_id: str, subject: str, **details: str | int) -> None:
    record_event(session, actor=operator.id, action=action, subject=subject, account_id=account_id, details=details)


def _complete(session: Session, entry: Entry, operation: str, key: str) -> dict[str, Any]:
    answer = {"seq": entry.seq, "amount_mt": entry.amount_mt, "posted_after_mt": entry.posted_after_mt}
    complete_idempotent(session, entry.account_id, operation, key, answer)
    return answer
