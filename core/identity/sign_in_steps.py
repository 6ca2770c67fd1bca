"""Sign-ins whose password was right and whose code is waited for. Every function runs in the caller's transaction."""

from __future__ import annotations

import secrets
from datetime import timedelta

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from core.db import utcnow
from core.errors import SignInStepError
from core.identity.secret_digest import digest_secret
from core.identity.tables import SignInStep

STEP_TTL = timedelta(minutes=5)
# Then the password is asked again: whoever guesses codes pays for each handful with a slow digest.
WRONG_CODES_MAX = 5


def issue_step(session: Session, user_id: str) -> str:
    """A secret with which a code may be shown for somebody whose password was just verified."""
    secret = secrets.token_urlsafe(32)
    now = utcnow()
    session.execute(delete(SignInStep).where(col(SignInStep.expires_at) < now))
    session.add(SignInStep(digest=digest_secret(secret), user_id=user_id, expires_at=now + STEP_TTL))
    return secret


def find_user_id(session: Session, secret: str) -> str:
    """Whose sign-in waits. Raises `SignInStepError`."""
    waiting = col(SignInStep.digest) == digest_secret(secret), col(SignInStep.expires_at) > utcnow()
    user_id = session.exec(select(SignInStep.user_id).where(*waiting)).first()
    if user_id is None:
        raise _ended()
    return user_id


def use_step(session: Session, secret: str) -> None:
    """Use it up. Raises `SignInStepError` for one that ended meanwhile."""
    waiting = col(SignInStep.digest) == digest_secret(secret), col(SignInStep.expires_at) > utcnow()
    if session.execute(delete(SignInStep).where(*waiting).returning(col(SignInStep.user_id))).first() is None:
        raise _ended()


def note_wrong_code(session: Session, secret: str) -> None:
    """Count a wrong code; the last of them ends it."""
    of_secret = col(SignInStep.digest) == digest_secret(secret)
    session.execute(update(SignInStep).where(of_secret).values(wrong_codes=col(SignInStep.wrong_codes) + 1))
    session.execute(delete(SignInStep).where(of_secret, col(SignInStep.wrong_codes) >= WRONG_CODES_MAX))


def _ended() -> SignInStepError:
    return SignInStepError("This sign-in took too long, or had too many wrong codes: sign in again.")
