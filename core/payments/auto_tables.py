"""Tables of automatic top-ups: the card that an account keeps at Stripe, and when it is charged."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlmodel import Field, SQLModel

from core.db import UTCDateTime, utcnow

# SQLite takes a partial index only for a query that says this.
IS_ARMED = "is_on AND stopped = ''"


class SavedCard(SQLModel, table=True):
    """A card that Stripe keeps for an account, by Stripe's names for it; brand and last digits are for people."""

    __tablename__ = "saved_card"

    account_id: str = Field(primary_key=True, foreign_key="account.id")
    customer_id: str
    method_id: str
    brand: str
    last4: str
    saved_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)


class ForgottenCard(SQLModel, table=True):
    """A card that nothing here uses any more, until Stripe was told so."""

    __tablename__ = "forgotten_card"

    method_id: str = Field(primary_key=True)
    forgotten_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)


class AutoTopUp(SQLModel, table=True):
    """An account's rule: below `threshold_mt` milli-tokens it buys for `amount_minor`, within a month's ceiling.

    Money is in minor units of `currency`. `stopped` is why it charges nothing any more; empty while it works:
    the bank's refusal, or `not_charged` (Stripe took no charge), `reversed` (money went back to a card), or the
    service's `currency` or `limits` that are others now.
    """

    __tablename__ = "auto_top_up"
    __table_args__ = (
        CheckConstraint("threshold_mt > 0", name="auto_top_up_threshold_positive"),
        CheckConstraint("amount_minor > 0", name="auto_top_up_amount_positive"),
        CheckConstraint("month_max_minor >= amount_minor", name="auto_top_up_ceiling"),
        CheckConstraint(
            "stopped IN ('', 'card_declined', 'authentication_required', 'not_charged', 'reversed', 'currency', "
            "'limits')",
            name="auto_top_up_stopped",
        ),
        Index("ix_auto_top_up_armed", "account_id", sqlite_where=text(IS_ARMED), postgresql_where=text(IS_ARMED)),
    )

    account_id: str = Field(primary_key=True, foreign_key="account.id")
    is_on: bool
    threshold_mt: int = Field(sa_type=BigInteger)
    amount_minor: int = Field(sa_type=BigInteger)
    month_max_minor: int = Field(sa_type=BigInteger)
    currency: str
    stopped: str = ""
    changed_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
