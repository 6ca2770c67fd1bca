"""Links with a secret for one user, single use: to confirm his address, or to choose a new password.

Every function runs in the caller's transaction.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, update
from sqlmodel import Session, col, select

from core.db import utcnow
from core.errors import EmailLinkError
from core.identity import users
from core.identity.secret_digest import digest_secret
from core.identity.tables import EmailLink, User

# `printed` is one for a new password that the operator hands over; only what came by mail proves an address.
LIVES = {"confirm": timedelta(days=3), "reset": timedelta(hours=1), "printed": timedelta(hours=24)}
FOR_PASSWORD = ("reset", "printed")
FOR_CONFIRMING = ("confirm",)
# For so long a link that was used is told from one that never was.
KEPT = timedelta(days=7)


def issue_link(session: Session, user_id: str, kind: str) -> str:
    """The secret of a new link for a user; those that he has not used and that it takes the place of end with it.

    A stranger can ask for a `reset`: it ends no link that the operator handed over.
    """
    # Of two that are made at once one would not see the other.
    users.lock_user(session, user_id)
    secret, now = secrets.token_urlsafe(32), utcnow()
    end_links(session, user_id, FOR_PASSWORD if kind == "printed" else (kind,))
    digest, expires_at = digest_secret(secret), now + LIVES[kind]
    session.add(EmailLink(digest=digest, kind=kind, user_id=user_id, created_at=now, expires_at=expires_at))
    session.flush()
    return secret


def find_user(session: Session, secret: str, purpose: Collection[str]) -> User:
    """Whose link this is, which can be used now. Raises `EmailLinkError`."""
    found = session.exec(
        select(User)
        .join(EmailLink, col(EmailLink.user_id) == col(User.id))
        .where(*_usable(secret, purpose, utcnow()), col(User.disabled_at).is_(None))
    ).first()
    if found is None:
        raise _refused(session, secret)
    return found


def use_link(session: Session, secret: str, purpose: Collection[str]) -> tuple[str, str]:
    """Use up a link; gives its user's id and its kind. Raises `EmailLinkError`."""
    now = utcnow()
    # The user first, as everywhere.
    user_id = session.exec(select(EmailLink.user_id).where(*_usable(secret, purpose, now))).first()
    if user_id is not None:
        users.lock_user(session, user_id)
    enabled = select(User.id).where(col(User.disabled_at).is_(None))
    used = (
        update(EmailLink)
        .where(*_usable(secret, purpose, now), col(EmailLink.user_id).in_(enabled))
        .values(used_at=now)
        .returning(col(EmailLink.user_id), col(EmailLink.kind))
    )
    row = session.execute(used).first()
    if row is None:
        raise _refused(session, secret)
    return row[0], row[1]


def end_links(session: Session, user_id: str, kinds: Collection[str]) -> None:
    """Let no link of these kinds that a user has not used work any more; used ones go on saying that they were."""
    of_user = col(EmailLink.user_id) == user_id, col(EmailLink.kind).in_(kinds)
    session.execute(delete(EmailLink).where(*of_user, col(EmailLink.used_at).is_(None)))


def remove_links(session: Session, user_id: str) -> None:
    """Remove every link of a user, the used ones too."""
    session.execute(delete(EmailLink).where(col(EmailLink.user_id) == user_id))


def has_old(session: Session) -> bool:
    """Whether `forget_old` would find anything; a read."""
    return session.exec(select(EmailLink.digest).where(_old()).limit(1)).first() is not None


def forget_old(session: Session) -> None:
    """Remove what ended long ago."""
    session.execute(delete(EmailLink).where(_old()))


def _old() -> ColumnElement[bool]:
    return col(EmailLink.expires_at) < utcnow() - KEPT


def _usable(secret: str, purpose: Collection[str], now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        col(EmailLink.digest) == digest_secret(secret),
        col(EmailLink.kind).in_(purpose),
        col(EmailLink.used_at).is_(None),
        col(EmailLink.expires_at) > now,
    )


def _refused(session: Session, secret: str) -> EmailLinkError:
    row = session.get(EmailLink, digest_secret(secret))
    was_used = row is not None and row.used_at is not None
    return EmailLinkError(
        "This link was used already: ask for another if you need one."
        if was_used
        else "This link does not work: it is too old, or a newer one took its place. Ask for another.",
        was_used=was_used,
    )
