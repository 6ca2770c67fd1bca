"""What a person does to his own sign-in: password, sessions, language and time zone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session

from core.identity import email_links, sessions, users
from core.identity.audit_log import record_event
from core.identity.tables import User
from core.services import sign_in
from core.services.application import Application


@dataclass(frozen=True, slots=True)
class SignedIn:
    """One open session of a user. `browser` is empty when its kind is not known."""

    id: str
    browser: str
    signed_in_at: datetime
    last_seen_at: datetime
    is_current: bool


@dataclass(frozen=True, slots=True)
class PasswordChanged:
    """How many other sessions ended, and the ticket for a new one in place of the own."""

    ended: int
    ticket: str


def change_password(app: Application, user: User, token: str, present: str, new: str) -> PasswordChanged:
    """Replace the password and end every session: that of `token`, whose cookie may have been copied, too.

    Raises `BadCredentialsError` for a wrong present password, `TooManyAttemptsError` or `WeakPasswordError`.
    """
    known = sign_in.check_present_password(app, user, present)
    password_digest = users.hash_password(new, email=user.email)
    with app.db.write() as session:
        users.replace_password(session, known, password_digest)
        ended = sessions.revoke_all(session, user.id, but=token)
        sessions.revoke_session(session, token)
        email_links.end_links(session, user.id, email_links.FOR_PASSWORD)
        _record(session, user, "user.change_password", user.id)
        return PasswordChanged(ended, sessions.issue_ticket(session, user.id))


def list_sessions(app: Application, user: User, token: str) -> Sequence[SignedIn]:
    """The user's open sessions, the one of `token` first, then those that were used last."""
    with app.db.read() as session:
        rows = sessions.list_sessions(session, user.id)
    found = [
        SignedIn(
            row.id, row.browser, row.created_at, row.last_seen_at or row.created_at, sessions.is_current(row, token)
        )
        for row in rows
    ]
    return sorted(found, key=lambda one: not one.is_current)


def revoke_session(app: Application, user: User, session_id: str) -> None:
    """End one of the user's own sessions. Raises `SessionNotFoundError` for any other, and for one that ended."""
    with app.db.write() as session:
        sessions.revoke_one(session, user.id, session_id)
        _record(session, user, "user.end_session", session_id)


def revoke_other_sessions(app: Application, user: User, token: str) -> int:
    """End every session of the user but that of `token`; gives their number."""
    with app.db.write() as session:
        ended = sessions.revoke_all(session, user.id, but=token)
        if ended:
            _record(session, user, "user.end_other_sessions", user.id)
    return ended


def set_language(app: Application, user: User, language: str) -> None:
    """Remember a user's language for his next browser."""
    with app.db.write() as session:
        users.set_language(session, user.id, language)


def set_time_zone(app: Application, user: User, time_zone: str | None) -> None:
    """Show a user's times in this zone (an IANA name), or with None in his browser's. Raises `InvalidTimeZoneError`."""
    with app.db.write() as session:
        users.set_time_zone(session, user.id, time_zone)
        _record(session, user, "user.set_time_zone", user.id)


def time_zones() -> Sequence[str]:
    """The time zones that can be chosen."""
    return users.time_zones()


def _record(session: Session, user: User, action: str, subject: str) -> None:
    record_event(session, actor=user.id, action=action, subject=subject, account_id=user.account_id)
