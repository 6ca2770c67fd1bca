"""Tables of usage: a record for each image, and the roll-ups that the Usage page reads."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index
from sqlmodel import JSON, Column, Field, SQLModel

from core.csv_text import plain_cell
from core.db import UTCDateTime, new_id, utcnow
from core.money import from_millitokens

# Each is a column of the roll-ups.
OUTCOMES = ("charged", "free", "failed", "cancelled", "interrupted")

_SLOT_NOT_NEGATIVE = (
    "charged >= 0 AND free >= 0 AND failed >= 0 AND cancelled >= 0 AND interrupted >= 0 AND amount_mt >= 0"
)


class UsageRecord(SQLModel, table=True):
    """One image that was asked for: pixels, model, milli-tokens, times in ms, outcome."""

    __tablename__ = "usage_record"
    __table_args__ = (
        CheckConstraint("amount_mt >= 0", name="usage_amount_not_negative"),
        CheckConstraint("outcome IN ('charged', 'free', 'failed', 'cancelled', 'interrupted')", name="usage_outcome"),
        Index("ix_usage_account_time", "account_id", "created_at"),
    )

    id: str = Field(default_factory=lambda: new_id("use"), primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    job_id: str | None = Field(default=None, foreign_key="job.id")
    actor: str
    model: str
    model_version: str
    img_size: int
    input_height: int
    input_width: int
    tiles: int = 0
    amount_mt: int = Field(sa_type=BigInteger)
    # Of what was held, so much went back at its end; None where a record is older than this column.
    given_back_mt: int | None = Field(default=None, sa_type=BigInteger)
    outcome: str
    error_code: str | None = None
    wait_ms: int | None = None
    model_ms: int | None = None
    class_counts: dict[str, int] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)

    @property
    def latency_ms(self) -> int | None:
        """How long the image waited and ran; None unless both were measured."""
        return None if self.wait_ms is None or self.model_ms is None else self.wait_ms + self.model_ms

    def as_row(self) -> dict[str, Any]:
        """The record as one line of the CSV export."""
        return {
            "time_utc": self.created_at.isoformat(timespec="seconds"),
            "model": self.model,
            "model_version": self.model_version,
            "img_size": self.img_size,
            "input_width": self.input_width,
            "input_height": self.input_height,
            "outcome": self.outcome,
            "error": self.error_code or "",
            "tokens": str(from_millitokens(self.amount_mt)),
            "wait_ms": "" if self.wait_ms is None else self.wait_ms,
            "model_ms": "" if self.model_ms is None else self.model_ms,
            "classes": plain_cell("; ".join(f"{name} {count}" for name, count in self.class_counts.items())),
            "job": self.job_id or "",
            # New ones last: who reads by column finds the others where they were.
            "tiles": self.tiles,
            "tokens_given_back": "" if self.given_back_mt is None else str(from_millitokens(self.given_back_mt)),
        }


class UsageSlot(SQLModel, table=True):
    """The records of a quarter of an hour, summed by model in the transaction of each record.

    `slot` counts quarters of an hour since 1970 in UTC (`core.slots`). One column for each outcome says how many
    images ended so.
    """

    __tablename__ = "usage_slot"
    __table_args__ = (
        CheckConstraint(_SLOT_NOT_NEGATIVE, name="usage_slot_not_negative"),
        # The key is the table: a period of one model lies in one piece.
        {"sqlite_with_rowid": False},
    )

    account_id: str = Field(primary_key=True, foreign_key="account.id")
    model: str = Field(primary_key=True)
    slot: int = Field(primary_key=True, sa_type=BigInteger)
    charged: int = Field(default=0, sa_type=BigInteger)
    free: int = Field(default=0, sa_type=BigInteger)
    failed: int = Field(default=0, sa_type=BigInteger)
    cancelled: int = Field(default=0, sa_type=BigInteger)
    interrupted: int = Field(default=0, sa_type=BigInteger)
    amount_mt: int = Field(default=0, sa_type=BigInteger)


class _OfCaller(SQLModel):
    """What the key of every roll-up begins with that tells callers apart."""

    account_id: str = Field(primary_key=True, foreign_key="account.id")
    actor: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    slot: int = Field(primary_key=True, sa_type=BigInteger)


class UsageCallerSlot(_OfCaller, table=True):
    """The same by who asked: `actor` is the id of the API key, or of the person on the portal.

    Beside `UsageSlot` and not in its key, so that what is asked of all callers together reads no row for each of them.
    """

    __tablename__ = "usage_caller_slot"
    __table_args__ = (
        CheckConstraint(_SLOT_NOT_NEGATIVE, name="usage_caller_slot_not_negative"),
        {"sqlite_with_rowid": False},
    )

    charged: int = Field(default=0, sa_type=BigInteger)
    free: int = Field(default=0, sa_type=BigInteger)
    failed: int = Field(default=0, sa_type=BigInteger)
    cancelled: int = Field(default=0, sa_type=BigInteger)
    interrupted: int = Field(default=0, sa_type=BigInteger)
    amount_mt: int = Field(default=0, sa_type=BigInteger)


class UsageGivenBackSlot(_OfCaller, table=True):
    """What was held and went back in a quarter of an hour, by caller, model and outcome: only the few that did.

    An image that was charged gives something back when some of its tiles failed.
    """

    __tablename__ = "usage_given_back_slot"
    __table_args__ = (
        CheckConstraint("amount_mt > 0", name="usage_given_back_positive"),
        {"sqlite_with_rowid": False},
    )

    outcome: str = Field(primary_key=True)
    amount_mt: int = Field(sa_type=BigInteger)


class UsageLatencySlot(_OfCaller, table=True):
    """How long images waited and ran, as a histogram of a quarter of an hour by caller and model.

    `images` took `from_ms` or more and less than the next bound (`core.usage.latency`). Images without a figure,
    such as free ones, are not in it.
    """

    __tablename__ = "usage_latency_slot"
    __table_args__ = (
        CheckConstraint("from_ms >= 0 AND images > 0", name="usage_latency_positive"),
        {"sqlite_with_rowid": False},
    )

    from_ms: int = Field(primary_key=True, sa_type=BigInteger)
    images: int = Field(sa_type=BigInteger)


class UsageClassSlot(_OfCaller, table=True):
    """The objects that charged images of a quarter of an hour showed, by caller, model and class."""

    __tablename__ = "usage_class_slot"
    __table_args__ = (
        CheckConstraint("objects > 0", name="usage_class_positive"),
        {"sqlite_with_rowid": False},
    )

    class_name: str = Field(primary_key=True)
    objects: int = Field(sa_type=BigInteger)
