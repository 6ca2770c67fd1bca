"""Table of vouchers."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint
from sqlmodel import Field, SQLModel

from core.db import UTCDateTime, new_id, utcnow


class Voucher(SQLModel, table=True):
    """A code that an operator made and that one account redeems once."""

    __table_args__ = (
        CheckConstraint("amount_mt > 0", name="voucher_amount_positive"),
        CheckConstraint("(redeemed_at IS NULL) = (redeemed_by IS NULL)", name="voucher_redeemed_by_somebody"),
    )

    id: str = Field(default_factory=lambda: new_id("vch"), primary_key=True)
    code: str = Field(unique=True)
    amount_mt: int = Field(sa_type=BigInteger)
    note: str = ""
    created_by: str
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    redeemed_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    redeemed_by: str | None = Field(default=None, foreign_key="account.id")
