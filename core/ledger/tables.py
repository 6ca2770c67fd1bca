"""Tables of the ledger. The constraints do the guarding; the code only asks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, UniqueConstraint, text
from sqlmodel import JSON, Column, Field, SQLModel

from core.db import UTCDateTime, new_id, utcnow

# SQLite autoincrements only INTEGER keys; PostgreSQL gets BIGINT.
_BIG_KEY = BigInteger().with_variant(Integer, "sqlite")


class Account(SQLModel, table=True):
    """Owner of a balance. `posted_mt` is settled, `held_mt` of it is reserved; both in milli-tokens."""

    __table_args__ = (
        CheckConstraint("held_mt >= 0", name="account_held_not_negative"),
        CheckConstraint("posted_mt >= held_mt", name="account_posted_covers_held"),
        CheckConstraint("status IN ('active', 'frozen')", name="account_status"),
    )

    id: str = Field(default_factory=lambda: new_id("acct"), primary_key=True)
    name: str
    posted_mt: int = Field(default=0, sa_type=BigInteger)
    held_mt: int = Field(default=0, sa_type=BigInteger)
    version: int = Field(default=0, sa_type=BigInteger)
    status: str = "active"
    is_demo: bool = False
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)


class Hold(SQLModel, table=True):
    """A reserved amount. It ends once: captured, released or expired."""

    __table_args__ = (
        CheckConstraint("amount_mt > 0", name="hold_amount_positive"),
        CheckConstraint("captured_mt >= 0 AND captured_mt <= amount_mt", name="hold_captured_within_amount"),
        CheckConstraint("status IN ('held', 'captured', 'released', 'expired')", name="hold_status"),
        CheckConstraint("captured_mt = 0 OR status = 'captured'", name="hold_captured_only_when_captured"),
        Index(
            "uq_hold_charge_key",
            "account_id",
            "charge_key",
            unique=True,
            sqlite_where=text("status IN ('held', 'captured')"),
            postgresql_where=text("status IN ('held', 'captured')"),
        ),
        Index(
            "ix_hold_due",
            "expires_at",
            sqlite_where=text("status = 'held'"),
            postgresql_where=text("status = 'held'"),
        ),
    )

    id: str = Field(default_factory=lambda: new_id("hold"), primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    amount_mt: int = Field(sa_type=BigInteger)
    captured_mt: int = Field(default=0, sa_type=BigInteger)
    status: str = "held"
    charge_key: str
    expires_at: datetime = Field(sa_type=UTCDateTime)
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class Entry(SQLModel, table=True):
    """One immutable line of the ledger: an amount moves from the debit to the credit account.

    `seq` counts an account's entries from 1 without gaps. `posted_after_mt` and `held_after_mt` are the
    balances after it.
    """

    __table_args__ = (
        UniqueConstraint("account_id", "seq", name="uq_entry_seq"),
        CheckConstraint("amount_mt >= 0", name="entry_amount_not_negative"),
        CheckConstraint("held_after_mt >= 0", name="entry_held_not_negative"),
        CheckConstraint("posted_after_mt >= held_after_mt", name="entry_posted_covers_held"),
        CheckConstraint("debit_account <> credit_account", name="entry_two_accounts"),
        Index(
            "uq_entry_hold_end",
            "hold_id",
            unique=True,
            sqlite_where=text("kind IN ('capture', 'release', 'expire')"),
            postgresql_where=text("kind IN ('capture', 'release', 'expire')"),
        ),
        Index("ix_entry_created", "account_id", "created_at"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=_BIG_KEY)
    account_id: str = Field(foreign_key="account.id")
    seq: int = Field(sa_type=BigInteger)
    kind: str
    debit_account: str
    credit_account: str
    amount_mt: int = Field(sa_type=BigInteger)
    posted_change_mt: int = Field(sa_type=BigInteger)
    held_change_mt: int = Field(sa_type=BigInteger)
    posted_after_mt: int = Field(sa_type=BigInteger)
    held_after_mt: int = Field(sa_type=BigInteger)
    hold_id: str | None = Field(default=None, foreign_key="hold.id", index=True)
    actor: str
    memo: str = ""
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)


class Idempotency(SQLModel, table=True):
    """What was answered to an idempotency key; another request under the same key is refused."""

    __table_args__ = (UniqueConstraint("account_id", "operation", "key", name="uq_idempotency"),)

    id: str = Field(default_factory=lambda: new_id("idem"), primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    operation: str
    key: str
    request_hash: str
    response: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
