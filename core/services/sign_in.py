"""Signing up, alone or by invitation, in and out. The first user of an installation is its operator."""

from __future__ import annotations

import logging
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from core.db import one_at_a_time, utcnow
from core.errors import BadCredentialsError, EmailTakenError, InvalidEmailError
from core.identity import invitations, sessions, users
from core.identity.audit_log import record_event
from core.identity.browsers import describe_browser
from core.identity.tables import User
from core.ledger import ledger
from core.money import to_millitokens
from core.services.application import Application

log = logging.getLogger("visionmeter")


def sign_up(app: Application, email: str, password: str, *, language: str = "en", invitation: str | None = None) -> str:
    """Create an account with its welcome tokens, or join the one that an invitation's code names; gives a ticket.

    Raises `InvalidEmailError`, `WeakPasswordError`, `EmailTakenError` or `InvitationError`.
    """
    email = users.normalise_email(email)
    password_digest = users.hash_password(password)
    with app.db.write() as session:
        # Two first users at once must not both become operators, nor two users share an address.
        one_at_a_time(session, "sign_up")
        if users.find_user(session, email) is not None:
            raise EmailTakenError("There is an account with this address: sign in instead.")
        if invitation is None:
            user = _open_account(app, session, email, password_digest, language)
        else:
            invited = invitations.accept_invitation(session, invitation, email)
            user = users.add_user(
                session,
                account_id=invited.account_id,
                email=email,
                password_digest=password_digest,
                role=invited.role,
                language=language,
            )
        record_event(session, actor=user.id, action="user.sign_up", subject=user.id, account_id=user.account_id)
        return sessions.issue_ticket(session, user.id)


def _open_account(app: Application, session: Session, email: str, password_digest: str, language: str) -> User:
    # Somebody who was removed from a team was welcomed, or brought in, before.
    welcome_mt = 0 if users.was_user(session, email) else to_millitokens(app.settings.welcome_tokens)
    account = ledger.open_account(session, email)
    user = users.add_user(
        session,
        account_id=account.id,
        email=email,
        password_digest=password_digest,
        role="owner",
        is_operator=not users.has_operator(session),
        language=language,
    )
    if welcome_mt:
        ledger.post_top_up(session, account.id, welcome_mt, source="house:welcome", actor=user.id, memo="welcome")
    return user


def sign_in(app: Application, email: str, password: str) -> str:
    """Check a password; gives a ticket for the session. Raises `BadCredentialsError` or `TooManyAttemptsError`."""
    try:
        email = users.normalise_email(email)
    except InvalidEmailError:
        raise BadCredentialsError("The address or the password is wrong.") from None
    user = check_password(app, email, password)
    with app.db.write() as session:
        # Between the check and now it may have been changed, and every session ended: this would be one more.
        users.require_same_password(session, user)
        record_event(session, actor=user.id, action="user.sign_in", subject=user.id, account_id=user.account_id)
        return sessions.issue_ticket(session, user.id)


def check_password(app: Application, email: str, password: str) -> User:
    """Who signs in with this normalised address, if the password is his.

    Failures count as failed sign-ins, wherever the password is asked for: a stolen session guesses no faster. Raises
    `BadCredentialsError` or `TooManyAttemptsError`.
    """
    with app.db.write() as session:
        # Counted before the password is checked: guesses made all at once count one by one.
        one_at_a_time(session, f"sign_in {email}")
        users.require_few_attempts(session, email, attempts_max=app.settings.sign_in_attempts_max)
        attempt_id = users.record_attempt(session, email)
        user = users.find_user(session, email)
    user = users.check_credentials(user, password)
    with app.db.write() as session:
        users.forget_attempt(session, attempt_id)
    return user


def open_session(app: Application, ticket: str, *, user_agent: str = "") -> str:
    """Turn a ticket into a session; gives the token for the cookie. Raises `SignInTicketError`.

    Of the browser's `User-Agent` only its kind and system are stored.
    """
    with app.db.write() as session:
        return sessions.exchange_ticket(
            session,
            ticket,
            session_ttl=timedelta(hours=app.settings.session_ttl_h),
            browser=describe_browser(user_agent),
        )


def signed_in_user(app: Application, token: str | None) -> User | None:
    """The user of a cookie's token, or None."""
    if not token:
        return None
    with app.db.read() as session:
        found = sessions.resolve_session(session, token)
    if found is None:
        return None
    user, row = found
    if row.last_seen_at is None or row.last_seen_at < utcnow() - sessions.SEEN_EVERY:
        try:
            with app.db.write() as session:
                sessions.touch_session(session, row.digest)
        except SQLAlchemyError as error:
            # Who looks at a page must not depend on a database that can be written to.
            log.warning("when a session was last used could not be written down: %s", error)
    return user


def sign_out(app: Application, token: str) -> None:
    """End a session on the server."""
    with app.db.write() as session:
        sessions.revoke_session(session, token)
