"""Table of usage records."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index
from sqlmodel import JSON, Column, Field, SQLModel

from core.db import UTCDateTime, new_id, utcnow
from core.money import from_millitokens


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
    amount_mt: int = Field(sa_type=BigInteger)
    outcome: str
    error_code: str | None = None
    wait_ms: int | None = None
    model_ms: int | None = None
    class_counts: dict[str, int] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)

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
            "classes": "; ".join(f"{name} {count}" for name, count in self.class_counts.items()),
            "job": self.job_id or "",
        }


class UsageHour(SQLModel, table=True):
    """The records of one hour (UTC) summed up by model and outcome, kept in the transaction of each record."""

    __tablename__ = "usage_hour"
    __table_args__ = (CheckConstraint("images > 0 AND amount_mt >= 0", name="usage_hour_not_negative"),)

    account_id: str = Field(primary_key=True, foreign_key="account.id")
    hour: datetime = Field(primary_key=True, sa_type=UTCDateTime)
    model: str = Field(primary_key=True)
    outcome: str = Field(primary_key=True)
    images: int = Field(sa_type=BigInteger)
    amount_mt: int = Field(sa_type=BigInteger)
