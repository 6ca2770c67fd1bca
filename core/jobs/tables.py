"""Tables of runs: a job, its images, the stored results, and the messages that tell of a job's end."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, UniqueConstraint, text
from sqlmodel import JSON, Column, Field, SQLModel

from core.db import UTCDateTime, new_id, utcnow
from core.plans import Plan


class Job(SQLModel, table=True):
    """One batch that a user started. `runner` is the process that works on it, `lease_expires_at` its promise.

    `plan` is the account's when it was started: what was promised then holds, whatever the account is later.
    """

    __table_args__ = (
        CheckConstraint("status IN ('queued', 'running', 'finished')", name="job_status"),
        CheckConstraint("plan IN ('standard', 'vip')", name="job_plan"),
        Index("ix_job_account", "account_id", "created_at"),
        Index("ix_job_status", "status", "created_at"),
    )

    id: str = Field(default_factory=lambda: new_id("job"), primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    quote_id: str = Field(foreign_key="quote.id", unique=True)
    actor: str
    model: str
    model_version: str
    img_size: int
    tile_px: int | None = None
    status: str = "queued"
    runner: str | None = None
    lease_expires_at: datetime = Field(sa_type=UTCDateTime)
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    webhook_url: str | None = None
    plan: str = Plan.STANDARD.value


class JobImage(SQLModel, table=True):
    """One image of a job.

    `status` is `queued` or `running`, then for good one of `charged` (captured), `free` (answered from a stored
    result), `failed` (given back, `error_code` says why), `cancelled` or `interrupted` (given back). Of a charged one,
    `amount_mt` was taken, and `returned_mt` given back for tiles that failed.
    """

    __tablename__ = "job_image"
    __table_args__ = (
        UniqueConstraint("job_id", "position", name="uq_job_image_position"),
        CheckConstraint("returned_mt >= 0", name="job_image_returned_not_negative"),
        CheckConstraint(
            "status IN ('queued', 'running', 'charged', 'free', 'failed', 'cancelled', 'interrupted')",
            name="job_image_status",
        ),
        Index("ix_job_image_hold", "hold_id"),
        # With the status: SQLite would otherwise look through all free images for the repeats of one.
        Index("ix_job_image_charge_key", "charge_key", "status"),
        Index("ix_job_image_status", "status"),
    )

    id: str = Field(default_factory=lambda: new_id("img"), primary_key=True)
    job_id: str = Field(foreign_key="job.id")
    position: int
    name: str
    file_sha256: str
    image_sha256: str
    height: int
    width: int
    charge_key: str
    amount_mt: int = Field(sa_type=BigInteger)
    returned_mt: int = Field(default=0, sa_type=BigInteger)
    hold_id: str | None = Field(default=None, foreign_key="hold.id")
    status: str = "queued"
    error_code: str | None = None
    wait_ms: int | None = None
    model_ms: int | None = None
    started_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UTCDateTime)

    @property
    def is_answered(self) -> bool:
        """Whether it has a result: computed for it, or from before."""
        return self.status in ("charged", "free")


class Advice(SQLModel, table=True):
    """Runs of the same few pictures that were started together to be compared; the first is what the others are
    measured against.
    """

    __table_args__ = (Index("ix_advice_account", "account_id", "created_at"),)

    id: str = Field(default_factory=lambda: new_id("advice"), primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    actor: str
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)


class AdviceJob(SQLModel, table=True):
    """One run of an advice; the reference has the position 0."""

    __tablename__ = "advice_job"
    __table_args__ = (Index("ix_advice_job_job", "job_id"),)

    advice_id: str = Field(primary_key=True, foreign_key="advice.id")
    position: int = Field(primary_key=True)
    job_id: str = Field(foreign_key="job.id")


class WebhookSecret(SQLModel, table=True):
    """What an account's webhooks are signed with. A signature needs the secret itself, so no digest would do."""

    __tablename__ = "webhook_secret"

    account_id: str = Field(primary_key=True, foreign_key="account.id")
    secret: str
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)


class WebhookDelivery(SQLModel, table=True):
    """A message on its way to an address: about a finished job, written in the transaction that finished it, or about
    the low balance that the account's entry `alert_seq` made.

    It is due at `next_attempt_at` until it is delivered (a 2xx answer) or given up.
    """

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        CheckConstraint("delivered_at IS NULL OR given_up_at IS NULL", name="webhook_ends_once"),
        CheckConstraint("attempts >= 0", name="webhook_attempts_not_negative"),
        CheckConstraint("(job_id IS NULL) <> (alert_seq IS NULL)", name="webhook_subject"),
        UniqueConstraint("account_id", "alert_seq", name="uq_webhook_alert"),
        Index(
            "ix_webhook_due",
            "next_attempt_at",
            sqlite_where=text("delivered_at IS NULL AND given_up_at IS NULL"),
            postgresql_where=text("delivered_at IS NULL AND given_up_at IS NULL"),
        ),
        # An account's next message, for its turn.
        Index(
            "ix_webhook_turn",
            *("account_id", "next_attempt_at"),
            sqlite_where=text("delivered_at IS NULL AND given_up_at IS NULL"),
            postgresql_where=text("delivered_at IS NULL AND given_up_at IS NULL"),
        ),
        # Lists: of all (most are delivered), and of the few that are not.
        Index("ix_webhook_account", "account_id", "created_at", "id"),
        Index(
            "ix_webhook_pending",
            *("account_id", "created_at", "id"),
            sqlite_where=text("delivered_at IS NULL AND given_up_at IS NULL"),
            postgresql_where=text("delivered_at IS NULL AND given_up_at IS NULL"),
        ),
        Index(
            "ix_webhook_given_up",
            *("account_id", "created_at", "id"),
            sqlite_where=text("given_up_at IS NOT NULL"),
            postgresql_where=text("given_up_at IS NOT NULL"),
        ),
    )

    id: str = Field(default_factory=lambda: new_id("msg"), primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    job_id: str | None = Field(default=None, foreign_key="job.id", unique=True)
    alert_seq: int | None = Field(default=None, sa_type=BigInteger)
    url: str
    attempts: int = 0
    next_attempt_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    last_status: int | None = None
    delivered_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    given_up_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)

    @property
    def status(self) -> str:
        """`pending`, `delivered` or `given_up`."""
        if self.delivered_at is not None:
            return "delivered"
        return "pending" if self.given_up_at is None else "given_up"


class WebhookTurn(SQLModel, table=True):
    """An account among those that have messages to send: one of its messages is in hand until a moment, or none.

    `failures` counts the attempts since the last one that was answered well and soon.
    """

    __tablename__ = "webhook_turn"
    __table_args__ = (CheckConstraint("failures >= 0", name="webhook_failures_not_negative"),)

    account_id: str = Field(primary_key=True, foreign_key="account.id")
    in_hand_until: datetime | None = Field(default=None, sa_type=UTCDateTime)
    failures: int = 0


class Result(SQLModel, table=True):
    """Stored detections of one image by one model version with one set of parameters, for one account.

    Written in the transaction that captures the hold: charged ⇔ the result is stored. `tiles_failed` of its tiles gave
    nothing, and were not charged.
    """

    __table_args__ = (UniqueConstraint("account_id", "charge_key", name="uq_result"),)

    id: str = Field(default_factory=lambda: new_id("res"), primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    charge_key: str
    image_sha256: str
    model: str
    model_version: str
    img_size: int
    tile_px: int | None = None
    tiles_failed: int = 0
    detections: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
