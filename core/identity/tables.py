"""Tables of users, their invitations and their sessions. Secrets are stored as digests only."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, text
from sqlmodel import Field, SQLModel

from core.db import UTCDateTime, new_id, utcnow


class User(SQLModel, table=True):
    """A person who signs in and belongs to one account, in a role: owners decide, members spend, viewers look.

    Whoever is removed from his account keeps this row, disabled, because the account's entries name it. If he is
    invited again he gets another row: nothing that hung on the old one comes to life with it.
    """

    __tablename__ = "user_"
    __table_args__ = (
        CheckConstraint("role IN ('owner', 'member', 'viewer')", name="user_role"),
        CheckConstraint("disabled_at IS NULL OR NOT is_operator", name="user_operator_enabled"),
        Index(
            "uq_user_enabled_email",
            "email",
            unique=True,
            sqlite_where=text("disabled_at IS NULL"),
            postgresql_where=text("disabled_at IS NULL"),
        ),
    )

    id: str = Field(default_factory=lambda: new_id("user"), primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    email: str
    password_digest: str
    role: str = "owner"
    is_operator: bool = False  # runs the service; independent of the role in his account
    language: str = "en"
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    last_sign_in_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    disabled_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class Invitation(SQLModel, table=True):
    """An address that may join an account in a role, with a secret code: single use, seven days.

    It is open until it is accepted or revoked, and an account has one open invitation for an address at most.
    """

    __tablename__ = "invitation"
    __table_args__ = (
        CheckConstraint("role IN ('owner', 'member', 'viewer')", name="invitation_role"),
        CheckConstraint("accepted_at IS NULL OR revoked_at IS NULL", name="invitation_ends_once"),
        Index(
            "uq_invitation_open",
            "account_id",
            "email",
            unique=True,
            sqlite_where=text("accepted_at IS NULL AND revoked_at IS NULL"),
            postgresql_where=text("accepted_at IS NULL AND revoked_at IS NULL"),
        ),
    )

    id: str = Field(default_factory=lambda: new_id("inv"), primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    email: str
    role: str
    digest: str = Field(unique=True)
    invited_by: str = Field(foreign_key="user_.id")
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    expires_at: datetime = Field(sa_type=UTCDateTime)
    accepted_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


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
