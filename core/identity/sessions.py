"""Sessions: one opaque token in a cookie, its SHA-256 in the database; tickets that turn into one.

Every function runs in the caller's transaction.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from core.db import utcnow
from core.errors import SignInTicketError
from core.identity.tables import SignInTicket, User, UserSession

TICKET_TTL = timedelta(seconds=30)


def issue_ticket(session: Session, user_id: str) -> str:
    """A single-use ticket for somebody whose password was just verified."""
    secret = secrets.token_urlsafe(32)
    session.execute(delete(SignInTicket).where(col(SignInTicket.expires_at) < utcnow() - TICKET_TTL))
    session.add(SignInTicket(digest=_digest(secret), user_id=user_id, expires_at=utcnow() + TICKET_TTL))
    return secret


def exchange_ticket(session: Session, secret: str, *, session_ttl: timedelta) -> str:
    """Use up a ticket and open a session; gives the session's token. Raises `SignInTicketError`."""
    now = utcnow()
    enabled = select(User.id).where(col(User.disabled_at).is_(None))
    row = session.execute(
        update(SignInTicket)
        .where(
            col(SignInTicket.digest) == _digest(secret),
            col(SignInTicket.used_at).is_(None),
            col(SignInTicket.expires_at) > now,
            col(SignInTicket.user_id).in_(enabled),
        )
        .values(used_at=now)
        .returning(col(SignInTicket.user_id))
    ).first()
    if row is None:
        raise SignInTicketError("This sign-in took too long: sign in again.")
    token = secrets.token_urlsafe(32)
    session.add(UserSession(digest=_digest(token), user_id=row[0], expires_at=now + session_ttl))
    session.execute(update(User).where(col(User.id) == row[0]).values(last_sign_in_at=now))
    return token


def resolve_session(session: Session, token: str) -> User | None:
    """The signed-in user of a token, or None when it is unknown, expired or revoked, or the user was removed."""
    return session.exec(
        select(User)
        .join(UserSession, col(UserSession.user_id) == col(User.id))
        .where(
            UserSession.digest == _digest(token),
            col(UserSession.revoked_at).is_(None),
            UserSession.expires_at > utcnow(),
            col(User.disabled_at).is_(None),
        )
    ).first()


def revoke_session(session: Session, token: str) -> None:
    """End a session on the server; a copied cookie is worth nothing afterwards."""
    session.execute(
        update(UserSession)
        .where(col(UserSession.digest) == _digest(token), col(UserSession.revoked_at).is_(None))
        .values(revoked_at=utcnow())
    )


def revoke_all(session: Session, user_id: str) -> None:
    """End every session of a user, and the tickets that would open new ones."""
    now = utcnow()
    session.execute(
        update(UserSession)
        .where(col(UserSession.user_id) == user_id, col(UserSession.revoked_at).is_(None))
        .values(revoked_at=now)
    )
    session.execute(
        update(SignInTicket)
        .where(col(SignInTicket.user_id) == user_id, col(SignInTicket.used_at).is_(None))
        .values(used_at=now)
    )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
