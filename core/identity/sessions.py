"""Sessions: one opaque token in a cookie, its SHA-256 in the database; tickets that turn into one.

Every function runs in the caller's transaction.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, update
from sqlmodel import Session, col, select

from core.db import utcnow
from core.errors import SessionNotFoundError, SignInTicketError
from core.identity import users
from core.identity.secret_digest import digest_secret
from core.identity.tables import SignInStep, SignInTicket, User, UserSession

TICKET_TTL = timedelta(seconds=30)
# A page asks every second while a run lasts: not each of these is worth a write.
SEEN_EVERY = timedelta(minutes=5)


def issue_ticket(session: Session, user_id: str) -> str:
    """A single-use ticket for somebody whose password was just verified."""
    secret = secrets.token_urlsafe(32)
    session.execute(delete(SignInTicket).where(col(SignInTicket.expires_at) < utcnow() - TICKET_TTL))
    session.add(SignInTicket(digest=digest_secret(secret), user_id=user_id, expires_at=utcnow() + TICKET_TTL))
    return secret


def exchange_ticket(session: Session, secret: str, *, session_ttl: timedelta, browser: str = "") -> str:
    """Use up a ticket and open a session of a kind of browser; gives its token. Raises `SignInTicketError`."""
    now = utcnow()
    # The user first, as whoever ends his tickets does.
    user_id = session.exec(select(SignInTicket.user_id).where(SignInTicket.digest == digest_secret(secret))).first()
    if user_id is not None:
        users.lock_user(session, user_id)
    enabled = select(User.id).where(col(User.disabled_at).is_(None))
    row = session.execute(
        update(SignInTicket)
        .where(
            col(SignInTicket.digest) == digest_secret(secret),
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
    session.add(
        UserSession(
            digest=digest_secret(token), user_id=row[0], expires_at=now + session_ttl, last_seen_at=now, browser=browser
        )
    )
    session.execute(update(User).where(col(User.id) == row[0]).values(last_sign_in_at=now))
    return token


def resolve_session(session: Session, token: str) -> tuple[User, UserSession] | None:
    """The signed-in user of a token with his session.

    None when the token is unknown, expired or revoked, or the user was removed.
    """
    return session.exec(
        select(User, UserSession)
        .join(UserSession, col(UserSession.user_id) == col(User.id))
        .where(UserSession.digest == digest_secret(token), *_open_at(utcnow()), col(User.disabled_at).is_(None))
    ).first()


def touch_session(session: Session, digest: str) -> None:
    """Remember that a session was used now."""
    session.execute(update(UserSession).where(col(UserSession.digest) == digest).values(last_seen_at=utcnow()))


def shorten_session(session: Session, token: str, *, ends_at: datetime) -> None:
    """Let a session end at a moment, unless it ends before."""
    of_token = col(UserSession.digest) == digest_secret(token)
    session.execute(
        update(UserSession).where(of_token, col(UserSession.expires_at) > ends_at).values(expires_at=ends_at)
    )


def list_sessions(session: Session, user_id: str) -> Sequence[UserSession]:
    """A user's sessions that are open, the one used last first."""
    return session.exec(
        select(UserSession)
        .where(UserSession.user_id == user_id, *_open_at(utcnow()))
        .order_by(col(UserSession.last_seen_at).desc(), col(UserSession.created_at).desc(), col(UserSession.id))
    ).all()


def is_current(row: UserSession, token: str) -> bool:
    """Whether a session is the one of this token."""
    return row.digest == digest_secret(token)


def revoke_one(session: Session, user_id: str, session_id: str) -> None:
    """End one of a user's sessions. Raises `SessionNotFoundError` for another's, or one that ended."""
    if not _revoke(session, col(UserSession.user_id) == user_id, col(UserSession.id) == session_id):
        raise SessionNotFoundError("This sign-in has ended already: load the page again.")


def revoke_session(session: Session, token: str) -> None:
    """End a session on the server; a copied cookie is worth nothing afterwards."""
    _revoke(session, col(UserSession.digest) == digest_secret(token))


def revoke_all(session: Session, user_id: str, *, but: str | None = None) -> int:
    """End every session of a user, and the tickets and half-done sign-ins that would open new ones.

    `but` is the token of one that stays. Gives the number of sessions that ended.
    """
    which = [col(UserSession.user_id) == user_id, *_open_at(utcnow())]
    if but is not None:
        which.append(col(UserSession.digest) != digest_secret(but))
    session.execute(
        update(SignInTicket)
        .where(col(SignInTicket.user_id) == user_id, col(SignInTicket.used_at).is_(None))
        .values(used_at=utcnow())
    )
    session.execute(delete(SignInStep).where(col(SignInStep.user_id) == user_id))
    return _revoke(session, *which)


def remove_all(session: Session, user_id: str) -> None:
    """Remove every sign-in of a user, the ended ones too, and the tickets that would make another."""
    session.execute(delete(SignInStep).where(col(SignInStep.user_id) == user_id))
    session.execute(delete(SignInTicket).where(col(SignInTicket.user_id) == user_id))
    session.execute(delete(UserSession).where(col(UserSession.user_id) == user_id))


def _open_at(now: datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return col(UserSession.revoked_at).is_(None), col(UserSession.expires_at) > now


def _revoke(session: Session, *which: ColumnElement[bool]) -> int:
    revoked = session.execute(
        update(UserSession)
        .where(*which, col(UserSession.revoked_at).is_(None))
        .values(revoked_at=utcnow())
        .returning(col(UserSession.id))
    )
    return len(revoked.all())
