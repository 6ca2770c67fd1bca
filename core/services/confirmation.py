"""Confirming an address by a link that was mailed to it, and the welcome tokens that wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlmodel import Session

from core.errors import TooManyMailsError
from core.identity import email_links, users
from core.identity.audit_log import record_event
from core.identity.tables import User
from core.ledger import ledger
from core.ledger.posting import lock_account
from core.mail import outbox
from core.money import to_millitokens
from core.services.application import Application


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """An address that is not confirmed yet: what became of the last mail, and the milli-tokens that wait for it."""

    mail: Literal["none", "on its way", "sent", "given_up"]
    welcome_mt: int


@dataclass(frozen=True, slots=True)
class Confirmed:
    """An address that is now confirmed, and the milli-tokens that were given for it."""

    email: str
    welcome_mt: int


def find_unconfirmed(app: Application, user: User) -> Unconfirmed | None:
    """Where a user stands; None where his address is confirmed, or no mail is sent here."""
    if app.smtp is None or user.email_verified_at is not None:
        return None
    with app.db.read() as session:
        last = outbox.last_mail(session, user.id, "confirm")
    state: Literal["none", "on its way", "sent", "given_up"] = "none"
    if last is not None:
        state = "on its way" if last.outcome == "" else "given_up" if last.outcome == "given_up" else "sent"
    return Unconfirmed(state, to_millitokens(app.settings.welcome_tokens) if user.welcome_due_since else 0)


def ask_again(app: Application, user: User) -> None:
    """Mail another link; the ones before it end. Raises `TooManyMailsError` after five in an hour, or ten in a day."""
    with app.db.write() as session:
        if not outbox.may_ask(session, "confirm", user.email):
            raise TooManyMailsError(
                "Enough mails are on their way to this address: look where it keeps unwanted mail, or ask again in an "
                "hour."
            )
        outbox.put_mail(session, "confirm", user.email, user_id=user.id)


def look_at_link(app: Application, secret: str) -> str:
    """The address that a link would confirm; nothing is used up. Raises `EmailLinkError`."""
    with app.db.read() as session:
        return email_links.find_user(session, secret, email_links.FOR_CONFIRMING).email


def confirm(app: Application, secret: str) -> Confirmed:
    """Confirm the address that a link was mailed to, whoever is signed in. Raises `EmailLinkError`."""
    with app.db.write() as session:
        user = email_links.find_user(session, secret, email_links.FOR_CONFIRMING)
        # The account first, as everywhere: who deletes it at this moment has done so by now, or waits.
        lock_account(session, user.account_id)
        email_links.use_link(session, secret, email_links.FOR_CONFIRMING)
        return Confirmed(user.email, note_confirmed(app, session, user))


def note_confirmed(app: Application, session: Session, user: User) -> int:
    """Note that a user's address is his, and give the welcome tokens that waited for it; gives the milli-tokens.

    The account's row must be locked.
    """
    if user.email_verified_at is not None:
        return 0
    is_due = users.confirm_address(session, user.id)
    record_event(session, actor=user.id, action="user.confirm_address", subject=user.id, account_id=user.account_id)
    welcome_mt = to_millitokens(app.settings.welcome_tokens)
    if not is_due or not welcome_mt:
        return 0
    ledger.post_top_up(session, user.account_id, welcome_mt, source="house:welcome", actor=user.id, memo="welcome")
    return welcome_mt
