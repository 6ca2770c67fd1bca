"""What an operator does to an account: refund a charge, adjust a balance, freeze. Each once, with a reason."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from core.errors import HoldEndedError
from core.identity.tables import User
from core.ledger import corrections
from core.ledger.idempotency import begin_idempotent, complete_idempotent
from core.ledger.tables import Entry, Hold
from core.services.application import Application
from core.services.top_up import require_operator


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
    return int(answer["posted_after_mt"])


def freeze_account(app: Application, operator: User, account_id: str, *, frozen: bool, reason: str) -> bool:
    """Stop an account from spending, or let it spend again; False when it was so already.

    Raises `NotAllowedError`, `ReasonMissingError`, `AccountNotActiveError`.
    """
    require_operator(operator)
    with app.db.write() as session:
        entry = corrections.set_frozen(session, account_id, frozen=frozen, reason=reason, actor=operator.id)
    return entry is not None


def _complete(session: Session, entry: Entry, operation: str, key: str) -> dict[str, Any]:
    answer = {"seq": entry.seq, "amount_mt": entry.amount_mt, "posted_after_mt": entry.posted_after_mt}
    complete_idempotent(session, entry.account_id, operation, key, answer)
    return answer
