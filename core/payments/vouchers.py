"""Vouchers: made by an operator, redeemed once. Every function runs in the caller's transaction.

As a way to pay, a voucher costs its owner no money here and is paid at once.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import or_, update
from sqlmodel import Session, col, select

from core.db import utcnow
from core.errors import InvalidAmountError, VoucherExpiredError, VoucherNotFoundError, VoucherUsedError
from core.payments.offers import Offers, Terms
from core.payments.provider import Instructions, Opened, Wanted
from core.payments.tables import Payment, Voucher

# Without 0 O 1 I L U: nobody mistypes them. 16 of 30 characters are 78 bits.
ALPHABET = "ABCDEFGHJKMNPQRSTVWXYZ23456789"
VOUCHER_MT_MAX = 10_000_000_000
VOUCHERS_MAX = 500


def make_code() -> str:
    """A fresh code such as `ABCD-EFGH-JKMN-PQRS`."""
    letters = "".join(secrets.choice(ALPHABET) for _ in range(16))
    return "-".join(letters[start : start + 4] for start in range(0, 16, 4))


def normalise_code(text: str) -> str:
    """What a person typed or pasted, as it is stored: upper case, dashes where they belong."""
    letters = "".join(character for character in text.upper() if character.isalnum())
    return "-".join(letters[start : start + 4] for start in range(0, len(letters), 4))


def make_vouchers(
    session: Session,
    *,
    count: int,
    amount_mt: int,
    created_by: str,
    note: str = "",
    expires_at: datetime | None = None,
) -> list[Voucher]:
    """`count` vouchers of the same amount. Raises `InvalidAmountError` outside the limits."""
    if not 0 < amount_mt <= VOUCHER_MT_MAX:
        raise InvalidAmountError("A voucher is worth more than 0 and at most 10,000,000 tokens.")
    if not 1 <= count <= VOUCHERS_MAX:
        raise InvalidAmountError(f"Make between 1 and {VOUCHERS_MAX} vouchers at a time.")
    vouchers = [
        Voucher(code=make_code(), amount_mt=amount_mt, note=note, created_by=created_by, expires_at=expires_at)
        for _ in range(count)
    ]
    session.add_all(vouchers)
    session.flush()
    return vouchers


def redeem_voucher(session: Session, code: str, account_id: str) -> Voucher:
    """Mark a voucher as redeemed by an account, once, and give it.

    Raises `VoucherNotFoundError`, `VoucherExpiredError` (past its date or withdrawn) or `VoucherUsedError`.
    """
    now = utcnow()
    code = normalise_code(code)
    row = session.execute(
        update(Voucher)
        .where(
            col(Voucher.code) == code,
            col(Voucher.redeemed_at).is_(None),
            col(Voucher.revoked_at).is_(None),
            or_(col(Voucher.expires_at).is_(None), col(Voucher.expires_at) > now),
        )
        .values(redeemed_at=now, redeemed_by=account_id)
        .returning(col(Voucher.id))
    ).first()
    voucher = session.exec(select(Voucher).where(Voucher.code == code)).first()
    if row is not None and voucher is not None:
        return voucher
    if voucher is None:
        raise VoucherNotFoundError("No voucher has this code: check it for a typing mistake.")
    if voucher.redeemed_at is not None:
        raise VoucherUsedError(
            "This voucher was redeemed before: look for it in your transactions.",
            by_this_account=voucher.redeemed_by == account_id,
        )
    raise VoucherExpiredError("This voucher is no longer valid: ask whoever gave it to you for another.")


def revoke_voucher(session: Session, voucher_id: str) -> bool:
    """Withdraw a voucher that nobody redeemed; False when somebody did or it was withdrawn before."""
    row = session.execute(
        update(Voucher)
        .where(
            col(Voucher.id) == voucher_id,
            col(Voucher.redeemed_at).is_(None),
            col(Voucher.revoked_at).is_(None),
        )
        .values(revoked_at=utcnow())
        .returning(col(Voucher.id))
    ).first()
    return row is not None


def list_vouchers(session: Session, *, limit: int = 500) -> Sequence[Voucher]:
    """The newest vouchers first."""
    return session.exec(select(Voucher).order_by(col(Voucher.created_at).desc()).limit(limit)).all()


@dataclass(frozen=True, slots=True)
class Vouchers:
    """Vouchers as a way to pay: what is wanted is a code, and a voucher gives no bonus."""

    offers: Offers
    name: str = "vouchers"

    def open(self, session: Session, account_id: str, wanted: Wanted) -> Opened:
        voucher = redeem_voucher(session, wanted.code, account_id)
        free = Terms(0, self.offers.currency, voucher.amount_mt, 0, self.offers.price_per_token, Decimal(0))
        return Opened(free, voucher.id, is_paid=True)

    def instructions(self, _session: Session, _payment: Payment) -> Instructions:
        return Instructions()
