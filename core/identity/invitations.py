"""Invitations to an account: a secret code for one address, its SHA-256 in the database.

Every function runs in the caller's transaction.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, update
from sqlmodel import Session, col, select

from core.db import utcnow
from core.errors import InvitationError, InvitationNotFoundError
from core.identity.secret_digest import digest_secret
from core.identity.tables import Invitation

INVITATION_TTL = timedelta(days=7)

_OPEN = (col(Invitation.accepted_at).is_(None), col(Invitation.revoked_at).is_(None))


def issue_invitation(session: Session, *, account_id: str | None, email: str, role: str, invited_by: str) -> str:
    """A code with which a normalised address may join an account, or with None open one; an earlier one for it ends."""
    code = secrets.token_urlsafe(32)
    now = utcnow()
    _revoke(session, _of(account_id), col(Invitation.email) == email)
    session.add(
        Invitation(
            account_id=account_id,
            email=email,
            role=role,
            digest=digest_secret(code),
            invited_by=invited_by,
            created_at=now,
            expires_at=now + INVITATION_TTL,
        )
    )
    session.flush()
    return code


def require_invitation(session: Session, code: str, email: str) -> None:
    """Raise `InvitationError` unless there is one that this normalised address could accept now."""
    if session.exec(select(Invitation.id).where(*_acceptable(code, email))).first() is None:
        raise _refused()


def accept_invitation(session: Session, code: str, email: str) -> Invitation:
    """Use up an invitation of this normalised address. Raises `InvitationError`, whatever is wrong with it."""
    accepted = update(Invitation).where(*_acceptable(code, email)).values(accepted_at=utcnow())
    row = session.execute(accepted.returning(col(Invitation.id))).first()
    if row is None:
        raise _refused()
    return session.get_one(Invitation, row[0])


def _acceptable(code: str, email: str) -> tuple[ColumnElement[bool], ...]:
    return (
        col(Invitation.digest) == digest_secret(code),
        col(Invitation.email) == email,
        col(Invitation.expires_at) > utcnow(),
        *_OPEN,
    )


def _refused() -> InvitationError:
    return InvitationError(
        "This invitation cannot be used: enter the address that was invited, or ask for another invitation."
    )


def revoke_invitation(session: Session, account_id: str | None, invitation_id: str) -> None:
    """Withdraw an account's open invitation, or with None a new customer's. Raises `InvitationNotFoundError`."""
    if not _revoke(session, col(Invitation.id) == invitation_id, _of(account_id)):
        raise InvitationNotFoundError("There is no such open invitation: load the page again.")


def revoke_invitations_by(session: Session, user_id: str) -> int:
    """Withdraw whatever a user has invited and nobody accepted yet; gives how many these were."""
    return _revoke(session, col(Invitation.invited_by) == user_id)


def revoke_all(session: Session, account_id: str) -> int:
    """Withdraw whatever anybody of an account has invited and nobody accepted yet; gives how many these were."""
    return _revoke(session, col(Invitation.account_id) == account_id)


def forget_addresses(session: Session, account_id: str) -> None:
    """Take the addresses from an account's invitations, none of which is open any more."""
    session.execute(update(Invitation).where(col(Invitation.account_id) == account_id).values(email=""))


def forget_address(session: Session, email: str) -> None:
    """Take an address from the invitations of all accounts that are not open any more."""
    ended = col(Invitation.accepted_at).is_not(None) | col(Invitation.revoked_at).is_not(None)
    session.execute(update(Invitation).where(col(Invitation.email) == email, ended).values(email=""))


def has_old(session: Session) -> bool:
    """Whether `forget_old` would find anything; a read."""
    return session.exec(select(Invitation.id).where(*_expired()).limit(1)).first() is not None


def forget_old(session: Session) -> None:
    """Withdraw what nobody accepted in time: the address is nobody's to keep."""
    _revoke(session, *_expired())


def list_invitations(session: Session, account_id: str | None) -> Sequence[Invitation]:
    """The account's invitations that can still be accepted, or with None new customers', newest first."""
    return session.exec(
        select(Invitation)
        .where(_of(account_id), Invitation.expires_at > utcnow(), *_OPEN)
        .order_by(col(Invitation.created_at).desc(), col(Invitation.id))
    ).all()


def _of(account_id: str | None) -> ColumnElement[bool]:
    return col(Invitation.account_id).is_(None) if account_id is None else col(Invitation.account_id) == account_id


def _expired() -> tuple[ColumnElement[bool], ...]:
    return (col(Invitation.expires_at) < utcnow(), *_OPEN)


def _revoke(session: Session, *which: ColumnElement[bool]) -> int:
    revoked = session.execute(
        update(Invitation).where(*which, *_OPEN).values(revoked_at=utcnow(), email="").returning(col(Invitation.id))
    ).all()
    return len(revoked)
