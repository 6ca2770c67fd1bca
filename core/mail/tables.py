"""The table of mails on their way."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, text
from sqlmodel import JSON, Column, Field, SQLModel

from core.db import UTCDateTime, new_id, utcnow


class Mail(SQLModel, table=True):
    """A kind of mail that is to be sent to a user, or to an address that was typed, as whoever has it.

    It holds no text and no secret: both are made when it is sent. It is due at `next_attempt_at` until it has an
    `outcome`: `sent`, `given_up`, or `dropped`, because there is nobody to send it to or nothing to say any more.
    """

    __tablename__ = "mail"
    __table_args__ = (
        CheckConstraint("kind IN ('confirm', 'reset', 'sign_up', 'low_balance')", name="mail_kind"),
        CheckConstraint("outcome IN ('', 'sent', 'given_up', 'dropped')", name="mail_outcome"),
        CheckConstraint("(ended_at IS NULL) = (outcome = '')", name="mail_ends_with_an_outcome"),
        CheckConstraint("attempts >= 0", name="mail_attempts_not_negative"),
        Index(
            "ix_mail_due",
            "next_attempt_at",
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index("ix_mail_user", "user_id", "kind", "created_at"),
        Index("ix_mail_address", "address_digest", "created_at"),
        Index("ix_mail_created_at", "created_at"),
    )

    id: str = Field(default_factory=lambda: new_id("mail"), primary_key=True)
    kind: str
    user_id: str | None = Field(default=None, foreign_key="user_.id")
    email: str = ""  # as it was typed, where the user is not known yet
    address_digest: str  # what mails to an address are counted by, also when its user was forgotten
    facts: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    attempts: int = 0
    next_attempt_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    outcome: str = ""
    last_error: str = ""  # the kind of failure and the server's code, never its words: they repeat the address
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
