"""Tables of payments and of vouchers."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, CheckConstraint, Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from core.db import DecimalText, UTCDateTime, new_id, utcnow


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


# SQLite takes the partial index only for a query that says this.
PENDING = "state = 'pending'"
CHARGING = "provider = 'saved_card' AND state = 'pending'"


class Payment(SQLModel, table=True):
    """One top-up, from the wish to the credit. `amount_minor` is money in the currency's minor units.

    States: pending → paid | cancelled | expired. Only paid is final: money that arrives after all is credited. What it
    buys is fixed when it is opened: `tokens_mt` at `price_per_token`, and `bonus_mt`, which is `bonus_percent` of it.
    `entry_seq` is the number of the entry that credited it. `ended_by` is who ended it, with a `reason` if the operator
    did not find the money.
    """

    __table_args__ = (
        CheckConstraint("amount_minor >= 0", name="payment_amount_not_negative"),
        CheckConstraint("tokens_mt > 0", name="payment_tokens_positive"),
        CheckConstraint("bonus_mt >= 0", name="payment_bonus_not_negative"),
        CheckConstraint("state IN ('pending', 'paid', 'cancelled', 'expired')", name="payment_state"),
        CheckConstraint("(state = 'paid') = (paid_at IS NOT NULL)", name="payment_paid_at"),
        UniqueConstraint("provider", "provider_reference", name="uq_payment_reference"),
        Index("ix_payment_account", "account_id", "created_at"),
        # However many processes see that a balance is low, one charges the card.
        Index(
            "uq_payment_saved_card",
            "account_id",
            unique=True,
            sqlite_where=text(CHARGING),
            postgresql_where=text(CHARGING),
        ),
        Index("ix_payment_pending", "expires_at", sqlite_where=text(PENDING), postgresql_where=text(PENDING)),
    )

    id: str = Field(default_factory=lambda: new_id("pay"), primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    provider: str
    provider_reference: str
    amount_minor: int = Field(sa_type=BigInteger)
    currency: str
    tokens_mt: int = Field(sa_type=BigInteger)
    bonus_mt: int = Field(default=0, sa_type=BigInteger)
    price_per_token: Decimal = Field(sa_type=DecimalText)
    bonus_percent: Decimal = Field(sa_type=DecimalText)
    state: str = "pending"
    opened_by: str
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    expires_at: datetime = Field(sa_type=UTCDateTime)
    paid_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    entry_seq: int | None = Field(default=None, sa_type=BigInteger)
    ended_by: str | None = None
    reason: str = ""

    @property
    def credited_mt(self) -> int:
        """What it adds to the balance, in milli-tokens."""
        return self.tokens_mt + self.bonus_mt
