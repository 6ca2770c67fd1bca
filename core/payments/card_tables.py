"""Tables of card payments: what Stripe knows of a payment, its disputes, and the events that were heard."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlmodel import Field, SQLModel

from core.db import UTCDateTime, utcnow

# SQLite takes a partial index only for a query that says this.
TO_CHECK = "next_check_at IS NOT NULL"
OWING = "owed_mt > 0"
SAVES_CARD = "saves_card"


class CardSession(SQLModel, table=True):
    """A payment's Checkout session at Stripe; made with the payment, and filled when Stripe has answered.

    Money is in Stripe's smallest unit. `refunded_minor` is all that was ever paid back of it, `taken_mt` the
    milli-tokens that went back for refunds and disputes, `owed_mt` those that were spent before they could. `problem`
    is for the operator: money that did not fit the payment. Stripe is asked at `next_check_at`, and never when it is
    None. `saves_card` until the card that its customer asked to keep is known here. A charge of a kept card has no
    session.
    """

    __tablename__ = "card_session"
    __table_args__ = (
        CheckConstraint("refunded_minor >= 0", name="card_session_refunded_not_negative"),
        CheckConstraint("taken_mt >= 0", name="card_session_taken_not_negative"),
        CheckConstraint("owed_mt >= 0", name="card_session_owed_not_negative"),
        Index("ix_card_session_check", "next_check_at", sqlite_where=text(TO_CHECK), postgresql_where=text(TO_CHECK)),
        Index("ix_card_session_saves", "payment_id", sqlite_where=text(SAVES_CARD), postgresql_where=text(SAVES_CARD)),
        Index("ix_card_session_owing", "payment_id", sqlite_where=text(OWING), postgresql_where=text(OWING)),
    )

    payment_id: str = Field(primary_key=True, foreign_key="payment.id")
    session_id: str | None = Field(default=None, unique=True)
    url: str = ""
    intent_id: str | None = Field(default=None, index=True)
    problem: str = ""
    checks: int = 0
    next_check_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    refunded_minor: int = Field(default=0, sa_type=BigInteger)
    taken_mt: int = Field(default=0, sa_type=BigInteger)
    owed_mt: int = Field(default=0, sa_type=BigInteger)
    saves_card: bool = False


class CardDispute(SQLModel, table=True):
    """A dispute of a payment: open, won (the money came back to the operator) or lost. `amount_minor` as at Stripe."""

    __tablename__ = "card_dispute"
    __table_args__ = (
        CheckConstraint("amount_minor >= 0", name="card_dispute_amount_not_negative"),
        CheckConstraint("state IN ('open', 'won', 'lost')", name="card_dispute_state"),
    )

    id: str = Field(primary_key=True)
    payment_id: str = Field(foreign_key="payment.id", index=True)
    amount_minor: int = Field(sa_type=BigInteger)
    state: str


class CardEvent(SQLModel, table=True):
    """An event of Stripe's that was acted on; heard again, it does nothing."""

    __tablename__ = "card_event"

    id: str = Field(primary_key=True)
    kind: str
    received_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime, index=True)
