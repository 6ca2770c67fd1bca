"""Signing up, alone or by invitation, in and out. The first user of an installation is its operator."""

from __future__ import annotations

import logging
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from core.db import one_at_a_time, utcnow
from core.errors import (
    BadCredentialsError,
    EmailTakenError,
    InvalidEmailError,
    MailFirstError,
    SecondFactorNeededError,
    SignUpClosedError,
)
from core.identity import invitations, second_factors, sessions, sign_in_steps, users
from core.identity.audit_log import record_event
from core.identity.browsers import describe_browser
from core.identity.tables import User
from core.ledger import ledger
from core.mail import outbox
from core.money import to_millitokens
from core.services.application import Application

log = logging.getLogger("visionmeter")


def sign_up(
    app: Application,
    email: str,
    password: str,
    *,
    language: str = "en",
    invitation: str | None = None,
    address: str | None = None,
) -> str:
    """Create an account with its welcome tokens, or join the one that an invitation's code names; gives a ticket.

    Where mails are sent, that is for the first user and for whoever was invited: the tokens wait for the address to be
    confirmed, and a mail asks for that. Everybody else begins with `sign_up_by_mail`. `address` is the network address
    that this comes from. Raises `InvalidEmailError`, `WeakPasswordError`, `EmailTakenError`, `InvitationError`,
    `SignUpClosedError`, `MailFirstError` or `TooManyFromHereError`.
    """
    app.rates.hit_client("sign_up", address)
    email = users.normalise_email(email)
    # Before anything that takes long: whom it is closed to should not cost that much.
    with app.db.read() as session:
        if invitation is None:
            require_open(app, session)
            _require_no_mail(app, session)
        else:
            invitations.require_invitation(session, invitation, email)
    password_digest = users.hash_password(password, email=email)
    email_digest = users.digest_email(email)
    with app.db.write() as session:
        # Two first users at once must not both become operators, nor two users share an address.
        one_at_a_time(session, "sign_up")
        if invitation is None:
            _require_no_mail(app, session)
        user = admit(
            app,
            session,
            email,
            password_digest=password_digest,
            email_digest=email_digest,
            language=language,
            invitation=invitation,
        )
        if app.smtp is not None and outbox.may_ask(session, "confirm", email):
            outbox.put_mail(session, "confirm", email, user_id=user.id)
        return sessions.issue_ticket(session, user.id)


def admit(
    app: Application,
    session: Session,
    email: str,
    *,
    password_digest: str,
    email_digest: str,
    language: str,
    invitation: str | None,
) -> User:
    """Somebody new, as the policy of sign-up lets him in: with an account of his own, or in the one that invited him.

    In the caller's transaction, who has it `one_at_a_time`. An empty `password_digest` is no password; `email_digest`
    is the normalised address's. Raises `EmailTakenError`, `InvitationError` or `SignUpClosedError`.
    """
    if invitation is None:
        require_open(app, session)
        invited = None
    else:
        # Before the address is looked for: only who was invited gets to know whether it is taken.
        invited = invitations.accept_invitation(session, invitation, email)
    if invited is None or invited.account_id is None:
        if invited is not None and app.settings.sign_up == "closed":
            raise SignUpClosedError("No new accounts are opened here.", policy="closed")
        if users.find_user(session, email) is not None:
            raise EmailTakenError("There is an account with this address: sign in instead.")
        may_welcome = not users.was_user(session, email, email_digest, is_proved=app.smtp is not None)
        user = _open_account(app, session, email, password_digest, language, may_welcome=may_welcome)
    else:
        user = users.add_user(
            session,
            account_id=invited.account_id,
            email=email,
            password_digest=password_digest,
            role=invited.role,
            language=language,
        )
    record_event(session, actor=user.id, action="user.sign_up", subject=user.id, account_id=user.account_id)
    return user


def sign_up_policy(app: Application) -> str:
    """Who may open an account now: `open`, `invitation` or `closed`; the first one can always be opened."""
    with app.db.read() as session:
        return app.settings.sign_up if users.has_operator(session) else "open"


def begins_with_mail(app: Application, session: Session) -> bool:
    """Whether whoever comes uninvited has to show first that he reads his address's mail: not the operator, who sets
    the mail up."""
    return app.smtp is not None and users.has_operator(session)


def _require_no_mail(app: Application, session: Session) -> None:
    # Before the address is looked for: a form that was drawn before there was an operator tells nobody who is here.
    if begins_with_mail(app, session):
        raise MailFirstError("An account begins with a mail here: load the page again, and enter the address alone.")


def require_open(app: Application, session: Session) -> None:
    """Raise `SignUpClosedError` unless anybody may open an account now."""
    policy = app.settings.sign_up
    if policy == "open" or not users.has_operator(session):
        return
    raise SignUpClosedError(
        "New accounts are by invitation: ask the operator for one."
        if policy == "invitation"
        else "No new accounts are opened here.",
        policy=policy,
    )


def _open_account(
    app: Application, session: Session, email: str, password_digest: str, language: str, *, may_welcome: bool
) -> User:
    # Somebody who was removed from a team, or deleted his account, was welcomed, or brought in, before.
    must_confirm = may_welcome and app.smtp is not None
    welcome_mt = to_millitokens(app.settings.welcome_tokens) if may_welcome and not must_confirm else 0
    account = ledger.open_account(session, email)
    user = users.add_user(
        session,
        account_id=account.id,
        email=email,
        password_digest=password_digest,
        role="owner",
        is_operator=not users.has_operator(session),
        language=language,
        welcome_due_since=utcnow() if must_confirm else None,
    )
    if welcome_mt:
        ledger.post_top_up(session, account.id, welcome_mt, source="house:welcome", actor=user.id, memo="welcome")
    return user


def sign_in(app: Application, email: str, password: str, *, address: str | None = None) -> str:
    """Check a password; gives a ticket for the session. `address` is the network address that this comes from.

    Raises `BadCredentialsError`, `TooManyAttemptsError`, or `TooManyFromHereError` before anything is looked up; and
    `SecondFactorNeededError`, with which `second_factor.sign_in` goes on, for whoever turned one on.
    """
    app.rates.hit_client("sign_in", address)
    try:
        counted_as = users.normalise_email(email)
    except InvalidEmailError:
        raise BadCredentialsError("The address or the password is wrong.") from None
    user = _check_password(app, email, password, counted_as=counted_as)
    with app.db.write() as session:
        # Between the check and now it may have been changed, and every session ended: this would be one more.
        users.require_same_password(session, user)
        if second_factors.find(session, user.id) is None:
            record_event(session, actor=user.id, action="user.sign_in", subject=user.id, account_id=user.account_id)
            return sessions.issue_ticket(session, user.id)
        step = sign_in_steps.issue_step(session, user.id)
    raise SecondFactorNeededError(step)


def check_present_password(app: Application, user: User, password: str) -> User:
    """Somebody who is signed in, as he is now, if the password is his.

    Failures are counted for him as a signed-in person, apart from failed sign-ins: a stolen session guesses no faster,
    and does not keep its owner from signing in. Raises `BadCredentialsError` or `TooManyAttemptsError`.
    """
    return _check_password(app, user.email, password, counted_as=f"present {user.id}")


def _check_password(app: Application, email: str, password: str, *, counted_as: str) -> User:
    """Who signs in with this valid address, if the password is his. `counted_as` is what failures count for."""
    with app.db.write() as session:
        # Counted before the password is checked: guesses made all at once count one by one.
        one_at_a_time(session, f"sign_in {counted_as}")
        users.require_few_attempts(session, counted_as, attempts_max=app.settings.sign_in_attempts_max)
        attempt_id = users.record_attempt(session, counted_as)
        user = users.find_typed(session, email)
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
