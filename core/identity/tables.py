"""Tables of users and their sessions. Secrets are stored as digests only."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Index
from sqlmodel import Field, SQLModel

from core.db import UTCDateTime, new_id, utcnow


class User(SQLModel, table=True):
    """A person who signs in and belongs to one account."""

    __tablename__ = "user_"
    __table_args__ = (CheckConstraint("role IN ('operator', 'owner')", name="user_role"),)

    id: str = Field(default_factory=lambda: new_id("user"), primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    email: str = Field(unique=True)
    password_digest: str
    role: str = "owner"
    language: str = "en"
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    last_sign_in_at: datetime | None = Field(default=None, sa_type=UTCDateTime)

    @property
    def is_operator(self) -> bool:
        """Whether this person runs the service."""
        return self.role == "operator"


class UserSession(SQLModel, table=True):
    """One sign-in of one browser. The cookie holds the token, the table only its SHA-256."""

    __tablename__ = "user_session"

    digest: str = Field(primary_key=True)
    user_id: str = Field(foreign_key="user_.id", index=True)
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    expires_at: datetime = Field(sa_type=UTCDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class SignInTicket(SQLModel, table=True):
    """Carries a verified sign-in from the form to the route that sets the cookie: single use, 30 seconds."""

    __tablename__ = "sign_in_ticket"

    digest: str = Field(primary_key=True)
    user_id: str = Field(foreign_key="user_.id")
    expires_at: datetime = Field(sa_type=UTCDateTime)
    used_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class SignInAttempt(SQLModel, table=True):
    """One failed sign-in, kept to slow down guessing. The address is stored as a digest."""

    __tablename__ = "sign_in_attempt"
    __table_args__ = (Index("ix_attempt", "email_digest", "created_at"),)

    id: str = Field(default_factory=lambda: new_id("try"), primary_key=True)
    email_digest: str
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
