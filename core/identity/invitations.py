"""Invitations to an account: a secret code for one address, its SHA-256 in the database.

Every function runs in the caller's transaction.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, update
from sqlmodel import Session, col, select

from core.db import utcnow
from core.errors import InvitationError, InvitationNotFoundError
from core.identity.tables import Invitation

INVITATION_TTL = timedelta(days=7)

_OPEN = (col(Invitation.accepted_at).is_(None), col(Invitation.revoked_at).is_(None))


def issue_invitation(session: Session, *, account_id: str, email: str, role: str, invited_by: str) -> str:
    """A code with which a normalised address may join an account; an earlier one for it ends."""
    code = secrets.token_urlsafe(32)
    now = utcnow()
    _revoke(session, col(Invitation.account_id) == account_id, col(Invitation.email) == email)
    session.add(
        Invitation(
            account_id=account_id,
            email=email,
            role=role,
            digest=_digest(code),
            invited_by=invited_by,
            created_at=now,
            expires_at=now + INVITATION_TTL,
        )
    )
    session.flush()
    return code


def accept_invitation(session: Session, code: str, email: str) -> Invitation:
    """Use up an invitation of this normalised address. Raises `InvitationError`, whatever is wrong with it."""
    now = utcnow()
    row = session.execute(
        update(Invitation)
        .where(
            col(Invitation.digest) == _digest(code),
            col(Invitation.email) == email,
            col(Invitation.expires_at) > now,
            *_OPEN,
        )
        .values(accepted_at=now)
        .returning(col(Invitation.id))
    ).first()
    if row is None:
        raise InvitationError(
            "This invitation cannot be used: enter the address that was invited, or ask for another invitation."
        )
    return session.get_one(Invitation, row[0])


def revoke_invitation(session: Session, account_id: str, invitation_id: str) -> None:
    """Withdraw an account's open invitation. Raises `InvitationNotFoundError`."""
    if not _revoke(session, col(Invitation.id) == invitation_id, col(Invitation.account_id) == account_id):
        raise InvitationNotFoundError("There is no such open invitation: load the page again.")


def revoke_invitations_by(session: Session, user_id: str) -> None:
    """Withdraw whatever a user has invited and nobody accepted yet."""
    _revoke(session, col(Invitation.invited_by) == user_id)


def list_invitations(session: Session, account_id: str) -> Sequence[Invitation]:
    """The account's invitations that can still be accepted, newest first."""
    return session.exec(
        select(Invitation)
        .where(Invitation.account_id == account_id, Invitation.expires_at > utcnow(), *_OPEN)
        .order_by(col(Invitation.created_at).desc(), col(Invitation.id))
    ).all()


def _revoke(session: Session, *which: ColumnElement[bool]) -> bool:
    revoked = session.execute(
        update(Invitation).where(*which, *_OPEN).values(revoked_at=utcnow()).returning(col(Invitation.id))
    ).all()
    return bool(revoked)


def _digest(code: str) -> str:
    # Pasted text may hold what UTF-8 cannot: it is then simply no code of ours.
    return hashlib.sha256(code.encode(errors="replace")).hexdigest()
