"""Links with which whoever reads an address's mail opens an account with it: single use, for three days.

There is no user yet, and no password, which is chosen behind the link. Every function runs in the caller's transaction.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, update
from sqlmodel import Session, col, select

from core.db import utcnow
from core.errors import EmailLinkError
from core.identity.secret_digest import digest_secret
from core.identity.tables import SignUpLink

LIFE = timedelta(days=3)


def issue_link(session: Session, email: str) -> str:
    """The secret of a new link for a normalised address.

    Earlier ones go on working: a stranger's wish, or a mail that never arrives, must not end one that was delivered.
    """
    secret, now = secrets.token_urlsafe(32), utcnow()
    session.add(SignUpLink(digest=digest_secret(secret), email=email, created_at=now, expires_at=now + LIFE))
    session.flush()
    return secret


def find_email(session: Session, secret: str) -> str:
    """The address of a link that can be used now. Raises `EmailLinkError`."""
    email = session.exec(select(SignUpLink.email).where(*_usable(secret, utcnow()))).first()
    if email is None:
        raise _refused(session, secret)
    return email


def use_link(session: Session, secret: str) -> str:
    """Use up a link, and every other of its address; gives the address, which is kept no longer.

    Raises `EmailLinkError`.
    """
    email, now = find_email(session, secret), utcnow()
    used = update(SignUpLink).where(*_usable(secret, now)).values(used_at=now, email="")
    if session.execute(used.returning(col(SignUpLink.digest))).first() is None:
        raise _refused(session, secret)
    forget_address(session, email)
    return email


def forget_address(session: Session, email: str) -> None:
    """Remove every link of a normalised address that was not used."""
    session.execute(delete(SignUpLink).where(col(SignUpLink.email) == email))


def has_old(session: Session) -> bool:
    """Whether `forget_old` would find anything; a read."""
    return session.exec(select(SignUpLink.digest).where(_old()).limit(1)).first() is not None


def forget_old(session: Session) -> None:
    """Remove what is too old to be used: an address that somebody typed is nobody's to keep."""
    session.execute(delete(SignUpLink).where(_old()))


def _old() -> ColumnElement[bool]:
    return col(SignUpLink.expires_at) < utcnow()


def _usable(secret: str, now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        col(SignUpLink.digest) == digest_secret(secret),
        col(SignUpLink.used_at).is_(None),
        col(SignUpLink.expires_at) > now,
    )


def _refused(session: Session, secret: str) -> EmailLinkError:
    row = session.get(SignUpLink, digest_secret(secret))
    was_used = row is not None and row.used_at is not None
    return EmailLinkError(
        "This link was used already: sign in."
        if was_used
        else "This link does not work: it is too old, or another one opened the account. Ask for another.",
        was_used=was_used,
    )
