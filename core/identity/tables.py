"""Tables of users, their invitations, sessions and API keys. Secrets are stored as digests only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlmodel import JSON, Column, Field, SQLModel

from core.db import UTCDateTime, new_id, utcnow


class User(SQLModel, table=True):
    """A person who signs in and belongs to one account, in a role: owners decide, members spend, viewers look.

    Whoever is removed from his account keeps this row, disabled, because the account's entries name it. If he is
    invited again he gets another row: nothing that hung on the old one comes to life with it. Of whoever deleted his
    account the row forgets the address; `forgotten_digest` only tells whether it was this one (`digest_email`).
    `welcome_due_since` is set while the welcome tokens wait for the address to be confirmed.
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
        Index(
            "ix_user_forgotten",
            "forgotten_digest",
            sqlite_where=text("forgotten_digest IS NOT NULL"),
            postgresql_where=text("forgotten_digest IS NOT NULL"),
        ),
    )

    id: str = Field(default_factory=lambda: new_id("user"), primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    email: str
    password_digest: str
    role: str = "owner"
    is_operator: bool = False  # runs the service; independent of the role in his account
    language: str = "en"
    time_zone: str | None = None  # an IANA name; None follows his browser
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    last_sign_in_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    disabled_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    forgotten_digest: str | None = None
    email_verified_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    welcome_due_since: datetime | None = Field(default=None, sa_type=UTCDateTime)


class Invitation(SQLModel, table=True):
    """An address that may join an account in a role, with a secret code: single use, seven days.

    It is open until it is accepted or revoked, and an account has one open invitation for an address at most. Without
    `account_id` the operator invites a new customer, who opens an account of his own.
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
    account_id: str | None = Field(default=None, foreign_key="account.id")
    email: str
    role: str
    digest: str = Field(unique=True)
    invited_by: str = Field(foreign_key="user_.id")
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    expires_at: datetime = Field(sa_type=UTCDateTime)
    accepted_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class UserSession(SQLModel, table=True):
    """One sign-in of one browser. The cookie holds the token, the table only its SHA-256.

    `browser` is its kind and system in two words; neither the address that it came from nor its full name is stored.
    """

    __tablename__ = "user_session"
    __table_args__ = (Index("uq_user_session_id", "id", unique=True),)

    digest: str = Field(primary_key=True)
    id: str = Field(default_factory=lambda: new_id("sess"))
    user_id: str = Field(foreign_key="user_.id", index=True)
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    expires_at: datetime = Field(sa_type=UTCDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    last_seen_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    browser: str = ""


class SignInTicket(SQLModel, table=True):
    """Carries a verified sign-in from the form to the route that sets the cookie: single use, 30 seconds."""

    __tablename__ = "sign_in_ticket"

    digest: str = Field(primary_key=True)
    user_id: str = Field(foreign_key="user_.id")
    expires_at: datetime = Field(sa_type=UTCDateTime)
    used_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class OidcIdentity(SQLModel, table=True):
    """Somebody at an identity provider, who signs in as a user of ours. What address he has there is not stored."""

    __tablename__ = "oidc_identity"

    issuer: str = Field(primary_key=True)
    subject: str = Field(primary_key=True)
    user_id: str = Field(foreign_key="user_.id", index=True)
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)


class OidcStart(SQLModel, table=True):
    """A sign-in that has begun at an identity provider: single use, ten minutes. The browser has what it digests."""

    __tablename__ = "oidc_start"

    digest: str = Field(primary_key=True)
    expires_at: datetime = Field(sa_type=UTCDateTime)


class SecondFactor(SQLModel, table=True):
    """What makes the codes of a user who turned a second factor on. There is no row for anybody else.

    The seed is encrypted (`core.seed_key`) with the key that `key_id` tells apart. `last_step` is the time step of the
    newest code that was taken: no code is taken twice. `failures` are the wrong ones since a right one.
    """

    __tablename__ = "second_factor"
    __table_args__ = (CheckConstraint("failures >= 0", name="second_factor_failures_not_negative"),)

    user_id: str = Field(foreign_key="user_.id", primary_key=True)
    sealed_seed: str
    key_id: str
    turned_on_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    last_step: int = Field(sa_type=BigInteger)
    failures: int = 0


class RecoveryCode(SQLModel, table=True):
    """Lets somebody in once without the device that makes his codes. The table holds only its SHA-256."""

    __tablename__ = "recovery_code"

    user_id: str = Field(foreign_key="user_.id", primary_key=True)
    digest: str = Field(primary_key=True)
    used_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class SignInStep(SQLModel, table=True):
    """A sign-in whose password was right and whose code is waited for: single use, five minutes, few wrong codes."""

    __tablename__ = "sign_in_step"

    digest: str = Field(primary_key=True)
    user_id: str = Field(foreign_key="user_.id", index=True)
    expires_at: datetime = Field(sa_type=UTCDateTime)
    wrong_codes: int = 0


class SignInAttempt(SQLModel, table=True):
    """One failed sign-in, kept to slow down guessing. The address is stored as a digest."""

    __tablename__ = "sign_in_attempt"
    __table_args__ = (Index("ix_attempt", "email_digest", "created_at"),)

    id: str = Field(default_factory=lambda: new_id("try"), primary_key=True)
    email_digest: str
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)


class EmailLink(SQLModel, table=True):
    """A secret for one user, single use: in a mail to confirm his address or for a new password, or printed for one by
    the operator. The table holds its SHA-256."""

    __tablename__ = "email_link"
    __table_args__ = (
        CheckConstraint("kind IN ('confirm', 'reset', 'printed')", name="email_link_kind"),
        Index("ix_email_link_user", "user_id", "kind"),
        Index("ix_email_link_expires_at", "expires_at"),
    )

    digest: str = Field(primary_key=True)
    kind: str
    user_id: str = Field(foreign_key="user_.id")
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    expires_at: datetime = Field(sa_type=UTCDateTime)
    used_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class SignUpLink(SQLModel, table=True):
    """A secret for whoever reads an address's mail, with which he opens an account: single use, nobody's until then.

    The table holds its SHA-256, and the address until the link is used.
    """

    __tablename__ = "sign_up_link"
    __table_args__ = (
        Index("ix_sign_up_link_email", "email"),
        Index("ix_sign_up_link_expires_at", "expires_at"),
    )

    digest: str = Field(primary_key=True)
    email: str
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    expires_at: datetime = Field(sa_type=UTCDateTime)
    used_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class ApiKey(SQLModel, table=True):
    """What a program signs in with. `prefix` is shown, the secret once, and `digest` is the SHA-256 of the secret.

    `models` and `networks` (CIDR) limit it, None to nothing. What it spends counts in `budget_id`, which a key that
    takes its place shares. A key that `manages_keys` may make, rotate and revoke others.
    """

    __tablename__ = "api_key"
    __table_args__ = (
        CheckConstraint("length(name) BETWEEN 1 AND 80", name="api_key_name"),
        Index("ix_api_key_prefix", "prefix"),
        Index("ix_api_key_account", "account_id", "created_at"),
    )

    id: str = Field(default_factory=lambda: new_id("key"), primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    created_by: str = Field(foreign_key="user_.id")
    name: str
    prefix: str
    digest: str = Field(unique=True)
    models: list[str] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    networks: list[str] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    budget_id: str = Field(foreign_key="budget.id")
    manages_keys: bool = False
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    last_used_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    replaced_by: str | None = None


class AuditEvent(SQLModel, table=True):
    """Who did what to what, and in which request; never changed or removed (triggers refuse it)."""

    __tablename__ = "audit_event"
    __table_args__ = (Index("ix_audit_event_account", "account_id", "created_at"),)

    id: str = Field(default_factory=lambda: new_id("audit"), primary_key=True)
    account_id: str | None = Field(default=None, foreign_key="account.id")
    actor: str
    action: str
    subject: str
    details: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    request_id: str | None = None
    created_at: datetime = Field(default_factory=utcnow, sa_type=UTCDateTime, index=True)
