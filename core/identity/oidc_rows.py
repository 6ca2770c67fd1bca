"""Identities at a provider that belong to users, and sign-ins that have begun there. In the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete
from sqlmodel import Session, col, select

from core.db import utcnow
from core.identity.tables import OidcIdentity, OidcStart, User

START_TTL = timedelta(minutes=10)


def begin(session: Session, digest: str) -> None:
    """Remember a sign-in that begins, and forget those that nobody ended."""
    session.execute(delete(OidcStart).where(col(OidcStart.expires_at) < utcnow()))
    session.add(OidcStart(digest=digest, expires_at=utcnow() + START_TTL))


def use_up(session: Session, digest: str) -> bool:
    """Whether such a sign-in had begun within ten minutes; it can be ended once."""
    row = session.execute(
        delete(OidcStart).where(col(OidcStart.digest) == digest).returning(col(OidcStart.expires_at))
    ).first()
    return row is not None and row[0] > utcnow()


def find_user(session: Session, issuer: str, subject: str) -> User | None:
    """Whom an identity belongs to, if he can still sign in."""
    return session.exec(
        select(User)
        .join(OidcIdentity, col(OidcIdentity.user_id) == col(User.id))
        .where(OidcIdentity.issuer == issuer, OidcIdentity.subject == subject, col(User.disabled_at).is_(None))
    ).first()


def link(session: Session, user_id: str, issuer: str, subject: str) -> None:
    """Let an identity sign in as a user from now on. A row of somebody who was removed gives way."""
    session.execute(
        delete(OidcIdentity).where(col(OidcIdentity.issuer) == issuer, col(OidcIdentity.subject) == subject)
    )
    session.add(OidcIdentity(issuer=issuer, subject=subject, user_id=user_id))
    session.flush()


def list_of(session: Session, user_id: str) -> Sequence[OidcIdentity]:
    """The identities of a user, oldest first."""
    return session.exec(
        select(OidcIdentity).where(OidcIdentity.user_id == user_id).order_by(col(OidcIdentity.created_at))
    ).all()


def remove_of(session: Session, user_id: str, issuer: str | None = None) -> None:
    """Let no identity, or none of this issuer, sign in as this user any more."""
    of_issuer = () if issuer is None else (col(OidcIdentity.issuer) == issuer,)
    session.execute(delete(OidcIdentity).where(col(OidcIdentity.user_id) == user_id, *of_issuer))
