"""Tables of the ledger. The constraints do the guarding; the code only asks."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, UniqueConstraint, text
from sqlmodel import JSON, Column, Field, SQLModel

from core.db import UTCDateTime, new_id, utcnow
from core.plans import Plan

# SQLite autoincrements only INTEGER keys; PostgreSQL gets BIGINT.
_BIG_KEY = BigInteger().with_variant(Integer, "sqlite")
# Conditions of partial indexes. SQLite uses one only for a query that says its condition in these words.
# Every image makes entries of these kinds; `ix_entry_not_usage` and its sister find the rare others.
ENTRY_NOT_USAGE = "kind NOT IN ('hold', 'capture', 'release', 'expire')"
# These holds stand in the way of another one for the same work.
HOLD_TAKES_KEY = "status IN ('held', 'captured')"
# These accounts were closed, and their pictures are still there.
TO_PURGE = "closed_at IS NOT NULL AND purged_at IS NULL"


class Account(SQLModel, table=True):
    """Owner of a balance. `posted_mt` is settled, `held_mt` of it is reserved; both in milli-tokens.

    `day_spent_mt` is what the holds placed on `spend_day` (a day of the billing time zone) took or still reserve,
    `month_spent_mt` the same for the month of that day; neither may pass its cap. Below `alert_below_mt` the
    owner is warned. `plan` is the one that its runs are started under. A closed account is frozen for good, nobody
    belongs to it, and from `purged_at` on nothing is left of its pictures.
    """

    __table_args__ = (
        CheckConstraint("held_mt >= 0", name="account_held_not_negative"),
        CheckConstraint("posted_mt >= held_mt", name="account_posted_covers_held"),
        CheckConstraint("status IN ('active', 'frozen')", name="account_status"),
        CheckConstraint("day_cap_mt >= 0", name="account_day_cap_not_negative"),
        CheckConstraint("month_cap_mt >= 0", name="account_month_cap_not_negative"),
        CheckConstraint("day_spent_mt >= 0", name="account_day_spent_not_negative"),
        CheckConstraint("month_spent_mt >= 0", name="account_month_spent_not_negative"),
        CheckConstraint("alert_below_mt > 0", name="account_alert_positive"),
        CheckConstraint("plan IN ('standard', 'vip')", name="account_plan"),
        Index(
            "ix_account_to_purge",
            "closed_at",
            sqlite_where=text(TO_PURGE),
            postgresql_where=text(TO_PURGE),
        ),
    )

    id: str = Field(default_factory=lambda: new_id("acct"), primary_key=True)
    name: str
    posted_mt: int = Field(default=0, sa_type=BigInteger)
    held_mt: int = Field(default=0, sa_type=BigInteger)
    version: int = Field(default=0, sa_type=BigInteger)
    status: str = "active"
    is_demo: bool = False
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    day_cap_mt: int | None = Field(default=None, sa_type=BigInteger)
    month_cap_mt: int | None = Field(default=None, sa_type=BigInteger)
    spend_day: date | None = None
    day_spent_mt: int = Field(default=0, sa_type=BigInteger)
    month_spent_mt: int = Field(default=0, sa_type=BigInteger)
    alert_below_mt: int | None = Field(default=None, sa_type=BigInteger)
    alert_url: str | None = None
    plan: str = Plan.STANDARD.value
    closed_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    purged_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class Budget(SQLModel, table=True):
    """Spending caps of one part of an account, such as an API key; counted as the account's own are."""

    __table_args__ = (
        CheckConstraint("day_cap_mt >= 0 AND month_cap_mt >= 0", name="budget_caps_not_negative"),
        CheckConstraint("day_spent_mt >= 0", name="budget_day_spent_not_negative"),
        CheckConstraint("month_spent_mt >= 0", name="budget_month_spent_not_negative"),
        Index("ix_budget_account", "account_id"),
    )

    id: str = Field(default_factory=lambda: new_id("budget"), primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    day_cap_mt: int | None = Field(default=None, sa_type=BigInteger)
    month_cap_mt: int | None = Field(default=None, sa_type=BigInteger)
    spend_day: date | None = None
    day_spent_mt: int = Field(default=0, sa_type=BigInteger)
    month_spent_mt: int = Field(default=0, sa_type=BigInteger)


class Hold(SQLModel, table=True):
    """A reserved amount. It ends once: captured, released or expired. Of what was captured, some may be refunded.

    `spend_day` is the day that it counts in; `budget_id` the part of the account that it counts in too.
    """

    __table_args__ = (
        CheckConstraint("amount_mt > 0", name="hold_amount_positive"),
        CheckConstraint("captured_mt >= 0 AND captured_mt <= amount_mt", name="hold_captured_within_amount"),
        CheckConstraint("status IN ('held', 'captured', 'released', 'expired')", name="hold_status"),
        CheckConstraint("captured_mt = 0 OR status = 'captured'", name="hold_captured_only_when_captured"),
        CheckConstraint("refunded_mt >= 0 AND refunded_mt <= captured_mt", name="hold_refunded_within_captured"),
        Index(
            "uq_hold_charge_key",
            "account_id",
            "charge_key",
            unique=True,
            sqlite_where=text(HOLD_TAKES_KEY),
            postgresql_where=text(HOLD_TAKES_KEY),
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
    refunded_mt: int = Field(default=0, sa_type=BigInteger)
    status: str = "held"
    charge_key: str
    expires_at: datetime = Field(sa_type=UTCDateTime)
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    spend_day: date | None = None
    budget_id: str | None = None


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
        Index("ix_entry_created", "account_id", "created_at", "seq"),
        # The few entries that a customer looks for among millions of holds and charges; `kind` tells them apart.
        Index(
            "ix_entry_not_usage",
            "account_id",
            "seq",
            "kind",
            sqlite_where=text(ENTRY_NOT_USAGE),
            postgresql_where=text(ENTRY_NOT_USAGE),
        ),
        Index(
            "ix_entry_not_usage_created",
            "account_id",
            "created_at",
            sqlite_where=text(ENTRY_NOT_USAGE),
            postgresql_where=text(ENTRY_NOT_USAGE),
        ),
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


class EntrySlot(SQLModel, table=True):
    """The entries of a quarter of an hour summed by kind, as far as the account's `RollUp` goes.

    `slot` counts quarters of an hour since 1970 in UTC (`core.slots`). Of the `entries`, `posting` ones changed the
    settled balance, by `posted_mt` in all.
    """

    __tablename__ = "entry_slot"
    # The key is the table: a period lies in one piece.
    __table_args__ = ({"sqlite_with_rowid": False},)

    account_id: str = Field(primary_key=True, foreign_key="account.id")
    slot: int = Field(primary_key=True, sa_type=BigInteger)
    kind: str = Field(primary_key=True)
    entries: int = Field(sa_type=BigInteger)
    posting: int = Field(sa_type=BigInteger)
    posted_mt: int = Field(sa_type=BigInteger)


class RollUp(SQLModel, table=True):
    """How far an account's entry slots go: they hold the entries up to `seq`, each once, and none after it."""

    __tablename__ = "roll_up"

    account_id: str = Field(primary_key=True, foreign_key="account.id")
    seq: int = Field(sa_type=BigInteger)


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


class Seal(SQLModel, table=True):
    """The hash chain of an account: `digest` covers entry `seq` and, through the digest before it, all earlier ones.

    Written behind the commit of the entry and never changed (triggers refuse it).
    """

    account_id: str = Field(primary_key=True, foreign_key="account.id")
    seq: int = Field(primary_key=True, sa_type=BigInteger)
    digest: str


class LowBalanceAlert(SQLModel, table=True):
    """The settled balance fell below the account's threshold with the entry `seq`; one row for each crossing.

    `told_at`: when mails and webhooks about it were put on their way.
    """

    __tablename__ = "low_balance_alert"
    __table_args__ = (
        Index(
            "ix_alert_untold",
            "created_at",
            sqlite_where=text("told_at IS NULL"),
            postgresql_where=text("told_at IS NULL"),
        ),
    )

    account_id: str = Field(primary_key=True, foreign_key="account.id")
    seq: int = Field(primary_key=True, sa_type=BigInteger)
    threshold_mt: int = Field(sa_type=BigInteger)
    posted_after_mt: int = Field(sa_type=BigInteger)
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    dismissed_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    told_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
