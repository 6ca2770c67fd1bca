"""Vouchers, made by the operator and redeemed once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from core.errors import NotAllowedError
from core.identity.audit_log import record_event
from core.identity.tables import User
from core.ledger.idempotency import begin_idempotent, complete_idempotent
from core.ledger.posting import lock_account
from core.payments import payments, vouchers
from core.payments.provider import Wanted
from core.payments.providers import VOUCHERS, list_providers
from core.payments.tables import Voucher
from core.services.application import Application
from core.services.credit import credit_payment
from core.services.team import require_now, require_role


def redeem_voucher(app: Application, user: User, code: str, *, idempotency_key: str) -> int:
    """Credit a voucher to the user's account; gives the milli-tokens credited.

    A retry with the same key gives the same answer and credits nothing again. Raises `RoleNeededError` for a viewer,
    `VoucherNotFoundError`, `VoucherUsedError`, `VoucherExpiredError` or `IdempotencyConflictError`.
    """
    require_role(user, "member")
    request = {"code": vouchers.normalise_code(code)}
    with app.db.write() as session:
        lock_account(session, user.account_id)
        require_now(session, user, "member")
        answer = begin_idempotent(session, user.account_id, "redeem_voucher", idempotency_key, request)
        if answer is not None:
            return int(answer["amount_mt"])
        payment = payments.open_payment(
            session,
            list_providers(app.settings)[VOUCHERS],
            user.account_id,
            Wanted(code=code),
            actor=user.id,
            ttl_days=app.settings.payment_ttl_days,
        )
        credit_payment(session, app.settings, payment.id, actor=user.id)
        answer = {"amount_mt": payment.credited_mt}
        complete_idempotent(session, user.account_id, "redeem_voucher", idempotency_key, answer)
        subject = payment.provider_reference
        record_event(session, actor=user.id, action="voucher.redeem", subject=subject, account_id=user.account_id)
    return payment.credited_mt


def make_vouchers(
    app: Application,
    operator: User,
    *,
    count: int,
    amount_mt: int,
    note: str = "",
    expires_at: datetime | None = None,
) -> list[Voucher]:
    """New vouchers. Raises `NotAllowedError` for anybody but an operator, `InvalidAmountError` off the limits."""
    require_operator(operator)
    with app.db.write() as session:
        made = vouchers.make_vouchers(
            session,
            count=count,
            amount_mt=amount_mt,
            created_by=operator.id,
            note=note[:200],
            expires_at=expires_at,
        )
        for voucher in made:
            record_event(
                session, actor=operator.id, action="voucher.make", subject=voucher.id, details={"amount_mt": amount_mt}
            )
        return made


def revoke_voucher(app: Application, operator: User, voucher_id: str) -> bool:
    """Withdraw a voucher; False when it was redeemed or withdrawn before. Raises `NotAllowedError`."""
    require_operator(operator)
    with app.db.write() as session:
        revoked = vouchers.revoke_voucher(session, voucher_id)
        if revoked:
            record_event(session, actor=operator.id, action="voucher.withdraw", subject=voucher_id)
        return revoked


def list_vouchers(app: Application, operator: User) -> Sequence[Voucher]:
    """The newest vouchers. Raises `NotAllowedError`."""
    require_operator(operator)
    with app.db.read() as session:
        return vouchers.list_vouchers(session)


def require_operator(user: User) -> None:
    """Raise `NotAllowedError` for anybody but an operator."""
    if not user.is_operator:
        raise NotAllowedError("Only the operator of this installation may do this.")
